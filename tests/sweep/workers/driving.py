"""Workers as the tests drive them: tasks in, events out."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mnist_sweep.config.command import CommandLine
from mnist_sweep.result import Result
from mnist_sweep.sweep.workers import Finished, Report, Task, Workers
from mnist_sweep.sweep.workers.resources import Resources, local
from tests.conftest import ROOT, command
from tests.sweep.workers.stubs import stub

#: Seconds, far more than anything here takes; a test that runs into it has failed.
PATIENCE = 60.0


def processes(size: int, *, threads: int = 1, gpus: tuple[str, ...] = (), **more: Any) -> Workers:
    return local(stub, Resources(size, threads, gpus, 32, ""), **more)


def cluster(size: int) -> Workers:
    """The same as actors of a Ray cluster of this machine."""
    os.environ["PYTHONPATH"] = str(ROOT)  # where they find the stub
    from mnist_sweep.sweep.workers.cluster import open_cluster

    items = ["+sweep=optuna", "launcher=ray", "launcher.cpus_per_worker=0.5", f"sweep.workers={size}", "output=nowhere"]
    return open_cluster(stub, size, CommandLine.of(items))


def task(number: int, output: str | Path = "nowhere", limit: float | None = None, **tags: Any) -> Task:
    return Task(number, command(Path(output), f"run-{number}"), tags=tags, limit_seconds=limit)


def until(
    workers: Workers, done: Callable[[], object], *tasks: Task, answer: Callable[[Report], bool] | None = None
) -> list[Finished]:
    """Submit tasks as workers become free, and then wait for a condition; what has finished. Runs go on by default."""
    left, finished = list(tasks), list[Finished]()
    deadline = time.monotonic() + PATIENCE
    while left or not done():
        assert time.monotonic() < deadline
        while left and workers.free():
            workers.submit(left.pop(0))
        for event in workers.events(1.0):
            if isinstance(event, Report):
                event.answer(answer is None or answer(event))
            else:
                finished.append(event)
    return finished


def perform(workers: Workers, *tasks: Task, answer: Callable[[Report], bool] | None = None) -> dict[int, Result]:
    """The results of tasks by number. Each has one."""
    finished = until(workers, lambda: not workers.running, *tasks, answer=answer)
    results = {event.task.id: event.result for event in finished if event.result}
    assert len(results) == len(finished) == len(tasks)
    return results


def begin(workers: Workers, first: Task) -> Report:
    """Submit a task and wait for its first report, which stays without an answer."""
    until(workers, workers.free)
    workers.submit(first)
    events = workers.events(PATIENCE) or workers.events(PATIENCE)  # another worker may become ready meanwhile
    assert isinstance(events[0], Report)
    return events[0]


def told(result: Result) -> dict[str, Any]:
    """The process and the environment that performed a stub."""
    found: dict[str, Any] = json.loads(result.detail or "")
    return found


def numbers(workers: Workers) -> list[int]:
    """The processes' ids, by place."""
    return [worker.process.pid for _, worker in sorted(workers._workers.items()) if worker.process]
