"""Databases that are half made, damaged, of another version, held by somebody else, or opened by several at once."""

import itertools
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mnist_sweep.config.options import MLflow
from mnist_sweep.errors import RequestError
from mnist_sweep.sweep import storage
from mnist_sweep.tracking import check_store
from mnist_sweep.tracking.store import client_of, open_experiment
from tests import stubs
from tests.conftest import ROOT

pytestmark = pytest.mark.slow


def settings(folder: Path) -> MLflow:
    return MLflow(name="mlflow", uri=f"sqlite:///{folder}/mlflow.db", experiment="it")


def refused(folder: Path) -> str:
    """What is said of a store that then is as it was."""
    before = (folder / "mlflow.db").read_bytes()
    with pytest.raises(RequestError) as caught:
        check_store(settings(folder))
    assert (folder / "mlflow.db").read_bytes() == before
    said = str(caught.value)
    assert "\n" not in said
    return said


def execute(folder: Path, *statements: str) -> None:
    with sqlite3.connect(folder / "mlflow.db", isolation_level=None) as database:
        for statement in statements:
            database.execute(statement)
    database.close()


@pytest.fixture
def copy(tmp_path: Path, empty_store: Path) -> Path:
    """A folder with a whole store that holds nothing."""
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return tmp_path


@pytest.mark.fault(10)
@pytest.mark.parametrize(
    "left",
    [
        ["DROP TABLE alembic_version"],
        ["DELETE FROM alembic_version", "DROP TABLE trace_info"],
        ["DROP TABLE experiments"],
    ],
)
def test_a_store_that_was_half_made_is_made_anew(copy: Path, left: Sequence[str]) -> None:
    execute(copy, "PRAGMA foreign_keys=OFF", *left, "CREATE TABLE another_half (id INTEGER)")
    execute(copy, "UPDATE alembic_version SET version_num = '0'") if left[0].endswith("experiments") else None
    check_store(settings(copy))
    client, experiment = open_experiment(settings(copy), copy)
    assert client.create_run(experiment).info.experiment_id == experiment
    assert [path.name for path in copy.glob("*.db*") if path.suffix != ".lock"] == ["mlflow.db"]
    check_store(settings(copy))


@pytest.mark.fault(10)
def test_a_process_that_dies_while_it_makes_the_store_leaves_none(tmp_path: Path) -> None:
    code = "from mnist_sweep.tracking.store import open_experiment; from tests.faults.test_stores import settings;"
    code += "from pathlib import Path; open_experiment(settings(Path()), Path())"
    with subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}) as process:
        while not (tmp_path / ".mlflow.db.part").exists():
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
    assert not (tmp_path / "mlflow.db").exists()


@pytest.mark.fault(10)
def test_a_store_of_use_to_nobody_is_refused_and_left_as_it_is(copy: Path) -> None:
    client, experiment = open_experiment(settings(copy), copy)
    client.create_run(experiment)
    check_store(settings(copy))
    client.delete_experiment(experiment)
    said = refused(copy)
    assert said.startswith("tracking.experiment=it: it was deleted")
    assert f"MLFLOW_TRACKING_URI={settings(copy).uri} mlflow experiments restore --experiment-id {experiment}" in said
    client.restore_experiment(experiment)
    execute(copy, "UPDATE alembic_version SET version_num = '451aebb31d03'")
    assert f"mlflow db upgrade {settings(copy).uri}" in refused(copy)
    execute(copy, "UPDATE alembic_version SET version_num = 'of the future'")
    assert "pip install --upgrade mlflow" in refused(copy)
    whole = (copy / "mlflow.db").read_bytes()
    for damaged in (b"no database" * 1000, whole[:100] + bytes(len(whole) - 100), whole[: len(whole) // 2]):
        (copy / "mlflow.db").write_bytes(damaged)
        assert "the database is damaged" in refused(copy)


@pytest.mark.fault(10)
def test_a_damaged_study_is_named_and_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "optuna.db").write_bytes(b"no database" * 1000)
    with pytest.raises(RequestError, match=r"file is not a database.*the file is damaged, and stays as it is"):
        stubs.search(tmp_path, "sweep.trials=1")
    assert (tmp_path / "optuna.db").read_bytes() == b"no database" * 1000


@pytest.mark.fault(11)
@pytest.mark.parametrize("seconds", [7])
def test_a_study_that_somebody_else_holds_is_waited_for(tmp_path: Path, seconds: float) -> None:
    stubs.search(tmp_path, "sweep.trials=1")
    holder = sqlite3.connect(tmp_path / "optuna.db", isolation_level=None, check_same_thread=False)
    holder.execute("BEGIN IMMEDIATE")
    release = threading.Timer(seconds, holder.execute, ["COMMIT"])
    release.start()
    session = stubs.search(tmp_path, "sweep.trials=2")
    assert not release.is_alive()
    release.join()
    holder.close()
    assert session.study.counts() == {"complete": 2, "pruned": 0, "fail": 0}


@pytest.mark.fault(12)
def test_several_sweeps_that_begin_together_in_a_fresh_folder(tmp_path: Path) -> None:
    code = "import sys, time; from types import SimpleNamespace as S; from mnist_sweep.sweep import storage\n"
    code += "print('ready', flush=True); sys.stdin.readline()\n"
    code += "with storage.database(S(storage='sqlite:///optuna.db')) as it: it.create_new_study([1], sys.argv[1])"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(number)], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for number in range(4)
    ]  # fmt: skip
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    said: list[Any] = []
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    said = [process.communicate(timeout=100)[1] for process in processes]
    assert said == [""] * 4
    url: Any = SimpleNamespace(storage=f"sqlite:///{tmp_path}/optuna.db")
    assert sorted(storage.study_names(url)) == ["0", "1", "2", "3"]


@pytest.mark.fault(16)
def test_a_clock_that_is_set_back_mixes_nothing(copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mnist_sweep.tracking import MLflowRun

    real, run = time.time, MLflowRun(settings(copy), copy, "it")
    for epoch in (1, 2, 3):
        monkeypatch.setattr(time, "time", lambda back=epoch: real() - 3600 * back)
        run.metrics({"val/loss": 1 / epoch}, epoch)
    run.end("FINISHED")
    found = client_of(settings(copy).uri).get_run(run.run_id)
    assert (found.info.status, found.data.metrics) == ("FINISHED", {"val/loss": 1 / 3})
    steps = itertools.count()
    monkeypatch.setattr(time, "time", lambda: real() - 3600 * next(steps))  # further at each look
    session = stubs.search(tmp_path, "sweep.trials=3")
    assert session.study.counted() == 3
    assert session.seconds() >= 0
