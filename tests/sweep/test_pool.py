"""A result for each run, whatever becomes of its worker: a launcher that plays dead."""

from collections import deque
from dataclasses import asdict
from pathlib import Path

import pytest

from mnist_sweep.result import Result
from mnist_sweep.sweep.workers import Decide, Died, Ended, Event, Refused, Task
from mnist_sweep.sweep.workers import pool as crew
from mnist_sweep.sweep.workers.pool import Crew
from tests.conftest import SMALL
from tests.test_budget import result


class Scripted:
    """One worker whose tasks end as the script says: an event for each time that one is submitted."""

    workers = 1

    def __init__(self, *script: str) -> None:
        self.script = deque(script)
        self.submitted: list[Task] = []
        self.stopped: list[tuple[int, bool]] = []
        self.events: list[Event] = []

    def free(self) -> int:
        return 1

    def submit(self, task: Task) -> None:
        self.submitted.append(task)
        match self.script.popleft():
            case "die":
                self.events.append(Died(task.id, "killed by signal 9"))
            case "refuse":
                self.events.append(Refused(task.id, "no GPU here"))
            case "end":
                self.events.append(Ended(task.id, asdict(result("finished")), 0))

    def wait(self, timeout: float | None, decide: Decide) -> list[Event]:
        events, self.events = self.events, []
        return events

    def stop(self, task: int, *, hard: bool = False) -> None:
        self.stopped.append((task, hard))
        if hard:
            self.events.append(Died(task, "killed by signal 9"))

    def close(self) -> None:
        self.script.clear()


def task(folder: Path, limit: float | None = None) -> Task:
    return Task(id=7, overrides=[*SMALL, f"output={folder}", "name=it"], limit_seconds=limit)


def performed(launcher: Scripted, given: Task) -> Result:
    with Crew(lambda: launcher) as workers:
        return workers.perform([given])[7]


def test_a_run_whose_worker_dies_is_tried_once_more_from_its_checkpoint(tmp_path: Path) -> None:
    launcher = Scripted("die", "end")
    assert performed(launcher, task(tmp_path)).status == "finished"
    assert [each.resume for each in launcher.submitted] == [False, True]


def test_a_run_whose_worker_dies_twice_has_crashed(tmp_path: Path) -> None:
    launcher = Scripted("die", "die")
    found = performed(launcher, task(tmp_path))
    assert (found.status, found.reason) == ("failed", "crashed")
    assert found.detail == "its worker died twice (killed by signal 9)"
    assert Result.read(tmp_path / "runs" / "it") == found


def test_a_refused_run_has_failed_and_is_not_tried_again(tmp_path: Path) -> None:
    launcher = Scripted("refuse")
    found = performed(launcher, task(tmp_path))
    assert (found.status, found.reason, found.detail) == ("failed", "error", "no GPU here")


def test_a_run_that_hangs_is_killed_after_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew, "_GRACE", 0.0)
    launcher = Scripted("hang")
    found = performed(launcher, task(tmp_path, limit=0.01))
    assert launcher.stopped == [(7, True)]
    assert (found.status, found.reason) == ("failed", "timeout")
    assert "longer than 0.01 s" in str(found.detail)


def test_what_does_not_stop_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew, "_PATIENCE", 0.0)
    launcher = Scripted("hang")
    with Crew(lambda: launcher) as workers:
        workers.submit(task(tmp_path))
        ((stopped, found),) = workers.stop()
    assert (stopped.id, found) == (7, None)
    assert launcher.stopped == [(7, False), (7, True)]


def test_workers_are_started_by_the_first_thing_there_is_to_do() -> None:
    with Crew(lambda: pytest.fail("nothing was to be done")) as workers:
        assert workers.perform([]) == {}
        assert workers.stop() == []


def test_what_nobody_hears_of_any_more_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew, "_PATIENCE", 0.0)
    monkeypatch.setattr(crew, "_LAST_WAIT", 0.0)
    launcher = Scripted("hang")
    monkeypatch.setattr(launcher, "stop", lambda *_, **__: None)
    with Crew(lambda: launcher) as workers:
        workers.submit(task(tmp_path))
        assert [(given.id, found) for given, found in workers.stop()] == [(7, None)]
        assert not workers.running
