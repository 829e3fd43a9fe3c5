"""How a sweep divides a machine."""

import pytest

from mnist_sweep import processor
from mnist_sweep.composition import compose
from mnist_sweep.sweep import machine


@pytest.mark.parametrize(
    ("gpus", "cores", "workers", "threads"),
    [
        (0, 2, 2, 1),
        (1, 16, 4, 4),
        (1, 2, 2, 1),
        (2, 16, 8, 2),
        (8, 4, 8, 1),
    ],
)
def test_workers_by_default(monkeypatch: pytest.MonkeyPatch, gpus: int, cores: int, workers: int, threads: int) -> None:
    monkeypatch.setattr(machine, "gpus", lambda: tuple(map(str, range(gpus))))
    monkeypatch.setattr(processor, "cores", lambda: cores)
    divided = machine.share(compose(["+sweep=optuna", "trainer.precision=32"]))
    assert (divided.workers, divided.threads, len(divided.gpus)) == (workers, threads, gpus)


def test_no_more_workers_than_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "gpus", lambda: ("0", "1"))
    monkeypatch.setattr(processor, "cores", lambda: 64)
    asked = ["+sweep=optuna", "trainer.precision=32", "sweep.trials=3", "sweep.winner.top=1", "sweep.winner.seeds=2"]
    assert machine.share(compose(asked)).workers == 3
    assert machine.share(compose([*asked, "sweep.workers=5"])).workers == 5
