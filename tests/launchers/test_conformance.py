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
from mnist_sweep.sweep.launchers import NOT_BEGUN, Died, Ended, Event, Launcher, Ready, Refused, Reported, Task
from mnist_sweep.sweep.launchers.inline import Inline
from mnist_sweep.sweep.launchers.local import Local
from tests.conftest import ROOT
from tests.launchers.stubs import RECORDING

STUB = "tests.launchers.stubs:stub"
#: Seconds, far more than anything here takes; a test that runs into it has failed.
PATIENCE = 60.0

Decision = Callable[[Reported], bool]


def local(workers: int, **more: Any) -> Local:
    settings: dict[str, Any] = {"threads": 1, "memory_growth_mb": 10_000, "performer": STUB} | more
    return Local(workers, **settings)


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
    """Two workers, both ready."""
    opened = local(2)
    until_free(opened, 2)
    yield opened
    opened.close()


def go_on(_: Reported) -> bool:
    return True


def until(launcher: Launcher, done: Callable[[list[Event]], bool], decide: Decision = go_on) -> list[Event]:
    """Events until a condition on them holds, without the workers' being ready."""
    events: list[Event] = []
    deadline = time.monotonic() + PATIENCE
    while not done(events):
        assert time.monotonic() < deadline, f"only {events}"
        events += ends(launcher.wait(1.0, decide))
    return events


def until_free(launcher: Launcher, count: int = 1) -> list[Event]:
    return until(launcher, lambda _: launcher.free() >= count)


def begin(launcher: Launcher, begun: Task) -> None:
    until_free(launcher)
    launcher.submit(begun)


def hold(launcher: Local, number: int) -> None:
    """Give a worker a task that lasts, and see it begin."""
    heard: list[Reported] = []

    def decide(reported: Reported) -> bool:
        heard.append(reported)
        return True

    begin(launcher, task(number, "do=wait"))
    until(launcher, lambda _: bool(heard), decide)


def the_end(launcher: Launcher, decide: Decision = go_on) -> Event:
    """The one event that follows."""
    (event,) = until(launcher, bool, decide)
    return event


def perform(launcher: Launcher, *tasks: Task, decide: Decision = go_on) -> list[Event]:
    """Submit tasks as workers come free; the events of all."""
    left, events = list(tasks), list[Event]()
    deadline = time.monotonic() + PATIENCE
    while left or len(events) < len(tasks):
        assert time.monotonic() < deadline, f"only {events}"
        while left and launcher.free():
            launcher.submit(left.pop(0))
        events += ends(launcher.wait(1.0, decide))
    return events


def ends(events: list[Event]) -> list[Ended | Refused | Died]:
    return [event for event in events if not isinstance(event, Ready)]


def results(events: list[Event]) -> dict[int, dict[str, Any]]:
    """By task; nothing but ends is among the events."""
    assert all(isinstance(event, Ended) for event in events), events
    return {event.task: event.result for event in events if isinstance(event, Ended)}


def task(number: int, *items: str) -> Task:
    return Task(id=number, overrides=[f"name=run-{number}", *items])


def processes(launcher: Local) -> list[int]:
    return [worker.process.pid or 0 for worker in launcher._workers]


# Every launcher


def test_every_task_ends_exactly_once(launcher: Launcher) -> None:
    events = perform(launcher, *[task(number) for number in range(6)])
    ended = results(events)
    assert len(events) == len(ended) == 6
    assert {number: result["name"] for number, result in ended.items()} == {n: f"run-{n}" for n in range(6)}


def test_each_worker_says_when_it_is_ready(launcher: Launcher) -> None:
    ready: list[Ready] = []
    while len(ready) < launcher.workers:
        ready += [event for event in launcher.wait(None, go_on) if isinstance(event, Ready)]
    assert sorted(event.worker for event in ready) == list(range(launcher.workers))
    assert all(1 < event.memory_mb < 10_000 for event in ready)
    assert launcher.free() == launcher.workers


def test_reports_arrive_unchanged_and_in_order(launcher: Launcher) -> None:
    heard: list[Reported] = []

    def decide(reported: Reported) -> bool:
        heard.append(reported)
        return True

    perform(launcher, task(7, "epochs=3"), decide=decide)
    values = [{"val/accuracy": epoch / 7, "val/loss": float("inf")} for epoch in (1, 2, 3)]
    assert heard == [Reported(7, epoch, found) for epoch, found in enumerate(values, start=1)]


def test_a_run_hears_that_it_is_over(launcher: Launcher) -> None:
    result = results(perform(launcher, task(1, "epochs=9"), decide=lambda reported: reported.epoch < 2))[1]
    assert (result["status"], result["epochs"]) == ("pruned", 2)


def test_a_refusal_leaves_the_worker_as_it_was(launcher: Launcher) -> None:
    (before,) = results(perform(launcher, task(0))).values()
    assert perform(launcher, task(1, "do=refuse")) == [Refused(1, "optimizer.lr=-1: allowed: above 0")]
    later = results(perform(launcher, task(2), task(3))).values()
    assert before["process"] in {result["process"] for result in later}


@pytest.mark.parametrize(("how", "said"), [("raise", "ValueError: a bug"), ("exit", "exit code 3")])
def test_a_bug_ends_its_task_and_no_other(
    launcher: Launcher, how: str, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert perform(launcher, task(1, f"do={how}")) == [Died(1, said)]
    assert ("Traceback" in caplog.text) == (how == "raise")
    assert len(results(perform(launcher, task(2), task(3)))) == 2


def test_no_more_tasks_than_free_workers(launcher: Launcher) -> None:
    until_free(launcher, launcher.workers)
    for number in range(launcher.workers):
        launcher.submit(task(number))
    with pytest.raises(ValueError, match="no worker is free"):
        launcher.submit(task(9))


def test_a_stop_of_what_is_not_there_does_nothing(launcher: Launcher) -> None:
    launcher.stop(99)
    launcher.stop(99, hard=True)
    assert len(perform(launcher, task(1))) == 1
    launcher.stop(1)
    launcher.stop(1, hard=True)
    assert len(results(perform(launcher, task(2), task(3)))) == 2


def test_a_stop_also_ends_a_run_that_waits_for_its_answer(launcher: Launcher) -> None:
    def decide(reported: Reported) -> bool:
        launcher.stop(reported.task)
        return True

    result = results(perform(launcher, task(1, "epochs=1000000"), decide=decide))[1]
    assert result["status"] == "interrupted"
    tasks = [task(number, "epochs=3") for number in range(2, 6)]
    later = results(perform(launcher, *tasks, decide=lambda reported: reported.epoch < 2)).values()
    # none of them has taken the interrupted run's answer for its own
    assert [(result["status"], result["epochs"]) for result in later] == [("pruned", 2)] * 4


def test_a_stop_that_comes_at_once_is_not_lost(launcher: Launcher) -> None:
    for number in range(20):
        begin(launcher, task(number, "epochs=1000000"))
        launcher.stop(number)
        event = the_end(launcher)
        assert event == Died(number, NOT_BEGUN) or (
            isinstance(event, Ended) and (event.task, event.result["status"]) == (number, "interrupted")
        )
    assert len(results(perform(launcher, task(100), task(101)))) == 2


def test_what_the_driver_decides_wrongly_is_not_the_runs_fault(launcher: Launcher) -> None:
    def decide(_: Reported) -> bool:
        raise ZeroDivisionError

    begin(launcher, task(1, "epochs=1000000"))
    with pytest.raises(ZeroDivisionError):
        until(launcher, bool, decide)
    launcher.stop(1)
    assert results([the_end(launcher)])[1]["status"] == "interrupted"


def test_a_signal_to_the_driver_loses_no_event(launcher: Launcher) -> None:
    def decide(_: Reported) -> bool:
        signal.raise_signal(signal.SIGINT)
        decided.append(True)  # the signal waits
        return True

    decided: list[bool] = []
    begin(launcher, task(1, "epochs=1000000"))
    with pytest.raises(Interrupted), interruptible():
        until(launcher, bool, decide)
    launcher.stop(1)
    assert results([the_end(launcher)])[1]["status"] == "interrupted"
    assert decided == [True]


def test_what_a_worker_logs_arrives_in_the_drivers_log(launcher: Launcher, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        perform(launcher, task(1, "log=100% of it"))
    assert [record for record in caplog.record_tuples if record[0] == "mnist_sweep.stub"] == [
        ("mnist_sweep.stub", logging.INFO, "100% of it")
    ]


# What only processes can show


def test_a_free_worker_never_waits_for_another(pair: Local) -> None:
    hold(pair, 0)
    assert [*results(perform(pair, *[task(number) for number in range(1, 5)]))] == [1, 2, 3, 4]
    pair.stop(0)
    assert results([the_end(pair)])[0]["status"] == "interrupted"


def test_a_late_stop_does_not_hit_the_next_run(pair: Local) -> None:
    def decide(reported: Reported) -> bool:
        late(reported.task - 1)
        return True

    def late(number: int) -> None:
        """What a stop that crosses the end on its way looks like."""
        for worker in pair._workers:
            worker.send("stop", number)

    before = processes(pair)
    for number in range(0, 20, 2):
        perform(pair, task(number))
        late(number)
        result = results(perform(pair, task(number + 1, "epochs=3"), decide=decide))[number + 1]
        assert result["status"] == "finished"
    assert processes(pair) == before


@pytest.mark.parametrize("how", ["its own", "hard stop"])
def test_a_worker_that_is_killed_is_told_and_replaced(pair: Local, how: str) -> None:
    pair.submit(task(1, "do=wait" if how == "hard stop" else "do=die", "epochs=0"))
    if how == "hard stop":
        pair.stop(1, hard=True)
    assert the_end(pair) == Died(1, "killed by signal 9")
    assert until_free(pair, 2) == []
    assert len(results(perform(pair, task(2), task(3)))) == 2


def test_a_worker_killed_while_idle_is_replaced(pair: Local) -> None:
    pair._workers[0].process.kill()
    assert the_end(pair) == Died(None, "killed by signal 9")
    assert until_free(pair, 2) == []


def test_a_worker_terminated_while_idle_leaves_quietly() -> None:
    launcher = local(1)
    try:
        until_free(launcher)
        (before,) = processes(launcher)
        os.kill(before, signal.SIGTERM)
        assert until(launcher, lambda _: processes(launcher) != [before]) == []
        assert len(results(perform(launcher, task(1)))) == 1
    finally:
        launcher.close()


def test_a_run_that_is_terminated_from_everywhere_records_itself(pair: Local) -> None:
    """As where a whole process group gets SIGTERM, and the driver stops its runs as well."""

    def decide(reported: Reported) -> bool:
        if reported.epoch == RECORDING:
            for number in before:
                os.kill(number, signal.SIGTERM)
        pair.stop(reported.task)
        pair.stop(reported.task)
        return True

    before = processes(pair)
    pair.submit(task(1, "epochs=1000000", "do=record"))
    assert results([the_end(pair, decide)])[1]["status"] == "interrupted"
    # the idle one has left; the other took the signal for a second one of the driver's
    until(pair, lambda _: processes(pair) != before)
    assert len(results(perform(pair, task(2), task(3)))) == 2


def test_a_worker_that_somebody_else_terminates_records_its_run_and_leaves(pair: Local) -> None:
    def decide(_: Reported) -> bool:
        os.kill(before, signal.SIGTERM)
        return True

    pair.submit(task(1, "epochs=1000000"))
    (before,) = [worker.process.pid or 0 for worker in pair._workers if worker.task == 1]
    assert results([the_end(pair, decide)])[1]["status"] == "interrupted"
    assert until(pair, lambda _: before not in processes(pair)) == []
    assert until_free(pair, 2) == []


@pytest.mark.parametrize("item", ["do=hoard", "reason=out_of_memory"])
def test_a_worker_that_has_grown_or_ran_out_of_memory_is_replaced(item: str) -> None:
    launcher = local(1, memory_growth_mb=32)
    try:
        events = perform(launcher, task(1), task(2, item), task(3))
        found = [result["process"] for result in results(events).values()]  # its end is no event
        assert found[0] == found[1] != found[2]
    finally:
        launcher.close()


def test_each_worker_has_its_threads_and_its_gpu() -> None:
    launcher = local(2, threads=3, gpus=("GPU-a", "GPU-b"))
    try:
        until_free(launcher, 2)
        for number in range(2):
            launcher.submit(task(number))
        events = until(launcher, lambda events: len(events) == 2)
        found = {event.worker: event.result["environment"] for event in events if isinstance(event, Ended)}
        assert found == {
            0: {"CUDA_VISIBLE_DEVICES": "GPU-a", "OMP_NUM_THREADS": "3"},
            1: {"CUDA_VISIBLE_DEVICES": "GPU-b", "OMP_NUM_THREADS": "3"},
        }
    finally:
        launcher.close()


def test_a_worker_without_a_gpu_sees_none() -> None:
    launcher = local(1, threads=2)
    try:
        until_free(launcher, 1)
        launcher.submit(task(0))
        (event,) = until(launcher, lambda events: len(events) == 1)
        assert isinstance(event, Ended)
        assert event.result["environment"] == {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "2"}
    finally:
        launcher.close()


def test_workers_that_cannot_start_are_a_failure() -> None:
    launcher = local(1, gpus=("broken",))
    try:
        for _ in range(2):  # nothing else can happen any more
            with pytest.raises(RunFailure, match="a worker cannot start: ImportError: no such library") as caught:
                until_free(launcher)
            assert caught.value.reason == "crashed"
    finally:
        launcher.close()


def test_one_that_cannot_start_is_not_hidden_by_another_that_works() -> None:
    launcher = local(3, gpus=("0", "broken", "broken"))
    try:
        with pytest.raises(RunFailure, match="a worker cannot start"):
            until(launcher, lambda _: False)
        hold(launcher, 1)  # said once: what runs can still be ended in good order
        until(launcher, lambda _: len(processes(launcher)) == 1)
        launcher.stop(1)
        assert results([the_end(launcher)])[1]["status"] == "interrupted"
    finally:
        launcher.close()


def test_nothing_is_left_after_the_end(pair: Local) -> None:
    hold(pair, 1)
    found = [psutil.Process(number) for number in processes(pair)]
    pair.close()
    assert not any(process.is_running() for process in found)


def test_nothing_is_left_of_workers_that_were_not_ready() -> None:
    launcher = local(2)
    found = [psutil.Process(number) for number in processes(launcher)]
    launcher.close()
    assert not any(process.is_running() for process in found)


DRIVER = """
    import sys, time
    from mnist_sweep.errors import Interrupted, interruptible
    from tests.launchers.test_conformance import hold, local, perform, processes, results, task, the_end, until_free

    def interrupted(launcher):
        try:
            with interruptible():
                print(*processes(launcher), flush=True)
                time.sleep(600)
        except Interrupted:
            return

    if __name__ == "__main__":
        pair = local(2)
"""


def driver(*body: str) -> "subprocess.Popen[str]":
    """A driver in a process group of its own, as a shell starts it."""
    script = textwrap.dedent(DRIVER) + "".join(f"    {line}\n" for line in body)
    return subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )


def test_a_ctrl_c_of_the_terminal_does_not_touch_the_workers() -> None:
    with driver(
        "interrupted(pair)  # as they start",
        "until_free(pair, 2)",
        "interrupted(pair)  # while they are idle",
        "results(perform(pair, task(1), task(2)))",
        "hold(pair, 3)",
        "interrupted(pair)  # while one is at a task",
        "pair.stop(3)",
        "results([the_end(pair)])",
        "results(perform(pair, task(4)))",
        "print(*processes(pair), flush=True)",
        "pair.close()",
    ) as process:
        try:
            assert process.stdout
            seen = [process.stdout.readline()]
            for _ in range(3):
                assert process.poll() is None
                os.killpg(process.pid, signal.SIGINT)
                seen.append(process.stdout.readline())
            assert process.wait(PATIENCE) == 0
        finally:
            process.kill()
    assert len(set(seen)) == 1
    assert len(seen[0].split()) == 2


def test_workers_do_not_survive_a_driver_that_was_killed() -> None:
    with driver("until_free(pair, 2)", "hold(pair, 1)", "interrupted(pair)") as process:
        try:
            assert process.stdout
            found = [psutil.Process(int(number)) for number in process.stdout.readline().split()]
        finally:
            process.kill()
        assert len(found) == 2
        _, alive = psutil.wait_procs(found, timeout=PATIENCE)
    assert not alive
