"""What this machine gives a sweep: how many workers, with how many threads, on which GPUs."""

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mnist_sweep import hardware as processor
from mnist_sweep.config import schema
from mnist_sweep.errors import RequestError
from mnist_sweep.sweep.workers import Launcher

#: Where a driver shows itself: NVIDIA's, in WSL 2, on a Jetson; AMD's.
_DRIVERS = ("/proc/driver/nvidia", "/dev/nvidia0", "/dev/dxg", "/dev/nvhost-gpu", "/dev/kfd")

#: Workers that share a GPU: while one evaluates, writes or draws, the others train (benchmarks/NOTES.md).
_PER_GPU = 8
#: Of a GPU's memory for each of them. The default network's had 0.8 GB; a larger one's maps take more.
_BYTES_A_WORKER = 2 * 2**30


@dataclass(frozen=True)
class Share:
    """How the machine is divided among workers.

    Attributes:
        workers: trials at a time.
        threads: of the processor, for each.
        gpus: as CUDA_VISIBLE_DEVICES names them; the workers take them in turn. Empty = the CPU.
        precision: of training.
        why: that precision, in a few words; empty where it was asked for.
    """

    workers: int
    threads: int
    gpus: tuple[str, ...]
    precision: processor.Precision
    why: str


def gpus() -> tuple[str, ...]:
    """The GPUs that torch can use, by the names that CUDA_VISIBLE_DEVICES has or would have for them."""
    if not any(map(os.path.exists, _DRIVERS)) and shutil.which("nvidia-smi") is None:
        return ()  # importing torch takes seconds, and most machines without a driver are known so
    import torch

    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    count = torch.cuda.device_count()
    return tuple(named[:count]) if len(named) >= count else tuple(str(index) for index in range(count))


def check(config: schema.Config) -> None:
    """Raise a `RequestError` where a config asks for a GPU and there is none."""
    if config.trainer.accelerator == "gpu" and not gpus():
        raise RequestError("trainer.accelerator=gpu: no GPU here that torch can use; allowed: auto, cpu")


def share(config: schema.Config) -> Share:
    """The division of this machine for a sweep.

    Raises:
        RequestError: a GPU is asked for and there is none.
    """
    assert config.sweep is not None
    check(config)
    found = () if config.trainer.accelerator == "cpu" else gpus()
    precision = processor.precision(config.trainer.precision, bool(found))
    if isinstance(config.launcher, schema.InlineLauncher):
        if (config.sweep.workers or 1) > 1:
            raise RequestError(
                f"sweep.workers={config.sweep.workers}: launcher=inline has one; allowed: launcher=local"
            )
        return Share(1, processor.cores(), found[:1], *precision)
    # no more than there is ever work for at one time
    most = max(config.sweep.trials, config.sweep.winner.top * config.sweep.winner.seeds)
    workers = config.sweep.workers or min(_usual_workers(len(found)), most)
    return Share(workers, max(1, processor.cores() // workers), found, *precision)


def _usual_workers(gpus: int) -> int:
    """How many, if nothing else is asked for: as many as cores; on GPUs one to eight for each."""
    if not gpus:
        return processor.cores()
    import torch

    memory = min(torch.cuda.get_device_properties(index).total_memory for index in range(gpus))
    return max(gpus, min(gpus * min(_PER_GPU, memory // _BYTES_A_WORKER), processor.cores()))


def launcher(
    config: schema.Config, divided: Share, common: Sequence[str], config_dir: str | None
) -> Callable[[], Launcher]:
    """How to open the config's launcher.

    Args:
        config: of the sweep.
        divided: what each worker gets.
        common: overrides of all trials: a worker loads their data set before it is ready.
        config_dir: the further folder of configs.
    """
    settings = config.launcher

    def opened() -> Launcher:
        if isinstance(settings, schema.InlineLauncher):
            from mnist_sweep.sweep.workers.inline import Inline

            return Inline()
        from mnist_sweep.sweep.workers.local import Local

        return Local(
            divided.workers,
            threads=divided.threads,
            gpus=divided.gpus,
            memory_growth_mb=settings.memory_growth_mb,
            warm_up=list(common),
            config_dir=config_dir,
        )

    return opened
