"""One suite for every kind of worker."""

import logging
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mnist_sweep.errors import signalled, signals_as_flag
from mnist_sweep.sweep.workers import Report, Workers
from tests.sweep.workers.driving import begin, cluster, perform, processes, task, until
from tests.sweep.workers.stubs import stub

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["inline", "processes", "ray"])
def workers(request: pytest.FixtureRequest) -> Iterator[Workers]:
    if request.param == "ray":
        pytest.importorskip("ray", reason="Ray is not installed")
    start = {"inline": lambda: Workers.inline(stub), "processes": lambda: processes(2), "ray": lambda: cluster(2)}
    with start[request.param]() as opened:
        until(opened, lambda: opened.free() == opened.size)
        yield opened


def test_every_task_finishes_once_and_its_reports_arrive_unchanged_and_in_order(workers: Workers) -> None:
    heard: dict[int, list[Any]] = {number: [] for number in range(6)}

    def hear(report: Report) -> bool:
        heard[report.task].append((report.epoch, report.values))
        return True

    results = perform(workers, *[task(number, epochs=3) for number in heard], answer=hear)
    assert all(f"name=run-{number}" in results[number].command for number in heard)
    assert [*heard.values()] == [[(n, {"val/accuracy": n / 7, "val/loss": float("inf")}) for n in (1, 2, 3)]] * 6


@pytest.mark.parametrize(("how", "said"), [("raise", "ValueError: a bug"), ("exit", "exit code 3")])
def test_a_bug_costs_its_run_two_attempts_and_no_other_run_anything(
    workers: Workers, how: str, said: str, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    results = perform(workers, task(1, tmp_path, do=how), task(2, once=how), task(3), task(4))
    failed = results.pop(1)
    assert (failed.status, failed.reason, failed.detail) == ("failed", "crashed", f"its worker died twice ({said})")
    assert (tmp_path / "runs" / "run-1" / "result.json").is_file()
    assert {result.status for result in results.values()} == {"finished"}
    assert ("Traceback" in caplog.text) == (how == "raise")


def test_no_more_tasks_than_free_workers(workers: Workers) -> None:
    until(workers, lambda: workers.free() == workers.size)
    for number in range(workers.size):
        workers.submit(task(number))
    with pytest.raises(ValueError, match="no worker is free"):
        workers.submit(task(9))
    assert {finished.task.id for finished in workers.stop()} == set(range(workers.size))
    assert workers.stop() == []


def test_a_signal_loses_no_event_and_a_stop_ends_a_run_that_waits_for_its_answer(workers: Workers) -> None:
    with signals_as_flag():
        report = begin(workers, task(1, epochs=1_000_000))
        signal.raise_signal(signal.SIGINT)
        assert signalled()
    (stopped,) = workers.stop()
    assert (stopped.task.id, stopped.result and stopped.result.status) == (1, "interrupted")
    report.answer(True)
    # none of these takes the interrupted run's answer for its own
    later = perform(workers, *[task(n, epochs=3) for n in range(2, 6)], answer=lambda report: report.epoch < 2)
    assert [(result.status, result.epochs) for result in later.values()] == [("pruned", 2)] * 4


def test_a_stop_that_comes_at_once_is_not_lost(workers: Workers) -> None:
    for number in range(10):
        until(workers, workers.free)
        workers.submit(task(number, epochs=1_000_000))
        (stopped,) = workers.stop()
        assert stopped.task.id == number
        assert stopped.result is None or stopped.result.status == "interrupted"
    perform(workers, task(100), task(101))


def test_what_a_worker_logs_arrives_in_the_sweeps_log(workers: Workers, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        perform(workers, task(1, do="log"))
    found = [record for record in caplog.record_tuples if record[0] == "mnist_sweep.stub"]
    assert found == [("mnist_sweep.stub", logging.INFO, "100% of it")]
