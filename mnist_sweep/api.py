"""What ``import mnist_sweep`` offers: train a network, run a sweep, load a model, recognise pictures.

Nothing heavy is imported before it is needed, since each process of the package imports this module.
"""

import contextlib
import secrets
import tempfile
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from mnist_sweep.config.command import CommandLine
from mnist_sweep.config.overrides import key_of
from mnist_sweep.errors import Interrupted, RequestError, signals_as_flag

if TYPE_CHECKING:
    from mnist_sweep.result import Result


def check_output(output: str) -> None:
    """Check that runs can be written below ``output``; nothing is left there.

    Raises:
        RequestError: they cannot.
    """
    folder = Path(output) / "runs"
    try:
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise RequestError(
            f"output={output}: {folder} cannot be written ({error.strerror}); allowed: a folder that can"
        ) from error


def prepare(command: CommandLine) -> CommandLine:
    """Have the data of a run or a sweep on disk and, of a run, a name.

    A missing data set is downloaded. Where that fails, ``data.fallback`` takes its place, after a warning.

    Args:
        command: of a run or a sweep.

    Returns:
        The command line to carry out: with the data set that is used, and the name of the run.

    Raises:
        RequestError: a data file is damaged, or the data cannot be had and there is no fallback.
    """
    from mnist_sweep.training import datasets

    config = command.config
    used = datasets.obtain(config.data)
    if used != config.data.name:
        command = _with_data(command, used)
    if config.sweep is None and config.name is None:
        command = command.with_(name=f"{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}")
    return command


def _with_data(command: CommandLine, name: str) -> CommandLine:
    """The command line with another data set, whichever way it named its own."""
    values = {"data": name}
    if "data.name" in command.assigned():  # as data={name: mnist}
        values["data.name"] = name
    others = [item for item in command.overrides if key_of(item) != "data.name"]
    return CommandLine.of(others, command.config_dir).with_(values)


@contextlib.contextmanager
def _ctrl_c() -> Iterator[None]:
    """Within, a signal ends the work after everything has been recorded, as a KeyboardInterrupt or a SystemExit."""
    try:
        with signals_as_flag():
            yield
    except Interrupted as error:
        if error.exit_code == 130:
            raise KeyboardInterrupt from error
        raise SystemExit(error.exit_code) from error


def train(*overrides: str, config_dir: str | Path | None = None) -> "Result":
    """Train one network, as ``python -m mnist_sweep`` does, and measure it on the test set.

    Args:
        overrides: as on the command line: ``train("experiment=balanced", "seed=1")``.
        config_dir: a further folder of configs, as with ``--config-dir``.

    Returns:
        What came out: status, metrics, history, command, folder. A run that failed says why in ``reason`` and ``detail``.

    Raises:
        RequestError: the request cannot be carried out.
        KeyboardInterrupt: Ctrl-C, after everything has been recorded.
    """
    command = CommandLine.of(overrides, config_dir)
    if command.config.sweep:
        raise RequestError("train: these overrides are a sweep's; allowed: mnist_sweep.sweep(…)")
    check_output(command.config.output)
    command = prepare(command)
    from mnist_sweep import run

    with _ctrl_c():
        return run.train(command, test=True)
