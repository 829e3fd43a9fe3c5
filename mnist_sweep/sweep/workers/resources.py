"""What this machine gives a sweep: how many workers, with how many threads, on which GPUs; and the workers themselves.

They are no executor of the standard library: that has no channel for reports and stops while a task runs, the death of
one process breaks all of it, and each process imports the user's main module, which then needs a guard.
"""

import math
import os
import subprocess
import sys
from dataclasses import dataclass
from multiprocessing import Pipe
from pathlib import Path

from mnist_sweep import hardware
from mnist_sweep.config import options
from mnist_sweep.config.command import CommandLine
from mnist_sweep.config.sweep_options import Sweep
from mnist_sweep.errors import RequestError
from mnist_sweep.sweep.workers.messages import Train
from mnist_sweep.sweep.workers.pool import Handle, Workers
from mnist_sweep.sweep.workers.worker import WORKER_ENVIRONMENT, train


@dataclass(frozen=True)
class Resources:
    """How the machine is divided among workers."""

    workers: int  # trials at a time
    threads: int  # of the processor, for each
    gpus: tuple[str, ...]  # as CUDA_VISIBLE_DEVICES names them; the workers take them in turn. Empty = the CPU
    precision: hardware.Precision
    why: str  # that precision, in a few words; empty where it was asked for
    found: str = ""  # what there is, and how it is divided


def divide(command: CommandLine) -> Resources:
    """Divide this machine for a sweep; a RequestError where it lacks a GPU, or the launcher the workers, asked for."""
    config = command.config
    assert config.sweep is not None
    if isinstance(config.launcher, options.RayLauncher):
        return _divide_cluster(command, config.launcher)
    bound = hardware.unbind()
    hardware.check_accelerator(config.trainer.accelerator)
    gpus = () if config.trainer.accelerator == "cpu" else hardware.gpus()
    precision = hardware.precision(config.trainer.precision, bool(gpus))
    asked = config.sweep.workers
    if config.launcher.name == "inline":
        if (asked or 1) > 1:
            raise RequestError(f"sweep.workers={asked}: launcher=inline has one; allowed: launcher=local")
        return Resources(1, hardware.cores(), gpus[:1], *precision, f"{hardware.found()}: one worker{bound}")
    workers = asked or int(min(hardware.usual_workers(len(gpus)), _most(config.sweep)))
    threads = max(1, hardware.cores() // workers)
    on = f" on {len(gpus)} GPU{'s' * (len(gpus) > 1)}" if gpus else ""
    each = f"{workers} worker{'s' * (workers > 1)} of {threads} thread{'s' * (threads > 1)}{on}"
    return Resources(workers, threads, gpus, *precision, f"{hardware.found()}: {each}{bound}")


def _most(settings: Sweep) -> float:
    """Runs that there is ever work for at one time."""
    return max(settings.total, 2 * settings.winner.seeds)


def _divide_cluster(command: CommandLine, launcher: options.RayLauncher) -> Resources:
    """The same for a Ray cluster as it is now."""
    from mnist_sweep.sweep.workers import cluster

    sweep, gpus = command.config.sweep, launcher.gpus_per_worker
    assert sweep is not None
    if command.config.trainer.accelerator == "gpu" and not gpus:
        raise RequestError("launcher.gpus_per_worker=0: allowed with trainer.accelerator=gpu: more than 0")
    there = cluster.resources(launcher)
    room = cluster.capacity(there, launcher)
    workers, threads = sweep.workers or int(min(room, _most(sweep))), max(1, int(launcher.cpus_per_worker))
    found = f"a Ray cluster with {there['CPU']:g} cores and {there.get('GPU', 0):g} GPUs"
    each = f"{launcher.cpus_per_worker:g} cores" + (f" and {gpus:g} GPUs" if gpus else "")
    on = ("ray",) if gpus else ()
    found += f": {workers} worker{'s' * (workers > 1)} of {each}"
    return Resources(workers, threads, on, *cluster.precision(command), found)


def open_workers(command: CommandLine, resources: Resources, common: CommandLine) -> Workers:
    """The workers of a sweep. Each loads the data set that all trials have in common before it is ready."""
    launcher = command.config.launcher
    if launcher.name == "inline":
        return Workers.inline(train)
    if launcher.name == "ray":
        from mnist_sweep.sweep.workers.cluster import open_cluster

        return open_cluster(train, resources.workers, command, common)
    return local(train, resources, common=common, memory_growth_mb=launcher.memory_growth_mb)


def local(
    train: Train, resources: Resources, *, common: CommandLine | None = None, memory_growth_mb: float = math.inf
) -> Workers:
    """Workers in processes of their own, each of which finds `train` again by its module and its name."""
    gpus = resources.gpus or ("",)  # a GPU that is not to be used is hidden from torch, which would look for it
    path = os.pathsep.join(folder or str(Path.cwd()) for folder in sys.path)
    environment = {**WORKER_ENVIRONMENT, **os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": str(resources.threads)}

    def start(place: int) -> Handle:
        ours, theirs = Pipe()
        with theirs:  # closed here, so that the end of the process is the end of the connection
            code = f"from mnist_sweep.sweep.workers.worker import main; main({theirs.fileno()})"
            process = subprocess.Popen(
                [sys.executable, "-P", "-c", code],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # the terminal's Ctrl-C does not reach it
                env={**environment, "CUDA_VISIBLE_DEVICES": gpus[place % len(gpus)]},
            )
        handle = Handle(ours, process)
        handle.send((train, common))
        return handle

    shared = 0 < len(resources.gpus) < resources.workers
    hint = f"; with sweep.workers={len(gpus)} each has a GPU of its own" if shared else ""
    return Workers(resources.workers, start, memory_growth_mb, hint)
