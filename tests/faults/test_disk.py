"""A disk that is full, and folders that belong to somebody else."""

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
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


def run(folder: Path, *arguments: str, before: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "MNIST_SWEEP_DATA"}
    return subprocess.run(
        [*before, sys.executable, "-m", "tests.faults.without_report", *arguments], cwd=folder, timeout=300,
        env={**environment, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
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
    if os.geteuid() != 0 or not shutil.which("setpriv"):
        pytest.skip("only root, with setpriv, can be two users")
    one_of_many = ["setpriv", "--bounding-set=-dac_override,-dac_read_search,-fowner"]
    sweep = [*SWEEP, "sweep.trials=1"]
    assert run(tmp_path, *sweep).returncode == 0
    output = tmp_path / "mlruns"
    for path in (output, *output.rglob("*")):
        os.chown(path, 65534, os.getgid())
    other = run(tmp_path, *sweep, "sweep.name=other", before=one_of_many)
    assert other.returncode == 2, other.stderr
    (line,) = other.stderr.strip().splitlines()
    assert "mlruns" in line
    assert "umask 002" in line
    for path in (output, *output.rglob("*")):  # as the other user's umask 002 would have made them
        path.chmod(0o775 if path.is_dir() else 0o664)
    done = run(tmp_path, *sweep, "sweep.name=other", before=one_of_many)
    assert done.returncode == 0, done.stderr
