"""The console script ``mnist-sweep``, and what all commands share: lines on standard error, and exit codes."""

import argparse
import importlib
import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from mnist_sweep.errors import Interrupted, RequestError, RunFailure, signals_as_flag

log = logging.getLogger("mnist_sweep")

DONE, FAILED, WRONG = 0, 1, 2

#: The commands beside a run or a sweep. Each module has ``add_arguments(parser)`` and ``perform(options) -> exit code``.
COMMANDS = {
    "predict": "mnist_sweep.inference.predict",
    "export": "mnist_sweep.inference.export",
    "ensemble": "mnist_sweep.inference.ensemble",
    "demo": "mnist_sweep.inference.demo",
    "ui": "mnist_sweep.ui",
    "scores": "mnist_sweep.scores",
}


class _Stderr(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to what ``sys.stderr`` is at the time, since a progress bar may have replaced it."""

    @property
    def stream(self) -> Any:
        return sys.stderr

    @stream.setter
    def stream(self, _: Any) -> None:
        pass


def log_to_stderr() -> None:
    """Send the package's log to standard error, the bare messages."""
    handler = _Stderr()
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.handlers = [handler]
    log.setLevel(logging.INFO)
    log.propagate = False


class Parser(argparse.ArgumentParser):
    """An argument parser that raises a RequestError where argparse would print its usage and exit."""

    def error(self, message: str) -> NoReturn:
        raise RequestError(f"{message}; {self.prog} --help tells what is allowed")


def perform(name: str, arguments: Sequence[str], prog: str | None = None) -> int:
    """Carry out one of `COMMANDS`.

    Args:
        name: of the command.
        arguments: those after the name.
        prog: how the command was called, for its help; None = ``python -m mnist_sweep.NAME``.

    Returns:
        The exit code.

    Raises:
        RequestError: the arguments are wrong, or what they ask for cannot be done.
        RunFailure: the work failed.
    """
    module: Any = importlib.import_module(COMMANDS[name])
    parser = Parser(
        prog=prog or f"python -m mnist_sweep.{name}",
        epilog="Exit codes: 0 done, 1 the work failed, 2 the request is wrong.",
    )
    module.add_arguments(parser)
    code: int = module.perform(parser.parse_args(arguments))
    return code


def run_command(command: Callable[[], int]) -> int:
    """Carry out a command; what it raises is told in one line on standard error.

    Args:
        command: returns the exit code. It looks at `check_interrupted` between its steps.

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
    """Lead standard streams that are closed (``2>&-``) nowhere: the next file that is opened must not take their number."""
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


def main() -> NoReturn:
    """``mnist-sweep COMMAND …`` is a command; ``mnist-sweep [overrides]`` is ``python -m mnist_sweep [overrides]``."""
    if len(sys.argv) > 1 and (name := sys.argv[1]) in COMMANDS:
        leave(lambda: run_command(lambda: perform(name, sys.argv[2:], f"mnist-sweep {name}")))
    from mnist_sweep.__main__ import main as run_or_sweep

    leave(run_or_sweep)
