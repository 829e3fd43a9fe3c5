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
import psutil
import pytest

from mnist_sweep.errors import Interrupted, check_interrupted, interruptible, uninterrupted
from mnist_sweep.result import Result
from mnist_sweep.tracking.store import client_of
from tests.conftest import ROOT

LONG = ["data=mnist5k", "data.limit=500", "model.filters=[8]", "model.hidden=[16]", "trainer.threads=1"]
#: Trials that all have the same number of epochs, four in all.
SWEEP = [
    "+sweep=optuna",
    *LONG,
    "trainer.max_epochs=4",
    "sweep.trials=4",
    "sweep.winner.seeds=1",
    "data.batch_size=20",
    "sweep/pruner=none",
    "sweep.workers=2",
    "sweep.winner.top=1",
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


def statuses(folder: Path) -> list[str]:
    client = client_of(f"sqlite:///{folder}/mlruns/mlflow.db")
    experiment = client.get_experiment_by_name("mnist_sweep")
    return sorted(run.info.status for run in client.search_runs([experiment.experiment_id]))


def states(folder: Path) -> list[str]:
    study = optuna.load_study(study_name="sweep", storage=f"sqlite:///{folder}/mlruns/optuna.db")
    return [trial.state.name for trial in study.trials]


def trials(folder: Path) -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name="sweep", storage=f"sqlite:///{folder}/mlruns/optuna.db").trials


def agree(folder: Path) -> None:
    """Optuna, MLflow and the folders tell the same of every trial, each of which is there once."""
    client = client_of(f"sqlite:///{folder}/mlruns/mlflow.db")
    experiment = client.get_experiment_by_name("mnist_sweep")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert len(runs) == len(client.search_runs([experiment.experiment_id]))
    for trial in trials(folder):
        name = f"sweep-{trial.number:04d}"
        if trial.state.name == "WAITING" and name not in runs:  # given to a worker that had not begun it
            assert not (folder / "mlruns/runs" / name).exists()
            continue
        status = Result.read(folder / "mlruns/runs" / name).status
        expected = {
            "COMPLETE": ("finished", "FINISHED"),
            "PRUNED": ("pruned", "KILLED"),
            "FAIL": ("failed", "FAILED"),
            "WAITING": ("interrupted", "KILLED"),
        }[trial.state.name]
        assert (status, runs[name].info.status) == expected


def stop_within_a_trial(process: subprocess.Popen[str], folder: Path) -> None:
    """Halt the sweep at a moment when a trial has begun in the study and has not left its result."""
    for _ in range(200):
        process.send_signal(signal.SIGSTOP)
        with contextlib.suppress(Exception):  # halted in the middle of a transaction: the database is locked
            running = [trial.number for trial in trials(folder) if trial.state.name == "RUNNING"]
            if any(not (folder / f"mlruns/runs/sweep-{number:04d}/result.json").exists() for number in running):
                return
        process.send_signal(signal.SIGCONT)
        time.sleep(0.05)
    raise AssertionError("no trial was seen running")


@pytest.fixture(autouse=True)
def _nobody_ignores_a_hangup() -> Iterator[None]:
    """As a process does that nohup has started, and those that it starts."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
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


def test_a_sweep_that_is_stopped_and_then_killed_goes_on(tmp_path: Path) -> None:
    with started(tmp_path, *SWEEP) as process:
        wait_for(process, "trial 0 finished")
        time.sleep(0.3)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does it: the workers get it, too
        out, errors = process.communicate(timeout=100)
    assert (process.returncode, out) == (130, "mlruns/runs/sweep/sweep.json\n")
    assert "Traceback" not in errors
    assert "RUNNING" not in statuses(tmp_path)
    assert "RUNNING" not in states(tmp_path)
    assert "WAITING" in states(tmp_path)
    agree(tmp_path)
    content = json.loads((tmp_path / "mlruns/runs/sweep/sweep.json").read_text())
    assert content["trials"]["complete"] >= 1
    with started(tmp_path, *SWEEP) as process:
        wait_for(process, "going on with the study sweep")
        stop_within_a_trial(process, tmp_path)
        process.kill()
    assert "RUNNING" in states(tmp_path)
    with started(tmp_path, *SWEEP) as process:
        out, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    content = json.loads((tmp_path / out.strip()).read_text())
    assert (content["trials"], content["failures"]) == ({"complete": 4, "pruned": 0, "fail": 0}, {})
    assert states(tmp_path) == ["COMPLETE"] * 4
    agree(tmp_path)
    assert set(statuses(tmp_path)) == {"FINISHED"}


def worker_of(process: subprocess.Popen[str]) -> psutil.Process:
    """One of the sweep's workers that is at a trial: it uses the processor."""
    children = [child for child in psutil.Process(process.pid).children() if "spawn_main" in " ".join(child.cmdline())]
    return max(children, key=lambda child: child.cpu_percent(0.3))


def test_a_killed_worker_costs_one_attempt(tmp_path: Path) -> None:
    """The first of two trials loses its worker once and finishes; the second loses it twice and has failed."""
    items = ["trainer.max_epochs=20", "sweep.trials=2", "sweep.workers=1", "~sweep.space.trainer"]
    base = [item for item in SWEEP if not item.startswith(("trainer.max", "sweep.trials", "sweep.workers"))]
    with started(tmp_path, *base, *items) as process:
        for number, attempt in ((0, 1), (1, 1), (1, 2)):
            last = tmp_path / f"mlruns/runs/sweep-{number:04d}/checkpoints/last.ckpt"
            while not last.exists() or json.loads((last.parent / "progress.json").read_text())["attempts"] < attempt:
                assert process.poll() is None
                time.sleep(0.02)
            worker_of(process).kill()
            wait_for(process, "is tried once more" if attempt == 1 else "its worker died twice")
        _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    finished, failed = trials(tmp_path)
    results = [Result.read(tmp_path / f"mlruns/runs/sweep-{trial.number:04d}") for trial in (finished, failed)]
    agree(tmp_path)
    assert [result.attempts for result in results] == [2, 2]
    assert (finished.state.name, results[0].status, results[0].epochs) == ("COMPLETE", "finished", 20)
    assert len(finished.intermediate_values) == 20
    assert (failed.state.name, failed.user_attrs["reason"], results[1].reason) == ("FAIL", "crashed", "crashed")
    assert 0 < results[1].epochs < 20
    content = json.loads((tmp_path / "mlruns/runs/sweep/sweep.json").read_text())
    assert (content["failures"], content["winner"]["trial"]) == ({"crashed": 1}, 0)


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


def test_a_closed_terminal_hangs_up_more_than_once() -> None:
    made = []

    def record() -> None:
        try:
            os.kill(os.getpid(), signal.SIGHUP)
        finally:
            os.kill(os.getpid(), signal.SIGHUP)
            made.append("record")

    with interruptible(), pytest.raises(Interrupted) as caught:
        record()
    assert (made, caught.value.exit_code) == (["record"], 129)


def test_an_interrupt_is_heard_where_a_shell_has_it_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as of a command in the background of a script
    try:
        with interruptible(), pytest.raises(Interrupted):
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_hangup_that_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does it
    try:
        with interruptible():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_an_interruption_that_is_lost_in_foreign_code_is_raised_again_without_a_word(
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Dying:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)

    with interruptible():
        Dying()  # gone at once: what is raised there is lost
        with pytest.raises(Interrupted):
            check_interrupted()
    assert "Traceback" not in capsys.readouterr().err
