"""What only worker processes can show: signals, deaths, hangs, memory, threads and GPUs."""

import dataclasses
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from mnist_sweep.config.command import CommandLine
from mnist_sweep.errors import RunFailure
from mnist_sweep.sweep.workers import Workers, pool
from tests.sweep.workers.driving import begin, numbers, perform, processes, task, told, until

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shared() -> Iterator[Workers]:
    with processes(2) as opened:
        yield opened


@pytest.fixture
def pair(shared: Workers) -> Workers:
    """Two workers, both ready."""
    until(shared, lambda: shared.free() == 2)
    return shared


def test_a_free_worker_never_waits_for_another_and_a_late_stop_does_not_hit_the_next_run(pair: Workers) -> None:
    begin(pair, task(0, do="wait"))
    for number in range(1, 5):
        pair.submit(task(number))
        assert [finished.task.id for finished in until(pair, pair.free)] == [number]
    assert [finished.task.id for finished in pair.stop()] == [0]
    before = numbers(pair)

    def stop(number: int) -> bool:
        """What a stop that crosses the end of its run looks like."""
        for worker in pair._workers.values():
            worker.send(("stop", number))
        return True

    for number in range(0, 20, 2):
        perform(pair, task(number))
        stop(number)
        results = perform(pair, task(number + 1, epochs=3), answer=lambda report: stop(report.task - 1))
        assert results[number + 1].status == "finished"
    assert numbers(pair) == before


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_a_worker_that_ends_while_it_has_nothing_to_do_is_replaced_without_a_word(pair: Workers, signum: int) -> None:
    before = numbers(pair)
    os.kill(before[0], signum)
    assert until(pair, lambda: numbers(pair) != before and pair.free() == 2) == []
    assert numbers(pair)[1] == before[1]


def test_a_run_that_is_terminated_records_itself_or_is_taken_up_again(pair: Workers) -> None:
    """As where a whole process group gets SIGTERM, more than once, and the sweep stops its runs as well."""
    begin(pair, task(1, epochs=1_000_000, do="record"))
    before = numbers(pair)
    for number in before:
        os.kill(number, signal.SIGTERM)
    (stopped,) = pair.stop()
    assert stopped.result
    assert stopped.result.status == "interrupted"
    until(pair, lambda: pair.free() == 2 and not {*numbers(pair)} & {*before})
    before = numbers(pair)
    results = pair.perform([task(1, once="terminate"), task(2)])  # by somebody else
    assert [results[number].status for number in (1, 2)] == ["finished", "finished"]
    assert numbers(pair) != before


@pytest.mark.fault(7)
def test_what_hangs_is_killed_after_its_time_or_where_it_does_not_stop(
    pair: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "_GRACE", 0.0)
    late = perform(pair, task(1, tmp_path, limit=0.01, do="hang"))[1]
    detail = "longer than 0.01 s, and did not answer any more"
    assert (late.status, late.reason, late.detail) == ("failed", "timeout", detail)
    monkeypatch.setattr(pool, "_PATIENCE", 0.0)
    pair.submit(task(2, do="hang"))
    (stopped,) = pair.stop()
    assert (stopped.task.id, stopped.result, pair.running) == (2, None, {})


def test_a_run_that_can_no_longer_be_composed_fails_the_sweep(tmp_path: Path) -> None:
    once = task(1, do="die")
    changed = CommandLine.of([*once.command.overrides, "experiment=gone"], tmp_path)
    with processes(1) as workers:
        (finished,) = until(workers, lambda: not workers.running, dataclasses.replace(once, command=changed))
        assert finished.result is None
        with pytest.raises(RunFailure, match=r"the failure of run-1 cannot be recorded: .*experiment=gone"):
            workers.events(0)


@pytest.mark.parametrize("tags", [{"do": "hoard"}, {"reason": "out_of_memory"}], ids=str)
def test_a_worker_that_has_grown_or_ran_out_of_memory_is_replaced(tags: dict[str, Any]) -> None:
    with processes(1, memory_growth_mb=32) as workers:
        results = perform(workers, task(1), task(2, **tags), task(3))
    first, second, third = (told(results[number])["process"] for number in (1, 2, 3))
    assert first == second != third


def test_each_worker_has_its_own_environment(pair: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.arena_max=2")
    with processes(2, threads=3, gpus=("GPU-a", "GPU-b")) as workers:
        until(workers, lambda: workers.free() == 2)
        results = perform(workers, task(0), task(1))
    for number, gpu in enumerate(["GPU-a", "GPU-b"]):
        found = told(results[number])
        assert (found["CUDA_VISIBLE_DEVICES"], found["OMP_NUM_THREADS"]) == (gpu, "3")
        assert found["GLIBC_TUNABLES"] == "glibc.malloc.arena_max=2"  # the user's own
    without = told(perform(pair, task(0))[0])
    assert (without["CUDA_VISIBLE_DEVICES"], without["GLIBC_TUNABLES"]) == ("", "glibc.malloc.hugetlb=1")


def test_workers_that_cannot_start_are_a_failure_which_those_that_can_do_not_hide() -> None:
    with processes(3, gpus=("", "broken")) as workers:
        begin(workers, task(1, do="wait"))
        with pytest.raises(RunFailure, match=r"cannot start: ImportError: no such library; with sweep.workers=2 each"):
            until(workers, lambda: False)
        assert workers.free() == 0
        # what runs can still be ended in good order
        assert [(each.task.id, each.result and each.result.status) for each in workers.stop()] == [(1, "interrupted")]


def test_workers_start_with_the_first_thing_to_do_and_nothing_is_left_at_the_end() -> None:
    with processes(2) as idle, processes(1) as starting, processes(2) as workers:
        assert (idle.perform([]), idle.stop(), numbers(idle)) == ({}, [], [])
        starting.open()
        begin(workers, task(1, epochs=1_000_000))
        found = [psutil.Process(number) for number in [*numbers(workers), *numbers(starting)]]
        # so that the terminal's Ctrl-C does not reach them
        assert {os.getsid(process.pid) for process in found} == {process.pid for process in found}
    assert len(found) == 3
    assert not any(process.is_running() for process in found)
