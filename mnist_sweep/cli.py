"""The console script ``mnist-sweep``: the arguments of its commands, lines on standard error, exit codes."""

import argparse
import importlib
import logging
import os
import runpy
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from mnist_sweep.errors import Interrupted, RequestError, RunFailure, signals_as_flag

log = logging.getLogger("mnist_sweep")

DONE, FAILED, WRONG = 0, 1, 2

HOST = "127.0.0.1"
_STORE = "sqlite:///mlruns/mlflow.db"


def log_to_stderr() -> None:
    """Send the package's log to standard error, the bare messages.

    Python's handler of last resort writes to what ``sys.stderr`` is at the time, which a progress bar may replace.
    """
    assert logging.lastResort is not None
    logging.lastResort.setLevel(logging.INFO)
    log.handlers = [logging.lastResort]
    log.setLevel(logging.INFO)
    log.propagate = False


class Parser(argparse.ArgumentParser):
    """An argument parser that raises a RequestError where argparse would print its usage and exit."""

    def error(self, message: str) -> NoReturn:
        raise RequestError(f"{message}; {self.prog} --help tells what is allowed")


def _store(parser: Parser) -> None:
    # an empty text counts as not given; to MLflow it would be a file
    default = os.environ.get("MLFLOW_TRACKING_URI") or _STORE
    told = f"MLflow's store (default: $MLFLOW_TRACKING_URI, else {_STORE})"
    parser.add_argument("--tracking-uri", metavar="URI", default=default, type=lambda uri: uri or default, help=told)


def add_model(parser: Parser) -> None:
    """Add the arguments that say which network."""
    default = "models:/mnist_sweep@champion, else models:/mnist_sweep_mnist5k@champion"
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--model", metavar="URI", help=f"a registered model (default: {default})")
    which.add_argument("--checkpoint", metavar="FILE", type=Path, help="the best.ckpt of a run")
    _store(parser)


def _port(text: str) -> int:
    """A port of this machine that a page can have."""
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, int(text)))
    except (OSError, OverflowError, ValueError) as error:
        raise RequestError(f"--port={text}: cannot be had ({error}); allowed: a free one of 1 … 65535") from error
    return int(text)


def _predict(parser: Parser) -> None:
    """Recognise handwritten digits, one line of JSON each; a table on a terminal."""
    parser.add_argument("images", nargs="+", metavar="IMAGE", type=Path, help="a PNG or JPEG file, or a folder of them")
    parser.add_argument("--json", action="store_true", help="lines of JSON also on a terminal")
    add_model(parser)


def _export(parser: Parser) -> None:
    """Write a network for use elsewhere."""
    parser.add_argument("--to", required=True, choices=("onnx", "safetensors"), help="the format")
    parser.add_argument("file", metavar="FILE", type=Path, help="to be written; it must not be there yet")
    add_model(parser)


def _ensemble(parser: Parser) -> None:
    """Average the probabilities of several trained networks, chosen on validation."""
    parser.add_argument("folders", nargs="+", metavar="FOLDER", type=Path, help="of a sweep, or of runs, at least two")
    parser.add_argument("--top", type=int, default=5, help="how many of a sweep's best runs (default: %(default)s)")
    parser.add_argument("--name", help="of the ensemble and its folder (default: that of the first folder, -ensemble)")
    told = "MLflow's store (default: that of the best member, if any)"
    parser.add_argument("--tracking-uri", metavar="URI", help=told)


def _demo(parser: Parser) -> None:
    """A page on this machine to draw a digit on."""
    parser.add_argument("--port", type=_port, default="7860", help="of the page (default: %(default)s)")
    add_model(parser)


def _ui(parser: Parser) -> None:
    """Open MLflow's UI on the runs and sweeps of this folder."""
    parser.add_argument("--port", type=_port, default="5000", help="of the page (default: %(default)s)")
    _store(parser)


def _scores(parser: Parser) -> None:
    """Train recipes over several seeds and print their test accuracies as a table."""
    parser.add_argument("recipes", nargs="*", metavar="RECIPE", help="options of experiment (default: those measured)")
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds: 0, 1, … (default: %(default)s)")
    parser.add_argument("--data", nargs="+", default=["mnist"], metavar="NAME", help="data sets (default: mnist)")
    parser.add_argument("--set", nargs="+", default=[], metavar="OVERRIDE", help="further overrides, such as output=…")


#: The commands beside a run or a sweep: their arguments, and the module whose ``perform(options)`` carries them out.
COMMANDS = {
    "predict": (_predict, "mnist_sweep.inference.predict"),
    "export": (_export, "mnist_sweep.inference.export"),
    "ensemble": (_ensemble, "mnist_sweep.inference.ensemble"),
    "demo": (_demo, "mnist_sweep.inference.demo"),
    "ui": (_ui, "mnist_sweep.ui"),
    "scores": (_scores, "mnist_sweep.scores"),
}


def perform(name: str, arguments: Sequence[str], prog: str | None = None) -> int:
    """Carry out one of `COMMANDS` and return its exit code.

    Args:
        name: of the command.
        arguments: those after the name.
        prog: how the command was called, for its help; None = ``python -m mnist_sweep.NAME``.

    Raises:
        RequestError: the arguments are wrong, or what they ask for cannot be done.
        RunFailure: the work failed.
    """
    add_arguments, module = COMMANDS[name]
    codes = "Exit codes: 0 done, 1 the work failed, 2 the request is wrong."
    parser = Parser(prog=prog or f"python -m mnist_sweep.{name}", description=add_arguments.__doc__, epilog=codes)
    add_arguments(parser)
    options = parser.parse_args(arguments)
    command: Any = importlib.import_module(module)  # heavy, so only once the arguments are right
    code: int = command.perform(options)
    return code


def run_command(command: Callable[[], int]) -> int:
    """Carry out a command, which returns its exit code; what it raises is told in one line on standard error.

    Returns:
        The exit code: the command's, 1 for a RunFailure, 2 for a RequestError, 128 + N for signal N.
    """
    log_to_stderr()
    try:
        with signals_as_flag():
            return command()
    except Interrupted as error:
        log.error("interrupted by %s", error)
        return error.exit_code
    except RequestError as error:
        log.error("error: %s", error)
        return WRONG
    except RunFailure as error:
        log.error("failed: %s", error)
        return FAILED


def _open_streams() -> None:
    """Lead closed standard streams (``2>&-``) nowhere, so that the next file to be opened does not get their number."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
            setattr(sys, name, os.fdopen(number, "w" if number else "r", closefd=False))


def leave(command: Callable[[], int]) -> NoReturn:
    """End the process with a command's exit code; without a traceback where nobody reads its output any more.

    Python's own advice: https://docs.python.org/3/library/signal.html#note-on-sigpipe
    """
    _open_streams()
    try:
        try:
            code = command()
        finally:  # also where argparse has printed its help and exits
            sys.stdout.flush()
    except BrokenPipeError:
        code = FAILED
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is flushed at the very end
    sys.exit(code)


def module_main(name: str) -> NoReturn:
    """``python -m mnist_sweep.NAME``."""
    leave(lambda: run_command(lambda: perform(name, sys.argv[1:])))


def main() -> None:
    """``mnist-sweep COMMAND …`` is one of `COMMANDS`; ``mnist-sweep [overrides]`` is ``python -m mnist_sweep``."""
    name, *arguments = sys.argv[1:] or [""]
    if name in COMMANDS:
        leave(lambda: run_command(lambda: perform(name, arguments, f"mnist-sweep {name}")))
    runpy.run_module("mnist_sweep", run_name="__main__", alter_sys=True)
