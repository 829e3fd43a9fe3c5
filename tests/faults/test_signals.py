"""Real processes that are stopped: nothing is left RUNNING, and the same command goes on."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest

from mnist_sweep import tracking
from mnist_sweep.errors import Interrupted, interruptible, uninterrupted
from tests.conftest import ROOT

LONG = ["data=mnist5k", "data.limit=500", "model.filters=[8]", "model.hidden=[16]", "trainer.threads=1"]
#: Trials that all have the same number of epochs, a dozen in all.
SWEEP = [
    "+sweep=optuna",
    *LONG,
    "trainer.max_epochs=4",
    "sweep.trials=12",
    "sweep.winner.seeds=1",
    "data.batch_size=20",
    "sweep/pruner=none",
]


@contextlib.contextmanager
def started(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    environment = {key: value for key, value in os.environ.items() if key != "MNIST_SWEEP_DATA"}
    with subprocess.Popen(
        [sys.executable, "-m", "mnist_sweep", *arguments],
        cwd=folder,
        env={**environment, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for(process: subprocess.Popen[str], words: str) -> None:
    """Read its log until a line has these words."""
    assert process.stderr is not None
    seen = []
    for line in process.stderr:
        seen.append(line)
        if words in line:
            return
    raise AssertionError("".join(seen))


def statuses(folder: Path) -> list[str]:
    client = tracking._client(f"sqlite:///{folder}/mlruns/mlflow.db")
    experiment = client.get_experiment_by_name("mnist_sweep")
    return sorted(run.info.status for run in client.search_runs([experiment.experiment_id]))


def states(folder: Path) -> list[str]:
    study = optuna.load_study(study_name="sweep", storage=f"sqlite:///{folder}/mlruns/optuna.db")
    return [trial.state.name for trial in study.trials]


def stop_within_a_trial(process: subprocess.Popen[str], folder: Path) -> None:
    """Halt the process at a moment when a trial has begun in the study and has not left its result."""
    for _ in range(200):
        process.send_signal(signal.SIGSTOP)
        with contextlib.suppress(Exception):  # halted in the middle of a transaction: the database is locked
            begun = states(folder)
            if begun[-1] == "RUNNING" and not (folder / f"mlruns/runs/sweep-{len(begun) - 1:04d}/result.json").exists():
                return
        process.send_signal(signal.SIGCONT)
        time.sleep(0.05)
    raise AssertionError("no trial was seen running")


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_that_is_stopped_says_so(tmp_path: Path, signum: int, code: int) -> None:
    with started(tmp_path, *LONG, "trainer.max_epochs=500", "name=long") as process:
        wait_for(process, "epoch 3 of 500")
        process.send_signal(signum)
        out, _ = process.communicate(timeout=100)
    assert process.returncode == code
    assert out == "mlruns/runs/long/result.json\n"
    result = json.loads((tmp_path / out.strip()).read_text())
    assert result["status"] == "interrupted"
    assert result["epochs"] >= 3
    assert statuses(tmp_path) == ["KILLED"]


def test_a_sweep_that_is_stopped_goes_on(tmp_path: Path) -> None:
    with started(tmp_path, *SWEEP) as process:
        wait_for(process, "trial 2 finished")
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=100)
    assert (process.returncode, out) == (130, "mlruns/runs/sweep/sweep.json\n")
    assert "RUNNING" not in statuses(tmp_path)
    assert "RUNNING" not in states(tmp_path)
    content = json.loads((tmp_path / "mlruns/runs/sweep/sweep.json").read_text())
    assert content["trials"]["complete"] >= 3
    with started(tmp_path, *SWEEP) as process:
        out, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    content = json.loads((tmp_path / out.strip()).read_text())
    assert content["trials"]["complete"] == 12
    assert content["trials"]["fail"] == content["failures"].get("interrupted", 0)
    assert set(statuses(tmp_path)) <= {"FINISHED", "KILLED"}


def test_a_sweep_whose_process_is_killed_goes_on(tmp_path: Path) -> None:
    with started(tmp_path, *SWEEP) as process:
        wait_for(process, "trial 2 finished")
        stop_within_a_trial(process, tmp_path)
        process.kill()
    assert states(tmp_path)[-1] == "RUNNING"
    with started(tmp_path, *SWEEP) as process:
        out, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert states(tmp_path).count("COMPLETE") == 12
    assert set(states(tmp_path)) == {"COMPLETE", "FAIL"}
    assert json.loads((tmp_path / out.strip()).read_text())["failures"] == {"crashed": 1}
    left = statuses(tmp_path)  # the process may have died before the trial's run in MLflow was made
    assert left.count("FINISHED") == 12 + 1 + 1  # the trials, the sweep, the winner
    assert left.count("FAILED") == len(left) - 14 <= 1


def test_a_signal_waits_while_records_are_made() -> None:
    made = []

    def record() -> None:
        with uninterrupted():
            os.kill(os.getpid(), signal.SIGTERM)
            made.append("account")
            made.append("file")
        made.append("never")

    with interruptible(), pytest.raises(Interrupted) as caught:
        record()
    assert made == ["account", "file"]
    assert caught.value.exit_code == 143


def test_the_handlers_that_were_there_come_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    with interruptible():
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before
