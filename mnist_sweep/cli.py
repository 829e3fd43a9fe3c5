"""What the command lines have in common: lines on standard error, and exit codes."""

import argparse
import contextlib
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import yaml

from mnist_sweep.config import schema
from mnist_sweep.errors import Interrupted, RequestError, RunFailure, interruptible

log = logging.getLogger("mnist_sweep")

DONE, FAILED, WRONG = 0, 1, 2

#: Where the account is kept unless somebody says otherwise.
STORE = "sqlite:///mlruns/mlflow.db"
#: The models that ``predict`` and the others look for, the first that has a champion.
DIGITS = ("mnist", "mnist5k")


class _Stderr(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to what standard error is at the time, which a progress bar may have replaced."""

    @property
    def stream(self) -> Any:
        return sys.stderr

    @stream.setter
    def stream(self, _: Any) -> None:
        pass


def say_on_stderr() -> None:
    """Send the package's log to standard error, the bare messages."""
    handler = _Stderr()
    handler.setFormatter(logging.Formatter("%(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, as everywhere here."""

    def error(self, message: str) -> NoReturn:
        raise RequestError(f"{message}; {self.prog} --help tells what is allowed")


def parser(module: str, description: str) -> Parser:
    """The parser of ``python -m mnist_sweep.MODULE``."""
    return Parser(
        prog=f"python -m mnist_sweep.{module}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Exit codes: 0 done, 1 the work failed, 2 the request is wrong.",
    )


def add_model(arguments: argparse.ArgumentParser) -> None:
    """Let the user say which network."""
    which = arguments.add_mutually_exclusive_group()
    which.add_argument(
        "--model",
        metavar="URI",
        help="a registered model (default: models:/mnist_sweep@champion, else models:/mnist_sweep_mnist5k@champion)",
    )
    which.add_argument("--checkpoint", metavar="FILE", type=Path, help="the best.ckpt of a run")
    add_store(arguments)


def add_store(arguments: argparse.ArgumentParser) -> None:
    """Let the user say where MLflow keeps its account; an empty text counts as not given (to MLflow it is a file)."""
    default = os.environ.get("MLFLOW_TRACKING_URI") or STORE
    arguments.add_argument(
        "--tracking-uri",
        metavar="URI",
        default=default,
        type=lambda given: given or default,
        help=f"MLflow's store (default: $MLFLOW_TRACKING_URI, else {STORE})",
    )


@contextlib.contextmanager
def usable(said: str, allowed: str) -> Iterator[None]:
    """Turn an OSError within the block, of a file or folder that the system refuses, into a wrong request.

    Args:
        said: what named it, as the user gave it.
        allowed: in its place.

    Raises:
        RequestError: in one line, why.
    """
    try:
        yield
    except OSError as error:
        raise RequestError(f"{said}: {error.strerror}; allowed: {allowed}") from error


def check_writable(said: str, folder: Path) -> None:
    """Check that files can be made in a folder or, if it does not exist yet, in its nearest existing parent.

    Args:
        said: what named it, such as ``output=mlruns``.
        folder: where something is to be written.

    Raises:
        RequestError: it does not.
    """
    try:
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise RequestError(
            f"{said}: {folder} cannot be written ({error.strerror}); allowed: a folder that can"
        ) from error


def config_of(folder: Path) -> schema.Config:
    """What a run in this folder was asked for, by its ``config.yaml``.

    Raises:
        RequestError: there is none that can be read.
    """
    file = folder / "config.yaml"
    try:
        return schema.Config.model_validate(yaml.safe_load(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise RequestError(f"{file}: no config that can be read; allowed: the folder of a single run") from error


def classifier(options: argparse.Namespace) -> tuple[Any, str]:
    """The network that was asked for, and what to call it.

    Raises:
        RequestError: there is none.
    """
    from mnist_sweep import tracking
    from mnist_sweep.training import trained_model as inspection

    if options.checkpoint:
        return inspection.load(options.checkpoint), str(options.checkpoint)
    uri = options.model
    if uri is None:
        names = [tracking.registered_name(dataset) for dataset in DIGITS]
        uri = tracking.registered(options.tracking_uri, names) or f"models:/{names[0]}@champion"
    with tempfile.TemporaryDirectory() as folder:
        return inspection.load(tracking.checkpoint_of(uri, options.tracking_uri, Path(folder))), uri


def run(perform: Callable[[], int]) -> int:
    """Perform a command.

    Args:
        perform: returns the exit code.

    Returns:
        The exit code; errors have been told in one line each.
    """
    say_on_stderr()
    try:
        with interruptible():
            return perform()
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
    """Give a process whose standard streams are closed (``2>&-``) ones that lead nowhere, and keep their numbers taken.

    Else the next file that is opened would be standard error to the C library, which may write to it.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
            setattr(sys, name, os.fdopen(number, "w" if number else "r", closefd=False))


def leave(command: Callable[[], int]) -> NoReturn:
    """End the process with a command's exit code; without a traceback where nobody reads its output any more.

    Python's own advice: https://docs.python.org/3/library/signal.html#note-on-sigpipe
    """
    _open_streams()
    try:
        try:
            code = command()
        finally:  # also where argparse has printed its help and leaves
            sys.stdout.flush()
    except BrokenPipeError:
        code = FAILED
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is flushed at the very end
    sys.exit(code)
