"""How a sweep divides a machine."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch

from mnist_sweep import hardware as processor
from mnist_sweep.config.command import compose
from mnist_sweep.sweep.workers import resources as machine


@pytest.fixture
def as_if(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, list[float]], None]:
    """To be called with the cores of a machine, and the memory of each of its GPUs, GB."""

    def install(cores: int, memory: list[float]) -> None:
        monkeypatch.setattr(processor, "cores", lambda: cores)
        monkeypatch.setattr(machine, "gpus", lambda: tuple(map(str, range(len(memory)))))
        found = [SimpleNamespace(total_memory=int(gigabytes * 2**30)) for gigabytes in memory]
        monkeypatch.setattr(torch.cuda, "get_device_properties", found.__getitem__)

    return install


@pytest.mark.parametrize(
    ("cores", "memory", "workers", "threads"),
    [
        (2, [], 2, 1),
        (16, [80], 8, 2),
        (2, [80], 2, 1),
        (16, [80, 80], 16, 1),
        (16, [80, 4.5], 4, 4),
        (16, [1], 1, 16),
        (4, [80] * 8, 8, 1),
    ],
)
def test_workers_by_default(
    as_if: Callable[[int, list[float]], None], cores: int, memory: list[float], workers: int, threads: int
) -> None:
    as_if(cores, memory)
    divided = machine.share(compose(["+sweep=optuna", "trainer.precision=32"]))
    assert (divided.workers, divided.threads, len(divided.gpus)) == (workers, threads, len(memory))


def test_no_more_workers_than_trials(as_if: Callable[[int, list[float]], None]) -> None:
    as_if(64, [80, 80])
    asked = ["+sweep=optuna", "trainer.precision=32", "sweep.trials=3", "sweep.winner.top=1", "sweep.winner.seeds=2"]
    assert machine.share(compose(asked)).workers == 3
    assert machine.share(compose([*asked, "sweep.workers=5"])).workers == 5
