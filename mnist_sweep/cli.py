"""The console script ``mnist-sweep``: the arguments of its commands, lines on standard error, exit codes."""

import argparse
import codecs
import importlib
import io
import logging
import os
import runpy
import socket
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from mnist_sweep import api
from mnist_sweep.config.paths import expanded
from mnist_sweep.errors import Interrupted, RequestError, RunFailure, signals_as_flag, without_passwords

log = logging.getLogger("mnist_sweep")

DONE, FAILED, WRONG = 0, 1, 2

HOST = "127.0.0.1"

#: The commands beside a run or a sweep: the module whose ``perform(options)`` carries each out, and what it does.
COMMANDS = {
    "predict": ("inference.predict", "Recognise handwritten digits, one line of JSON each; a table on a terminal."),
    "export": ("inference.export", "Write a network for use elsewhere."),
    "ensemble": ("inference.ensemble", "Average the probabilities of several networks, chosen on validation."),
    "demo": ("inference.demo", "A page on this machine to draw a digit on."),
    "ui": ("ui", "Open MLflow's UI on the runs and sweeps of this folder."),
    "sweeps": ("sweeps", "List the sweeps of a folder, or delete one: its study, folders and MLflow runs."),
    "report": ("report", "Make the report of a sweep, at any time, by what its study says now."),
    "sync": ("sync", "Tell MLflow what it could not be told while its server was away."),
    "scores": ("scores", "Train recipes over several seeds and print their test accuracies as a table."),
}


class Parser(argparse.ArgumentParser):
    """An argument parser that raises a RequestError where argparse would print its usage and exit."""

    def error(self, message: str) -> NoReturn:
        raise RequestError(f"{message}; {self.prog} --help tells what is allowed")


def _add_arguments(parser: Parser, name: str) -> None:
    """Add the arguments of one of `COMMANDS`."""
    add = parser.add_argument
    match name:
        case "predict":
            add("images", nargs="+", metavar="IMAGE", type=_path, help="a PNG or JPEG file, or a folder of them")
            add("--json", action="store_true", help="lines of JSON also on a terminal")
        case "export":
            add("--to", required=True, choices=("onnx", "safetensors"), help="the format")
            add("--opset", type=int, metavar="N", help="of the ONNX file's operators (default: as torch writes it)")
            add("file", metavar="FILE", type=_path, help="to be written; it must not be there yet")
        case "ensemble":
            add("folders", nargs="+", metavar="FOLDER", type=_path, help="of a sweep, or of runs, at least two")
            add("--top", type=int, default=5, help="how many of a sweep's best runs (default: %(default)s)")
            add("--name", help="of the ensemble and its folder (default: that of the first folder, -ensemble)")
            told = "MLflow's store (default: that of the best member, if any)"
            add("--tracking-uri", metavar="URI", type=_expanded, help=told)
        case "demo" | "ui":
            port = "7860" if name == "demo" else "5000"
            add("--port", type=_port, default=port, help="of the page (default: %(default)s)")
            if name == "ui":
                add("--host", default=HOST, help="address to serve at (default: %(default)s)")
                add("--open", action="store_true", help="open the page in a browser")
                parser.epilog = "Other options are handed to mlflow ui, such as --allowed-hosts."
        case "sweeps":
            add("words", nargs="*", metavar="FOLDER | delete NAME", help="to list (default: --output), or to delete")
            add("--output", default="mlruns", help="the folder with the sweeps (default: %(default)s)")
            add("--yes", action="store_true", help="delete without asking")
        case "sync":
            add("--output", default="mlruns", help="the folder with the runs (default: %(default)s)")
            told = "MLflow's store (default: that of each run's config)"
            add("--tracking-uri", metavar="URI", type=_expanded, help=told)
        case "report":
            add("folder", metavar="FOLDER", type=Path, help="of a sweep, such as mlruns/runs/sweep")
        case "scores":
            add("recipes", nargs="*", metavar="RECIPE", help="options of experiment (default: those measured)")
            add("--seeds", type=int, default=5, help="number of seeds: 0, 1, … (default: %(default)s)")
            add("--data", nargs="+", default=["mnist"], metavar="NAME", help="data sets (default: mnist)")
            add("--set", nargs="+", default=[], metavar="OVERRIDE", help="further overrides, such as output=…")
    if name in ("predict", "export", "demo"):
        add_model(parser)
    if name == "ui":
        _add_store(parser)


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that say which network; see `inference.load.chosen`."""
    default = "models:/mnist_sweep@champion, else models:/mnist_sweep_mnist5k@champion"
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--model", metavar="URI", help=f"a registered model (default: {default})")
    which.add_argument("--checkpoint", metavar="FILE", type=_path, help="the best.ckpt of a run")
    _add_store(parser)


def _add_store(parser: argparse.ArgumentParser) -> None:
    default = api.default_store()
    told = "MLflow's store (default: $MLFLOW_TRACKING_URI, else that of the runs in mlruns/)"
    parser.add_argument(
        "--tracking-uri", metavar="URI", default=default, type=lambda uri: _expanded(uri or default), help=told
    )


def _expanded(text: str) -> str:
    """An argument that is a path, or a URL of a file, with what ``~`` stands for."""
    try:
        return expanded(text)
    except ValueError as error:
        raise RequestError(f"{text}: {error}") from error


def _path(text: str) -> Path:
    return Path(_expanded(text))


def _port(text: str) -> int:
    """A port of this machine that a page can have."""
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, int(text)))
    except (OSError, OverflowError, ValueError) as error:
        raise RequestError(f"--port={text}: cannot be had ({error}); allowed: a free one of 1 … 65535") from error
    return int(text)


def perform(name: str, arguments: Sequence[str], prog: str | None = None) -> int:
    """Carry out one of `COMMANDS` and return its exit code; its help says that `prog` was called."""
    module, description = COMMANDS[name]
    codes = "Exit codes: 0 done, 1 the work failed, 2 the request is wrong."
    parser = Parser(prog=prog or f"python -m mnist_sweep.{name}", description=description, epilog=codes)
    _add_arguments(parser, name)
    options, rest = parser.parse_known_args(arguments)
    if rest and name != "ui":
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    options.rest = rest  # for MLflow
    command: Any = importlib.import_module(f"mnist_sweep.{module}")  # heavy, so only once the arguments are right
    code: int = command.perform(options)
    return code


class _Lines(logging.Formatter):
    """The bare message, or the traceback, without passwords."""

    def format(self, record: logging.LogRecord) -> str:
        return without_passwords(super().format(record))


def _show(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """Print the traceback of a bug, without passwords."""
    sys.stderr.write(without_passwords("".join(traceback.format_exception(kind, error, trace))))


def _as_file_names(error: UnicodeError) -> tuple[bytes, int]:
    """Characters that a stream's encoding lacks, as the bytes of a file's name: a printed path is still the file's."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return os.fsencode(error.object[error.start : error.end]), error.end


def log_to_stderr() -> None:
    """Send the package's log to standard error, the bare messages.

    Python's last resort writes to what ``sys.stderr`` is at the time, which a progress bar may replace.
    """
    assert logging.lastResort is not None
    logging.lastResort.setLevel(logging.INFO)
    logging.lastResort.setFormatter(_Lines())
    log.handlers = [logging.lastResort]
    log.setLevel(logging.INFO)
    log.propagate = False


def run_command(command: Callable[[], int]) -> int:
    """Carry out a command and return its exit code; what it raises is told in one line on standard error."""
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


def leave(command: Callable[[], int]) -> NoReturn:
    """End the process with a command's exit code; without a traceback where nobody reads its output any more.

    See https://docs.python.org/3/library/signal.html#note-on-sigpipe.
    """
    sys.excepthook = _show
    for name in ("stdout", "stderr"):  # None where it was closed at the start
        setattr(sys, name, getattr(sys, name) or Path(os.devnull).open("w"))  # noqa: SIM115  # as long as the process
    codecs.register_error("mnist_sweep", _as_file_names)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # else closed, or somebody's own
            stream.reconfigure(errors="mnist_sweep")
    try:
        try:
            code = run_command(command)
        finally:  # also where argparse has printed its help and exits
            sys.stdout.flush()
    except BrokenPipeError:
        code = FAILED
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is flushed at the very end
    sys.exit(code)


def module_main(name: str) -> NoReturn:
    """``python -m mnist_sweep.NAME``."""
    leave(lambda: perform(name, sys.argv[1:]))


def main() -> None:
    """``mnist-sweep COMMAND …`` is one of `COMMANDS`; ``mnist-sweep [overrides]`` is ``python -m mnist_sweep``."""
    name, *arguments = sys.argv[1:] or [""]
    if name in COMMANDS:
        leave(lambda: perform(name, arguments, f"mnist-sweep {name}"))
    runpy.run_module("mnist_sweep", run_name="__main__", alter_sys=True)
