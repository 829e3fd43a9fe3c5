"""A disk that is full, and folders that belong to somebody else."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import optuna
import pytest

from mnist_sweep.result import Result
from tests.conftest import ROOT, SMALL

pytestmark = pytest.mark.slow
SWEEP = [
    "+sweep=optuna", *SMALL, "model.hidden=[200]", "sweep/sampler=random", "sweep/pruner=none", "sweep.trials=2",
    "sweep/space=empty", "++sweep.space={optimizer: {lr: {low: 0.0003, high: 0.03, log: true}}}",
    "sweep.winner.top=1", "sweep.winner.seeds=1", "launcher=inline",
]  # fmt: skip


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Gives a small disk of this size, empty at first; called again, the same one with another size."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = contextlib.ExitStack()

    def sized(size: str) -> Path:
        option = f"remount,size={size}" if os.path.ismount(folder) else f"size={size}"
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", option, "none", str(folder)], capture_output=True)
        if done.returncode:
            pytest.skip("no disk can be mounted here")
        mounted.callback(subprocess.run, ["umount", "-l", str(folder)], capture_output=True)
        return folder

    with mounted:
        yield sized


def run(folder: Path, *arguments: str, user: int | None = None) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "MNIST_SWEEP_DATA"}
    return subprocess.run(
        [sys.executable, "-m", "mnist_sweep", *arguments], cwd=folder, user=user, timeout=300, check=False,
        env={**environment, "PYTHONPATH": str(ROOT), "HOME": str(folder)}, capture_output=True, text=True,
    )  # fmt: skip


@pytest.mark.fault(9)
@pytest.mark.parametrize("size", ["180k", "400k"])  # full at the study's first writes; at a checkpoint
def test_a_full_disk_stops_a_sweep_in_order_and_it_goes_on(disk: Callable[[str], Path], size: str) -> None:
    folder = disk(size)
    full = run(folder, *SWEEP)
    assert full.returncode in (1, 2), full.stderr
    assert "Traceback" not in full.stderr
    assert "full" in full.stderr.splitlines()[-1] or "No space left" in full.stderr.splitlines()[-1]
    disk("60m")
    done = run(folder, *SWEEP)
    assert done.returncode == 0, done.stderr
    study = optuna.load_study(study_name="sweep", storage=f"sqlite:///{folder}/mlruns/optuna.db")
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 2
    for number in range(2):
        assert Result.read(folder / f"mlruns/runs/sweep-{number:04d}").status == "finished"
    assert not [*folder.glob("mlruns/runs/*/.result*"), *folder.glob("mlruns/runs/*/checkpoints/*.part")]


@pytest.mark.fault(18)
def test_what_another_user_owns_is_named_with_the_remedy(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can be two users")
    tmp_path.chmod(0o777)
    for above in tmp_path.parents:
        with contextlib.suppress(PermissionError):
            above.chmod(above.stat().st_mode | 0o055)
    sweep = [*SWEEP, "sweep.trials=1"]
    first = run(tmp_path, *sweep)
    assert first.returncode == 0, first.stderr
    other = run(tmp_path, *sweep, "sweep.name=other", user=65534)
    assert other.returncode == 2, other.stderr
    (line,) = other.stderr.strip().splitlines()
    assert "mlruns" in line
    assert "umask 002" in line
    for path in (tmp_path / "mlruns").rglob("*"):  # as umask 000 would have made them
        path.chmod(0o777 if path.is_dir() else 0o666)
    (tmp_path / "mlruns").chmod(0o777)
    assert run(tmp_path, *sweep, "sweep.name=other", user=65534).returncode == 0
