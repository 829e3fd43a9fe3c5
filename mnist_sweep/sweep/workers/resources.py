"""What this machine gives a sweep: how many workers, with how many threads, on which GPUs."""

import math
from dataclasses import dataclass

from mnist_sweep import hardware
from mnist_sweep.config.command import CommandLine
from mnist_sweep.errors import RequestError
from mnist_sweep.sweep.workers.messages import Train
from mnist_sweep.sweep.workers.pool import Workers
from mnist_sweep.sweep.workers.start import Handle, process
from mnist_sweep.sweep.workers.worker import train


@dataclass(frozen=True)
class Resources:
    """How the machine is divided among workers."""

    workers: int  # trials at a time
    threads: int  # of the processor, for each
    gpus: tuple[str, ...]  # as CUDA_VISIBLE_DEVICES names them; the workers take them in turn. Empty = the CPU
    precision: hardware.Precision
    why: str  # that precision, in a few words; empty where it was asked for


def divide(command: CommandLine) -> Resources:
    """Divide this machine for a sweep.

    Raises:
        RequestError: a GPU is asked for and there is none, or more workers than the launcher has.
    """
    config = command.config
    assert config.sweep is not None
    hardware.check_accelerator(config.trainer.accelerator)
    gpus = () if config.trainer.accelerator == "cpu" else hardware.gpus()
    precision = hardware.precision(config.trainer.precision, bool(gpus))
    asked = config.sweep.workers
    if config.launcher.name == "inline":
        if (asked or 1) > 1:
            raise RequestError(f"sweep.workers={asked}: launcher=inline has one; allowed: launcher=local")
        return Resources(1, hardware.cores(), gpus[:1], *precision)
    # no more than there is ever work for at one time
    most = max(config.sweep.total, config.sweep.winner.top * config.sweep.winner.seeds)
    workers = asked or int(min(hardware.usual_workers(len(gpus)), most))
    return Resources(workers, max(1, hardware.cores() // workers), gpus, *precision)


def open_workers(command: CommandLine, resources: Resources, common: CommandLine) -> Workers:
    """The workers of a sweep, which start when there is something to do.

    Args:
        command: of the sweep.
        resources: what each worker gets.
        common: what all trials have in common: a worker loads their data set before it is ready.
    """
    launcher = command.config.launcher
    if launcher.name == "inline":
        return Workers.inline(train)
    return local(train, resources, common=common, memory_growth_mb=launcher.memory_growth_mb)


def local(
    train: Train, resources: Resources, *, common: CommandLine | None = None, memory_growth_mb: float = math.inf
) -> Workers:
    """Workers in processes of their own; see `process` and `Workers`."""
    gpus = resources.gpus or ("",)  # a GPU that is not to be used is hidden from torch, which would look for it

    def start(place: int) -> Handle:
        gpu = gpus[place % len(gpus)]
        return process(train, {"OMP_NUM_THREADS": str(resources.threads), "CUDA_VISIBLE_DEVICES": gpu}, common)

    shared = 0 < len(resources.gpus) < resources.workers
    hint = f"; with sweep.workers={len(gpus)} each has a GPU of its own" if shared else ""
    return Workers(resources.workers, start, memory_growth_mb, hint)
