"""A sweep's folder and its study are one process's at a time, and nobody else's."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import optuna
from filelock import FileLock, Timeout

from mnist_sweep.config.sweep_options import Sweep
from mnist_sweep.errors import RequestError
from mnist_sweep.result import is_run_of
from mnist_sweep.sweep.database import not_opened, storage_file
from mnist_sweep.sweep.study import Study


@contextlib.contextmanager
def alone(settings: Sweep, output: Path) -> Iterator[None]:
    """Hold the sweep's folder and its study, which may lie elsewhere: two drivers would write one number twice."""
    file = storage_file(settings)
    with contextlib.ExitStack() as stack:
        for folder in sorted({output.resolve(), file.resolve().parent if file else output.resolve()}):
            try:
                folder.mkdir(parents=True, exist_ok=True)
                stack.enter_context(FileLock(folder / f".sweep-{settings.name}.lock").acquire(timeout=0))
            except Timeout as error:
                raise RequestError(
                    f"sweep.name={settings.name}: another process is at this sweep; allowed: sweep.name=ANOTHER"
                ) from error
            except OSError as error:  # which a Timeout is, too
                raise not_opened(settings, error) from error
        yield


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a single run."""
    return (folder / "config.yaml").exists()


def refusal(settings: Sweep, taken: Path) -> RequestError:
    """What to say where a folder is not the sweep's own."""
    return RequestError(
        f"sweep.name={settings.name}: {taken} is there, but its study is not in {settings.storage}; "
        "allowed: sweep.name=ANOTHER"
    )


def check_folder(settings: Sweep, folder: Path, study: Study) -> None:
    """A sweep's folder is no run's, and what is named like the trials of a new one is not there yet."""
    taken = [folder] if is_run(folder) else []
    if not study.trials():
        runs = (path.parent for path in folder.parent.glob("*/config.yaml"))
        taken += sorted(path for path in runs if is_run_of(folder.name, path.name))
    if taken:
        if not study.trials():
            optuna.delete_study(study_name=settings.name, storage=study.storage.database)
        raise refusal(settings, taken[0])
    folder.mkdir(parents=True, exist_ok=True)
