"""A sweep whose databases another process holds for half a minute. Only `chaos` has the time for it."""

import json
import sqlite3
import time
from pathlib import Path

import pytest

from mnist_sweep.tracking.store import client_of
from tests.faults.test_signals import SWEEP, folder, started, states, statuses, wait_for

__all__ = ["folder"]  # a fixture
SECONDS, EPOCHS, TRIALS = 30, 4, 4
DATABASES = ("optuna.db", "mlflow.db")


@pytest.mark.fault(11)
def test_a_sweep_goes_on_when_its_databases_are_free_again(folder: Path) -> None:
    items = [f"trainer.max_epochs={EPOCHS}", f"sweep.trials={TRIALS}", "sweep.workers=2", "~sweep.space.trainer"]
    with started(folder, *SWEEP, *items) as process:
        wait_for(process, "trial 0 finished")
        holders = [sqlite3.connect(folder / "mlruns" / name, isolation_level=None, timeout=60) for name in DATABASES]
        for holder in holders:
            holder.execute("BEGIN IMMEDIATE")
        time.sleep(SECONDS)
        for holder in holders:
            holder.execute("COMMIT")
            holder.close()
        out, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    assert "Traceback" not in errors
    assert states(folder) == ["COMPLETE"] * TRIALS
    assert set(statuses(folder).values()) == {"FINISHED"}
    assert json.loads((folder / out.strip()).read_text())["trials"] == {"complete": TRIALS, "pruned": 0, "fail": 0}
    assert not [*folder.rglob("unsent*")]
    client = client_of(f"sqlite:///{folder}/mlruns/mlflow.db")
    for run in client.search_runs([each.experiment_id for each in client.search_experiments()]):
        if run.info.run_name != "sweep":
            history = client.get_metric_history(run.info.run_id, "val/loss")
            assert [metric.step for metric in history] == [*range(1, EPOCHS + 1)], run.info.run_name
