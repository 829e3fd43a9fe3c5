"""A launcher as the tests drive it: tasks in, events out."""

import time
from collections.abc import Callable
from typing import Any

from mnist_sweep.sweep.workers import Died, Ended, Event, Launcher, Ready, Refused, Reported, Task
from mnist_sweep.sweep.workers.local import Local

STUB = "tests.sweep.workers.stubs:stub"
#: Seconds, far more than anything here takes; a test that runs into it has failed.
PATIENCE = 60.0

Decision = Callable[[Reported], bool]


def local(workers: int, **more: Any) -> Local:
    settings: dict[str, Any] = {"threads": 1, "memory_growth_mb": 10_000, "performer": STUB} | more
    return Local(workers, **settings)


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
