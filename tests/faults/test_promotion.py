"""Trials that pause and go on, whatever dies in between: the numbers are those of an undisturbed sweep."""

import signal
import subprocess
from pathlib import Path
from typing import Any

import psutil
import pytest

from mnist_sweep.result import Result
from tests.faults.test_signals import started, trials

pytestmark = pytest.mark.slow
SWEEP = [
    "+sweep=optuna", "data=mnist5k", "data.limit=500", "model.filters=[4]", "model.hidden=[16]", "tracking=none",
    "trainer.threads=1", "trainer.max_epochs=4", "trainer.precision=32", "sweep.workers=1", "sweep/sampler=random",
    "sweep.trials=7", "sweep.winner.top=1", "sweep.winner.seeds=1", "sweep/space=empty",
    "++sweep.space={optimizer: {lr: {low: 0.0003, high: 0.03, log: true}}}",
]  # fmt: skip


def told(folder: Path) -> dict[int, tuple[str, dict[int, float]]]:
    """What each trial came to: its state, and its values by epoch."""
    found = {trial.number: (trial.state.name, trial.intermediate_values) for trial in trials(folder)}
    for number, (state, values) in found.items():
        result = Result.read(folder / f"mlruns/runs/sweep-{number:04d}")
        assert (result.status, result.epochs) == ({"COMPLETE": "finished", "PRUNED": "pruned"}[state], len(values))
        assert [epoch["val/accuracy"] for epoch in result.history] == [*values.values()]
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Any]:
    folder = tmp_path_factory.mktemp("undisturbed")
    with started(folder, *SWEEP) as process:
        process.communicate(timeout=300)
    assert process.returncode == 0
    found = told(folder)
    assert {state for state, _ in found.values()} == {"COMPLETE", "PRUNED"}
    return found


def worker_of(process: subprocess.Popen[str]) -> psutil.Process:
    return next(child for child in psutil.Process(process.pid).children() if "worker" in " ".join(child.cmdline()))


@pytest.mark.parametrize("victim", ["driver", "worker", "interrupt"])
def test_a_paused_trial_goes_on_with_the_numbers_of_an_undisturbed_sweep(
    tmp_path: Path, undisturbed: dict[int, Any], victim: str
) -> None:
    with started(tmp_path, *SWEEP) as process:
        paused = 0
        for line in process.stderr or ():
            paused += " paused " in line
            if paused == 3:
                if victim == "worker":
                    worker_of(process).kill()
                else:
                    process.send_signal(signal.SIGKILL if victim == "driver" else signal.SIGINT)
                break
        _, said = process.communicate(timeout=300)
    assert process.returncode == {"driver": -9, "worker": 0, "interrupt": 130}[victim], said
    if victim != "worker":
        assert sum(trial.state.name == "WAITING" for trial in trials(tmp_path)) >= 2
        with started(tmp_path, *SWEEP) as process:
            process.communicate(timeout=300)
        assert process.returncode == 0
    assert told(tmp_path) == undisturbed
