"""The race of the best: what its last round does with workers that have nothing else to do."""

from hypothesis import given
from hypothesis import strategies as st

from mnist_sweep.sweep.launchers import Task
from mnist_sweep.sweep.winner import widened


def threads(task: Task) -> int:
    (item,) = [item for item in task.overrides if item.startswith("trainer.threads=")]
    return int(item.partition("=")[2])


@given(st.integers(1, 20), st.integers(1, 8), st.integers(1, 4))
def test_the_last_round_uses_all_cores(count: int, workers: int, each: int) -> None:
    cores = workers * each
    tasks = [
        Task(id=number, overrides=[f"trainer.threads={each}", f"seed={number}"], config_dir=None, parent=None, tags={})
        for number in range(count)
    ]
    found = widened(tasks, workers, cores)
    assert [task.id for task in found] == list(range(count))
    assert all(f"seed={task.id}" in task.overrides for task in found)
    for first in range(0, count, workers):
        at_once = [threads(task) for task in found[first : first + workers]]
        assert cores - len(at_once) < sum(at_once) <= cores
    assert all(threads(task) == each for task in found[: count - count % workers])
