"""A sweep's folder and its study belong to one process at a time."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from mnist_sweep import run_folder
from mnist_sweep.config.sweep_options import Sweep
from mnist_sweep.errors import RequestError
from mnist_sweep.result import is_run_of
from mnist_sweep.sweep.storage import not_opened, storage_file


@contextlib.contextmanager
def locked(settings: Sweep, output: Path) -> Iterator[None]:
    """Hold the sweep's folder and its study, which may lie elsewhere.

    Raises:
        RequestError: another process works on this sweep, or a folder cannot be written.
    """
    folders = {output.resolve()}
    if file := storage_file(settings):
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise not_opened(settings, error) from error
        folders.add(file.parent.resolve())
    message = f"sweep.name={settings.name}: another process is at this sweep; allowed: sweep.name=ANOTHER"
    with contextlib.ExitStack() as stack:
        for folder in sorted(folders):
            stack.enter_context(run_folder.lock(folder / f".sweep-{settings.name}.lock", message))
        yield


def check_folders(settings: Sweep, folder: Path, *, new: bool) -> None:
    """Check that a sweep's folder is no run's and, of a new sweep, that no run is named like its trials.

    Raises:
        RequestError: one is.
    """
    for path in sorted(path.parent for path in folder.parent.glob("*/config.yaml")):
        if path == folder or (new and is_run_of(folder.name, path.name)):
            where = f"{path} is there, but its study is not in {settings.storage}"
            raise RequestError(f"sweep.name={settings.name}: {where}; allowed: sweep.name=ANOTHER")
