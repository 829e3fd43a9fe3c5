"""A study on a server of PostgreSQL: who holds it, what is said where it cannot be opened, and a restart."""

import dataclasses
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from mnist_sweep.errors import RequestError, RunFailure
from mnist_sweep.result import Result
from mnist_sweep.sweep import lease as leases
from mnist_sweep.sweep.lease import Lease
from mnist_sweep.sweep.workers import Task
from tests import stubs
from tests.servers import PG_CTL, Postgres, postgres

pytest.importorskip("psycopg", reason="psycopg is not installed")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PG_CTL, reason="PostgreSQL is not installed"),
    pytest.mark.usefixtures("fresh_stubs"),
]


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with postgres() as opened:
        yield opened


def lease(server: Postgres, study: str, folder: Path) -> Lease:
    folder.mkdir(exist_ok=True)
    return Lease(create_engine(server.url), study, folder)


def test_one_driver_at_a_time_wherever_it_runs(server: Postgres, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    with lease(server, "one", here) as held:
        said = rf"another process is at this sweep \(host {socket.gethostname()}, process \d+\)"
        with pytest.raises(RequestError, match=said), lease(server, "one", there):
            pass
        with lease(server, "another", there):
            held.check()
    with lease(server, "one", there):  # it was given back
        pass


@pytest.mark.parametrize("how", ["a minute ago", "in the same folder"])
def test_what_a_dead_driver_held_is_taken_and_it_is_told_so_if_it_wakes(
    server: Postgres, tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "_EVERY", 1000.0)  # it says nothing more
    with lease(server, how, tmp_path / "old") as old:
        if how == "a minute ago":
            with create_engine(server.url).begin() as connection:
                connection.execute(text("UPDATE mnist_sweep_lease SET until = until - 61"))
        with lease(server, how, tmp_path / ("new" if how == "a minute ago" else "old")):
            old._renewed -= 40  # by its own clock it was halted
            with pytest.raises(RunFailure, match="another process has taken over this sweep"):
                old.check()


def test_a_restart_in_the_middle_of_a_sweep_loses_and_doubles_nothing(server: Postgres, tmp_path: Path) -> None:
    later = threading.Timer(2.0, server.start)

    def twist(task: Task, result: Result) -> Result:
        if task.id == 3:
            server.stop()
            later.start()
        return dataclasses.replace(result)

    stubs.twist.append(twist)
    request = [f"sweep.storage='{server.url}'", "sweep.trials=8", "sweep/pruner=none", "sweep/sampler=random"]
    found = stubs.search(tmp_path, *request)
    later.join()
    assert [trial.state.name for trial in found.study.trials()] == ["COMPLETE"] * 8
    again = stubs.search(tmp_path, *request).study.trials()  # as it is in the database
    assert [(t.params, t.values) for t in again] == [(t.params, t.values) for t in found.study.trials()]
    assert len(stubs.performed) == 8


def refused(folder: Path, storage: str) -> str:
    with pytest.raises(RequestError) as caught, stubs.begun(folder, f"sweep.storage='{storage}'"):
        pass
    assert not [*folder.iterdir()]
    return str(caught.value)


def test_what_cannot_be_opened_is_said_in_one_line_without_the_password(server: Postgres, tmp_path: Path) -> None:
    said = refused(tmp_path, server.url.replace("sweep:sweep", "sweep:wrong"))
    assert 'password authentication failed for user "sweep"' in said
    assert "sweep:***@127.0.0.1" in said
    assert "wrong" not in said
    assert "resolve host" in refused(tmp_path, "postgresql+psycopg://sweep@nowhere.invalid/postgres")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        assert "timeout expired" in refused(tmp_path, f"postgresql+psycopg://sweep:x@127.0.0.1:{port}/postgres")


def test_a_database_of_another_version(server: Postgres, tmp_path: Path) -> None:
    stubs.search(tmp_path / "other", f"sweep.storage='{server.url}'", "sweep.trials=1", "sweep.name=versions")
    with create_engine(server.url).begin() as connection:
        connection.execute(text("UPDATE version_info SET schema_version = 99"))
        connection.execute(text("UPDATE alembic_version SET version_num = 'v99.0.0'"))
    (tmp_path / "empty").mkdir()
    assert "version" in refused(tmp_path / "empty", server.url)
