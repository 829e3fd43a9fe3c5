"""What only worker processes can show: signals, deaths, memory, threads and GPUs."""

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator

import psutil
import pytest

from mnist_sweep.errors import RunFailure
from mnist_sweep.sweep.workers import Died, Ended, Reported
from mnist_sweep.sweep.workers.local import Local
from tests.conftest import ROOT
from tests.sweep.workers.driving import (
    PATIENCE,
    hold,
    local,
    perform,
    processes,
    results,
    task,
    the_end,
    until,
    until_free,
)
from tests.sweep.workers.stubs import RECORDING


@pytest.fixture
def pair() -> Iterator[Local]:
    """Two workers, both ready."""
    opened = local(2)
    until_free(opened, 2)
    yield opened
    opened.close()


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


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (None, "glibc.malloc.hugetlb=1"),
        ("glibc.malloc.arena_max=2", "glibc.malloc.hugetlb=1:glibc.malloc.arena_max=2"),
    ],
)
def test_a_worker_asks_for_large_pages_and_nobody_else(
    monkeypatch: pytest.MonkeyPatch, given: str | None, found: str
) -> None:
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    if given is not None:
        monkeypatch.setenv("GLIBC_TUNABLES", given)
    launcher = local(1)
    try:
        assert os.environ.get("GLIBC_TUNABLES") == given
        (result,) = results(perform(launcher, task(0))).values()
        assert result["tunables"] == found
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
    from tests.sweep.workers.driving import hold, local, perform, processes, results, task, the_end, until_free

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
