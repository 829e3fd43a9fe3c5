"""Real processes that are stopped: nothing is left RUNNING, and the same command goes on."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import optuna
import psutil
import pytest

from mnist_sweep.result import Result
from mnist_sweep.run_folder import RunFolder
from mnist_sweep.tracking.store import client_of
from tests.conftest import ROOT

pytestmark = pytest.mark.slow
LONG = ["data=mnist5k", "data.limit=500", "model.filters=[8]", "model.hidden=[16]", "trainer.threads=1"]
#: Trials that all have the same number of epochs.
SWEEP = [
    "+sweep=optuna",
    *LONG,
    "data.batch_size=20",
    "sweep/pruner=none",
    "sweep.winner.seeds=1",
    "sweep.winner.top=1",
]


@pytest.fixture
def folder(tmp_path: Path, empty_store: Path) -> Path:
    """To start in, with an MLflow database."""
    (tmp_path / "mlruns").mkdir()
    shutil.copy(empty_store, tmp_path / "mlruns" / "mlflow.db")
    return tmp_path


@contextlib.contextmanager
def started(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    environment = {key: value for key, value in os.environ.items() if key != "MNIST_SWEEP_DATA"}
    with subprocess.Popen(
        [sys.executable, "-m", "tests.faults.without_report", *arguments],
        cwd=folder,
        env={**environment, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
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


def statuses(folder: Path) -> dict[str, str]:
    """MLflow's runs by name, each of which is there once."""
    client = client_of(f"sqlite:///{folder}/mlruns/mlflow.db")
    found = client.search_runs([each.experiment_id for each in client.search_experiments()])
    assert len({run.info.run_name for run in found}) == len(found)
    return {run.info.run_name: run.info.status for run in found}


def trials(folder: Path) -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name="sweep", storage=f"sqlite:///{folder}/mlruns/optuna.db").trials


def states(folder: Path) -> list[str]:
    """Optuna's, once MLflow and the folders have been seen to tell the same of every trial."""
    told = {"COMPLETE": ("finished", "FINISHED"), "FAIL": ("failed", "FAILED"), "WAITING": ("interrupted", "KILLED")}
    runs, found = statuses(folder), [trial.state.name for trial in trials(folder)]
    assert "RUNNING" not in runs.values()
    for number, state in enumerate(found):
        name = f"sweep-{number:04d}"
        if state == "WAITING" and name not in runs:  # given to a worker that had not begun it
            assert not (folder / "mlruns/runs" / name).exists()
        else:
            assert (Result.read(folder / "mlruns/runs" / name).status, runs[name]) == told[state]
    return found


def stop_within_a_trial(process: subprocess.Popen[str], folder: Path) -> None:
    """Halt the sweep at a moment when a trial has begun in the study and has not left its result."""
    end = time.monotonic() + 300
    while time.monotonic() < end and process.poll() is None:
        process.send_signal(signal.SIGSTOP)
        with contextlib.suppress(Exception):  # halted in the middle of a transaction: the database is locked
            running = [trial.number for trial in trials(folder) if trial.state.name == "RUNNING"]
            if any(not (folder / f"mlruns/runs/sweep-{number:04d}/result.json").exists() for number in running):
                return
        process.send_signal(signal.SIGCONT)
        time.sleep(0.05)
    raise AssertionError("no trial was seen running")


@pytest.mark.fault(4)
def test_a_run_that_is_stopped_says_so(folder: Path) -> None:
    with started(folder, *LONG, "trainer.max_epochs=5000", "name=long") as process:
        wait_for(process, "epoch 3 of 5000")
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=100)
    assert (process.returncode, out) == (143, "mlruns/runs/long/result.json\n")
    result = json.loads((folder / out.strip()).read_text())
    assert result["status"] == "interrupted"
    assert result["epochs"] >= 3
    assert statuses(folder) == {"long": "KILLED"}


@pytest.mark.fault(4)
def test_a_sweep_that_is_stopped_and_then_killed_goes_on(folder: Path) -> None:
    sweep = [*SWEEP, "trainer.max_epochs=4", "sweep.trials=4"]
    with started(folder, *sweep, "sweep.workers=2") as process:
        wait_for(process, "trial 0 finished")
        time.sleep(0.3)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does it
        out, errors = process.communicate(timeout=100)
    assert (process.returncode, out) == (130, "mlruns/runs/sweep/sweep.json\n")
    assert "Traceback" not in errors
    assert "WAITING" in states(folder)
    assert json.loads((folder / out.strip()).read_text())["trials"]["complete"] >= 1
    with started(folder, *sweep, "sweep.workers=1") as process:
        wait_for(process, "resuming the study sweep")
        stop_within_a_trial(process, folder)
        workers = psutil.Process(process.pid).children()
        process.kill()
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert (len(workers) > 0, alive) == (True, [])
    assert "RUNNING" in [trial.state.name for trial in trials(folder)]
    with started(folder, *sweep, "sweep.workers=1") as process:
        out, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    content = json.loads((folder / out.strip()).read_text())
    assert (content["trials"], content["failures"]) == ({"complete": 4, "pruned": 0, "fail": 0}, {})
    assert states(folder) == ["COMPLETE"] * 4
    assert set(statuses(folder).values()) == {"FINISHED"}


@pytest.mark.fault(6)
def test_a_lost_worker_costs_one_attempt_and_a_terminated_one_none(folder: Path) -> None:
    """Of two trials the first is terminated, then killed, and finishes; the second is killed twice and has failed."""
    items = ["trainer.max_epochs=20", "sweep.trials=2", "sweep.workers=1", "~sweep.space.trainer"]
    with started(folder, *SWEEP, *items) as process:
        for number, attempt, signum in ((0, 1, 15), (0, 2, 9), (1, 1, 9), (1, 2, 9)):
            run = RunFolder(folder / f"mlruns/runs/sweep-{number:04d}")
            while not (run.path / "checkpoints" / "last.ckpt").exists() or run.progress().attempts < attempt:
                assert process.poll() is None
                time.sleep(0.02)
            (worker,) = psutil.Process(process.pid).children()
            worker.send_signal(signum)
            if signum == signal.SIGKILL:
                wait_for(process, "its worker died twice" if (number, attempt) == (1, 2) else "is tried once more")
        _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert states(folder) == ["COMPLETE", "FAIL"]
    finished, failed = trials(folder)
    first, second = (Result.read(folder / f"mlruns/runs/sweep-{number:04d}") for number in (0, 1))
    assert (first.attempts, first.epochs, len(finished.intermediate_values)) == (3, 20, 20)
    assert (second.attempts, second.reason, failed.user_attrs["reason"]) == (2, "crashed", "crashed")
    assert second.detail == "its worker died twice (killed by signal 9)"
    assert 0 < second.epochs < 20
    content = json.loads((folder / "mlruns/runs/sweep/sweep.json").read_text())
    assert (content["failures"], content["winner"]["trial"]) == ({"crashed": 1}, 0)


def test_a_run_goes_on_with_the_same_command_and_with_no_other(folder: Path) -> None:
    """Interrupted, then killed; the numbers are those of an undisturbed run, and nothing is left RUNNING."""
    items = [*LONG, "trainer.max_epochs=30", "trainer.accelerator=cpu", "trainer.precision=32"]
    with started(folder, *items, "name=long") as process:
        wait_for(process, "epoch 3 of 30")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=100)
    assert process.returncode == 130
    with started(folder, *items, "name=long", "optimizer.lr=0.1") as process:
        out, errors = process.communicate(timeout=100)
    assert (process.returncode, out, errors.count("\n")) == (2, "", 1)
    assert "name=long: mlruns/runs/long was begun otherwise (optimizer.lr: 0.001 → 0.1)" in errors
    with started(folder, *items, "name=long") as process:
        wait_for(process, "epoch 6 of 30")
        process.kill()
        process.communicate(timeout=100)
    assert statuses(folder) == {"long": "RUNNING"}
    with started(folder, *items, "name=whole") as process:
        out, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    assert statuses(folder) == {"long": "KILLED", "whole": "FINISHED"}
    with started(folder, *items, "name=long") as process:
        _, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    assert "epoch 3 of" not in errors
    assert statuses(folder) == {"long": "FINISHED", "whole": "FINISHED"}
    whole, long = (Result.read(folder / "mlruns/runs" / name) for name in ("whole", "long"))
    assert (long.metrics, long.history, long.attempts) == (whole.metrics, whole.history, 3)
    with started(folder, *items, "name=long") as process:
        _, errors = process.communicate(timeout=100)
    assert process.returncode == 2
    assert "is there already and has finished; allowed: another name, which trainer.init_from=" in errors
