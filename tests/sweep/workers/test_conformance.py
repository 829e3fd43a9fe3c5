"""One suite for every launcher."""

import logging
import signal
from collections.abc import Callable, Iterator

import pytest

from mnist_sweep.errors import Interrupted, interruptible
from mnist_sweep.sweep.workers import NOT_BEGUN, Died, Ended, Launcher, Ready, Refused, Reported
from mnist_sweep.sweep.workers.inline import Inline
from tests.sweep.workers.driving import STUB, begin, go_on, local, perform, results, task, the_end, until, until_free

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
