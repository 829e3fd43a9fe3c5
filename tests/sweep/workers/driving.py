"""Workers as the tests drive them: tasks in, events out."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mnist_sweep.config.command import CommandLine
from mnist_sweep.result import Result
from mnist_sweep.sweep.workers import Finished, Report, Task, Workers
from mnist_sweep.sweep.workers.resources import Resources, local
from tests.conftest import SMALL
from tests.sweep.workers.stubs import stub

#: Seconds, far more than anything here takes; a test that runs into it has failed.
PATIENCE = 60.0


def processes(size: int, *, threads: int = 1, gpus: tuple[str, ...] = (), **more: Any) -> Workers:
    return local(stub, Resources(size, threads, gpus, 32, ""), **more)


def task(number: int, output: str | Path = "nowhere", limit: float | None = None, **tags: Any) -> Task:
    command = CommandLine.of([*SMALL, f"output={output}", f"name=run-{number}"])
    return Task(number, command, tags=tags, limit_seconds=limit)


def heard(workers: Workers, answer: Callable[[Report], bool] | None = None) -> list[Finished]:
    """What has finished within a second. Without an answer the runs go on."""
    finished = []
    for event in workers.events(1.0):
        if isinstance(event, Report):
            event.answer(answer is None or answer(event))
        else:
            finished.append(event)
    return finished


def until(workers: Workers, done: Callable[[], object]) -> list[Finished]:
    """What finishes until a condition holds."""
    finished: list[Finished] = []
    deadline = time.monotonic() + PATIENCE
    while not done():
        assert time.monotonic() < deadline
        finished += heard(workers)
    return finished


def begin(workers: Workers, first: Task) -> Report:
    """Submit a task and wait for its first report, which stays without an answer."""
    until(workers, workers.free)
    workers.submit(first)
    while True:
        for event in workers.events(PATIENCE):
            assert isinstance(event, Report)
            return event


def perform(workers: Workers, *tasks: Task, answer: Callable[[Report], bool] | None = None) -> dict[int, Result | None]:
    """Submit tasks as workers become free; the results of all by number, in the order in which they came."""
    left, results = list(tasks), dict[int, Result | None]()
    deadline = time.monotonic() + PATIENCE
    while left or workers.running:
        assert time.monotonic() < deadline
        while left and workers.free():
            workers.submit(left.pop(0))
        for event in heard(workers, answer):
            assert event.task.id not in results
            results[event.task.id] = event.result
    return results


def finish(workers: Workers, only: Task, answer: Callable[[Report], bool] | None = None) -> Result:
    """Perform one task to its end."""
    result = perform(workers, only, answer=answer)[only.id]
    assert result
    return result


def told(result: Result | None) -> dict[str, Any]:
    """The process and the environment that performed a stub."""
    assert result
    found: dict[str, Any] = json.loads(result.detail or "")
    return found


def numbers(workers: Workers) -> list[int]:
    """The processes' ids, by place."""
    return [worker.process.pid for _, worker in sorted(workers._workers.items()) if worker.process]
