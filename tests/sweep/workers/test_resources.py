"""How a sweep divides a machine."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch

from mnist_sweep import hardware
from mnist_sweep.config.command import CommandLine
from mnist_sweep.errors import RequestError
from mnist_sweep.sweep.workers.resources import divide

SWEEP = CommandLine.of(["+sweep=optuna", "trainer.precision=32"])
AsIf = Callable[..., None]


@pytest.fixture
def as_if(monkeypatch: pytest.MonkeyPatch) -> AsIf:
    """To be called with the cores of a machine, and the memory of each of its GPUs, GB."""

    def install(cores: int, *memory: float) -> None:
        monkeypatch.setattr(hardware, "cores", lambda: cores)
        monkeypatch.setattr(hardware, "gpus", lambda: tuple(map(str, range(len(memory)))))
        found = [SimpleNamespace(total_memory=int(gigabytes * 2**30)) for gigabytes in memory]
        monkeypatch.setattr(torch.cuda, "get_device_properties", found.__getitem__)

    return install


@pytest.mark.parametrize(
    ("cores", "memory", "workers", "threads"),
    [(2, [], 2, 1), (16, [80], 8, 2), (2, [80], 2, 1), (16, [80, 4.5], 4, 4), (16, [1], 1, 16), (4, [80] * 8, 8, 1)],
)
def test_workers_by_default(as_if: AsIf, cores: int, memory: list[float], workers: int, threads: int) -> None:
    as_if(cores, *memory)
    divided = divide(SWEEP)
    assert (divided.workers, divided.threads, len(divided.gpus)) == (workers, threads, len(memory))


def test_no_more_workers_than_trials(as_if: AsIf) -> None:
    as_if(64, 80, 80)
    few = SWEEP.with_({"sweep.trials": 3, "sweep.winner.top": 1, "sweep.winner.seeds": 2})
    assert divide(few).workers == 3
    assert divide(few.with_({"sweep.workers": 5})).workers == 5


def test_an_inline_worker_has_the_machine_to_itself_and_one_gpu(as_if: AsIf) -> None:
    as_if(16, 80, 80)
    inline = SWEEP.add("launcher=inline")
    divided = divide(inline)
    assert (divided.workers, divided.threads, divided.gpus) == (1, 16, ("0",))
    with pytest.raises(RequestError, match=r"sweep\.workers=2: launcher=inline has one; allowed: launcher=local"):
        divide(inline.with_({"sweep.workers": 2}))


def test_a_gpu_that_is_not_there_is_refused_and_one_that_is_not_wanted_left_alone(as_if: AsIf) -> None:
    as_if(2)
    with pytest.raises(RequestError, match=r"trainer\.accelerator=gpu: no GPU here"):
        divide(SWEEP.with_({"trainer.accelerator": "gpu"}))
    as_if(2, 80)
    assert divide(SWEEP.with_({"trainer.accelerator": "cpu"})).gpus == ()
