"""What only worker processes can show: signals, deaths, hangs, memory, threads and GPUs."""

import dataclasses
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from mnist_sweep.config.command import CommandLine
from mnist_sweep.errors import RunFailure
from mnist_sweep.sweep.workers import Workers, pool
from tests.conftest import ROOT
from tests.sweep.workers.driving import PATIENCE, begin, finish, numbers, perform, processes, task, told, until


@pytest.fixture(scope="module")
def shared() -> Iterator[Workers]:
    with processes(2) as opened:
        yield opened


@pytest.fixture
def pair(shared: Workers) -> Workers:
    """Two workers, both ready."""
    until(shared, lambda: shared.free() == 2)
    return shared


def test_a_free_worker_never_waits_for_another(pair: Workers) -> None:
    begin(pair, task(0, do="wait"))
    for number in range(1, 5):
        pair.submit(task(number))
        assert [finished.task.id for finished in until(pair, pair.free)] == [number]
    assert [finished.task.id for finished in pair.stop()] == [0]


def test_a_late_stop_does_not_hit_the_next_run(pair: Workers) -> None:
    before = numbers(pair)

    def stop(number: int) -> bool:
        """What a stop that crosses the end of its run looks like."""
        for worker in pair._workers.values():
            worker.send(("stop", number))
        return True

    for number in range(0, 20, 2):
        finish(pair, task(number))
        stop(number)
        result = finish(pair, task(number + 1, epochs=3), answer=lambda report: stop(report.task - 1))
        assert result.status == "finished"
    assert numbers(pair) == before


def test_a_run_whose_worker_is_killed_is_tried_once_more(pair: Workers, tmp_path: Path) -> None:
    results = perform(pair, task(1, once="die"), task(2, tmp_path, do="die"))
    assert (first := results[1])
    assert first.status == "finished"
    assert (second := results[2])
    assert (second.reason, second.detail) == ("crashed", "its worker died twice (killed by signal 9)")
    until(pair, lambda: pair.free() == 2)


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_a_worker_that_ends_while_it_has_nothing_to_do_is_replaced_without_a_word(pair: Workers, signum: int) -> None:
    before = numbers(pair)
    os.kill(before[0], signum)
    assert until(pair, lambda: numbers(pair) != before) == []
    until(pair, lambda: pair.free() == 2)
    assert numbers(pair)[1] == before[1]


def test_a_run_that_is_terminated_from_everywhere_records_itself(pair: Workers) -> None:
    """As where a whole process group gets SIGTERM, more than once, and the sweep stops its runs as well."""
    begin(pair, task(1, epochs=1_000_000, do="record"))
    before = numbers(pair)
    for number in before:
        os.kill(number, signal.SIGTERM)
    (stopped,) = pair.stop()
    assert stopped.result
    assert stopped.result.status == "interrupted"
    until(pair, lambda: pair.free() == 2 and not {*numbers(pair)} & {*before})


def test_a_run_that_hangs_is_killed_after_its_time(
    pair: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "_GRACE", 0.0)
    result = finish(pair, task(1, tmp_path, limit=0.01, do="hang"))
    assert (result.status, result.reason) == ("failed", "timeout")
    assert result.detail == "longer than 0.01 s, and did not answer any more"


def test_what_does_not_stop_is_killed(pair: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "_PATIENCE", 0.0)
    pair.submit(task(1, do="hang"))
    (stopped,) = pair.stop()
    assert (stopped.task.id, stopped.result, pair.running) == (1, None, {})


def test_a_run_that_can_no_longer_be_composed_fails_the_sweep(tmp_path: Path) -> None:
    once = task(1, do="die")
    changed = CommandLine.of([*once.command.overrides, "experiment=gone"], tmp_path)
    with processes(1) as workers:
        until(workers, workers.free)
        workers.submit(dataclasses.replace(once, command=changed))
        (finished,) = until(workers, lambda: not workers.running)
        assert finished.result is None
        with pytest.raises(RunFailure, match=r"now cannot: .*experiment=gone"):
            workers.events(0)


@pytest.mark.parametrize("tags", [{"do": "hoard"}, {"reason": "out_of_memory"}], ids=str)
def test_a_worker_that_has_grown_or_ran_out_of_memory_is_replaced(tags: dict[str, Any]) -> None:
    with processes(1, memory_growth_mb=32) as workers:
        found = [told(finish(workers, each))["process"] for each in (task(1), task(2, **tags), task(3))]
        assert found[0] == found[1] != found[2]


def test_each_worker_has_its_own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.arena_max=2")
    with processes(2, threads=3, gpus=("GPU-a", "GPU-b")) as workers:
        until(workers, lambda: workers.free() == 2)
        results = perform(workers, task(0), task(1))
    tunables = "glibc.malloc.hugetlb=1:glibc.malloc.arena_max=2"
    for number, gpu in enumerate(["GPU-a", "GPU-b"]):
        found = told(results[number])
        assert found.pop("process")
        assert found == {"CUDA_VISIBLE_DEVICES": gpu, "OMP_NUM_THREADS": "3", "GLIBC_TUNABLES": tunables}
    assert os.environ["GLIBC_TUNABLES"] == "glibc.malloc.arena_max=2"


def test_a_worker_without_a_gpu_sees_none(pair: Workers) -> None:
    found = told(finish(pair, task(0)))
    assert (found["CUDA_VISIBLE_DEVICES"], found["OMP_NUM_THREADS"]) == ("", "1")
    assert str(found["GLIBC_TUNABLES"]).startswith("glibc.malloc.hugetlb=1")


def test_workers_that_cannot_start_are_a_failure_which_those_that_can_do_not_hide() -> None:
    with processes(3, gpus=("", "broken")) as workers:
        begin(workers, task(1, do="wait"))
        with pytest.raises(RunFailure, match=r"cannot start: ImportError: no such library; with sweep.workers=2 each"):
            until(workers, lambda: False)
        assert workers.free() == 0
        # what runs can still be ended in good order
        assert [(each.task.id, each.result and each.result.status) for each in workers.stop()] == [(1, "interrupted")]


def test_nothing_is_left_after_the_end_also_of_workers_that_were_not_ready() -> None:
    with processes(2) as workers, processes(1) as others:
        others.open()
        begin(workers, task(1, epochs=1_000_000))
        found = [psutil.Process(number) for number in [*numbers(workers), *numbers(others)]]
    assert len(found) == 3
    assert not any(process.is_running() for process in found)


def test_workers_start_with_the_first_thing_there_is_to_do() -> None:
    with Workers(1, lambda _: pytest.fail("nothing was to be done")) as workers:
        assert workers.perform([]) == {}
        assert workers.stop() == []


DRIVER = """
    import time
    from mnist_sweep.errors import signalled, signals_as_flag
    from tests.sweep.workers.driving import begin, finish, numbers, processes, task, until

    def wait_for_a_signal(workers):
        with signals_as_flag():
            print(*numbers(workers), flush=True)
            while not signalled():
                time.sleep(0.01)

    with processes(2) as pair:
        pair.open()
"""


def sweep(*body: str) -> "subprocess.Popen[str]":
    """A sweep's process in a group of its own, as a shell starts it."""
    script = textwrap.dedent(DRIVER) + "".join(f"    {line}\n" for line in body)
    return subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )


def test_a_ctrl_c_of_the_terminal_does_not_touch_the_workers() -> None:
    with sweep(
        "wait_for_a_signal(pair)  # as they start",
        "until(pair, lambda: pair.free() == 2)",
        "wait_for_a_signal(pair)  # while they are idle",
        "begin(pair, task(3, do='wait'))",
        "wait_for_a_signal(pair)  # while one has a task",
        "assert [each.result.status for each in pair.stop()] == ['interrupted']",
        "assert finish(pair, task(4)).status == 'finished'",
        "print(*numbers(pair), flush=True)",
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


def test_workers_do_not_survive_a_sweep_that_was_killed() -> None:
    with sweep("begin(pair, task(1, do='wait'))", "wait_for_a_signal(pair)") as process:
        try:
            assert process.stdout
            found = [psutil.Process(int(number)) for number in process.stdout.readline().split()]
        finally:
            process.kill()
        assert len(found) == 2
        _, alive = psutil.wait_procs(found, timeout=PATIENCE)
    assert not alive
