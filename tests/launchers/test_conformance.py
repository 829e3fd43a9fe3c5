"""One suite for every launcher, and what only processes can show."""

import logging
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest

from mnist_sweep.errors import Interrupted, RunFailure, interruptible
from mnist_sweep.sweep.launchers import Died, Ended, Event, Launcher, Refused, Reported, Task
from mnist_sweep.sweep.launchers.inline import Inline
from mnist_sweep.sweep.launchers.local import Local
from tests.conftest import ROOT

STUB = "tests.launchers.stubs:stub"
#: Far more than anything here takes; a test that runs into it has failed.
PATIENCE = 60.0


def local(workers: int, **more: Any) -> Local:
    settings: dict[str, Any] = {"memory_growth_mb": 10_000, "performer": STUB} | more
    return Local(workers, threads=1, **settings)


MAKERS: dict[str, Callable[[], Launcher]] = {
    "inline": lambda: Inline(STUB),
    "local": lambda: local(1),
    "two workers": lambda: local(2),
}


@pytest.fixture(params=MAKERS)
def launcher(request: pytest.FixtureRequest) -> Iterator[Launcher]:
    opened = MAKERS[request.param]()
    yield opened
    opened.close()


@pytest.fixture
def pair() -> Iterator[Local]:
    opened = local(2)
    yield opened
    opened.close()


def go_on(_: Reported) -> bool:
    return True


def until(
    launcher: Launcher, done: Callable[[list[Event]], bool], decide: Callable[[Reported], bool] = go_on
) -> list[Event]:
    """Events until a condition on them holds."""
    events: list[Event] = []
    deadline = time.monotonic() + PATIENCE
    while not done(events):
        assert time.monotonic() < deadline, f"only {events}"
        events += launcher.wait(1.0, decide)
    return events


def until_free(launcher: Launcher, count: int = 1) -> list[Event]:
    return until(launcher, lambda _: launcher.free() >= count)


def perform(launcher: Launcher, *tasks: Task, decide: Callable[[Reported], bool] = go_on) -> list[Event]:
    """Submit tasks as workers come free; the events of all."""
    left, events = list(tasks), list[Event]()
    deadline = time.monotonic() + PATIENCE
    while left or len(events) < len(tasks):
        assert time.monotonic() < deadline, f"only {events}"
        while left and launcher.free():
            launcher.submit(left.pop(0))
        events += launcher.wait(1.0, decide)
    return events


def task(number: int, *items: str) -> Task:
    return Task(id=number, overrides=[f"name=run-{number}", *items])


def test_every_task_ends_exactly_once(launcher: Launcher) -> None:
    events = perform(launcher, *[task(number) for number in range(6)])
    ended = {event.task: event.result for event in events if isinstance(event, Ended)}
    assert len(events) == len(ended) == 6
    assert {number: result["name"] for number, result in ended.items()} == {n: f"run-{n}" for n in range(6)}


def test_reports_arrive_unchanged_and_in_order(launcher: Launcher) -> None:
    heard: list[Reported] = []

    def decide(reported: Reported) -> bool:
        heard.append(reported)
        return True

    perform(launcher, task(7, "epochs=3"), decide=decide)
    assert heard == [Reported(7, epoch, {"val/accuracy": epoch / 7}) for epoch in (1, 2, 3)]


def test_a_run_hears_that_it_is_over(launcher: Launcher) -> None:
    (event,) = perform(launcher, task(1, "epochs=9"), decide=lambda reported: reported.epoch < 2)
    assert isinstance(event, Ended)
    assert (event.result["status"], event.result["epochs"]) == ("pruned", 2)


def test_a_refusal_leaves_the_worker_as_it_was(launcher: Launcher) -> None:
    first, second = perform(launcher, task(1, "do=refuse"), task(2))
    by_task = {event.task: event for event in (first, second)}
    assert by_task[1] == Refused(1, "optimizer.lr=-1: allowed: above 0")
    assert isinstance(by_task[2], Ended)


def test_no_more_tasks_than_free_workers(launcher: Launcher) -> None:
    until_free(launcher)
    while launcher.free():
        launcher.submit(task(launcher.free(), "do=wait" if not isinstance(launcher, Inline) else "epochs=1"))
    with pytest.raises(ValueError, match="no worker is free"):
        launcher.submit(task(9))


def test_a_stop_of_what_is_not_there_does_nothing(launcher: Launcher) -> None:
    launcher.stop(99)
    launcher.stop(99, hard=True)
    assert len(perform(launcher, task(1))) == 1


def test_inline_tells_of_an_interrupted_run_afterwards() -> None:
    launcher = Inline(STUB)
    launcher.submit(task(1, "epochs=2"))

    def interrupt(_: Reported) -> bool:
        signal.raise_signal(signal.SIGINT)
        return True

    with pytest.raises(Interrupted), interruptible():
        launcher.wait(None, interrupt)
    (event,) = launcher.wait(0, go_on)
    assert isinstance(event, Ended)
    assert event.result["status"] == "interrupted"


def test_a_free_worker_never_waits_for_another(pair: Local) -> None:
    until_free(pair, 2)
    pair.submit(task(0, "do=wait"))
    events = perform(pair, *[task(number) for number in range(1, 5)])
    assert [event.task for event in events] == [1, 2, 3, 4]
    pair.stop(0)
    (event,) = until(pair, bool)
    assert isinstance(event, Ended)
    assert event.result["status"] == "interrupted"


def test_a_soft_stop_also_ends_a_run_that_waits_for_its_answer(pair: Local) -> None:
    until_free(pair)

    def decide(reported: Reported) -> bool:
        pair.stop(reported.task)
        return True

    pair.submit(task(1, "epochs=1000000"))
    (event,) = until(pair, bool, decide)
    assert isinstance(event, Ended)
    assert event.result["status"] == "interrupted"
    assert len(perform(pair, *[task(number) for number in range(2, 6)])) == 4


def test_a_late_stop_does_not_hit_the_next_run(pair: Local) -> None:
    for number in range(0, 40, 2):
        first, second = task(number), task(number + 1, "epochs=3")
        assert isinstance(perform(pair, first)[0], Ended)
        pair.stop(number)
        for worker in pair._workers:  # what a stop that crosses the end on its way looks like
            worker.connection.send(("stop", number))
        (event,) = perform(pair, second)
        assert isinstance(event, Ended)
        assert event.result["status"] == "finished"


@pytest.mark.parametrize("how", ["die", "raise", "hard stop"])
def test_a_dead_worker_is_told_and_replaced(pair: Local, how: str) -> None:
    until_free(pair, 2)
    pair.submit(task(1, "do=wait" if how == "hard stop" else f"do={how}", "epochs=0"))
    if how == "hard stop":
        pair.stop(1, hard=True)
    (event,) = until(pair, bool)
    said = "ValueError: a bug" if how == "raise" else "killed by signal 9"
    assert event == Died(1, said)
    until_free(pair, 2)
    assert len(perform(pair, task(2), task(3))) == 2


def test_a_worker_killed_while_idle_is_replaced(pair: Local) -> None:
    until_free(pair, 2)
    pair._workers[0].process.kill()
    assert until(pair, bool) == [Died(None, "killed by signal 9")]
    until_free(pair, 2)


@pytest.mark.parametrize("item", ["do=hoard", "reason=out_of_memory"])
def test_a_worker_that_has_grown_or_ran_out_of_memory_is_replaced(item: str) -> None:
    launcher = local(1, memory_growth_mb=32)
    try:
        events = perform(launcher, task(1), task(2, item), task(3))
        processes = [event.result["process"] for event in events if isinstance(event, Ended)]
        assert processes[0] == processes[1] != processes[2]
        assert len(events) == 3  # its end is no event
    finally:
        launcher.close()


def test_what_a_worker_logs_arrives_in_the_drivers_log(pair: Local, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        perform(pair, task(1, "log=the test set is opened"))
    assert ("mnist_sweep.stub", logging.INFO, "the test set is opened") in caplog.record_tuples


def test_workers_that_cannot_start_are_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MNIST_SWEEP_TEST_STILLBORN", "yes")
    launcher = local(1)
    try:
        with pytest.raises(RunFailure, match="a worker cannot start: ImportError: no such library"):
            until_free(launcher)
    finally:
        launcher.close()


def test_nothing_is_left_after_the_end(pair: Local) -> None:
    until_free(pair, 2)
    pair.submit(task(1, "do=wait"))
    processes = [psutil.Process(worker.process.pid) for worker in pair._workers]
    pair.close()
    assert not any(process.is_running() for process in processes)


def test_a_ctrl_c_of_the_terminal_does_not_touch_the_workers(pair: Local) -> None:
    until_free(pair, 2)
    for worker in pair._workers:
        os.kill(worker.process.pid or 0, signal.SIGINT)
    assert len(perform(pair, task(1), task(2))) == 2


def test_workers_do_not_survive_a_driver_that_was_killed() -> None:
    script = """
        import time
        from tests.launchers.test_conformance import local, task, until_free
        if __name__ == "__main__":
            pair = local(2)
            until_free(pair, 2)
            pair.submit(task(1, "do=wait"))
            print(*(worker.process.pid for worker in pair._workers), flush=True)
            time.sleep(600)
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True, env=environment
    ) as driver:
        assert driver.stdout
        processes = [psutil.Process(int(number)) for number in driver.stdout.readline().split()]
        assert len(processes) == 2
        driver.kill()
        _, alive = psutil.wait_procs(processes, timeout=PATIENCE)
    assert not alive
