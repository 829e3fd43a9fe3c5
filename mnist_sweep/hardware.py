"""What this machine can do: its cores, its GPUs, and the precision that follows. Torch is imported for a GPU only."""

import functools
import math
import os
import platform
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import psutil

from mnist_sweep.errors import RequestError

Precision = Literal[32, "bf16"]

#: What Linux calls the instructions that multiply bf16: on x86, and on Arm.
_BF16 = {"avx512_bf16", "amx_bf16", "bf16"}
#: Where a GPU's driver shows itself: NVIDIA's, in WSL 2, on a Jetson; AMD's.
_DRIVERS = ("/proc/driver/nvidia", "/dev/nvidia0", "/dev/dxg", "/dev/nvhost-gpu", "/dev/kfd")
#: Workers that share a GPU: while one evaluates, writes or draws, the others train (benchmarks/NOTES.md).
_WORKERS_A_GPU = 8
#: Of a GPU's memory for each of them. The default network's had 0.8 GB; a larger one's maps take more.
_BYTES_A_WORKER = 2 * 2**30
#: Of the machine's memory for each worker. One with full MNIST had 1.4 GB at most, of which 0.5 are shared.
_MEMORY_A_WORKER = 2**30
#: By which a cluster's profile ties threads to cores: each worker would tie its own to the same ones.
_BINDINGS = ("OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY", "KMP_AFFINITY")


#: How threads wait for each other, by libgomp's environment variables: asleep, or spinning as by its own default.
_ASLEEP, _SPINNING = ("OMP_WAIT_POLICY", "passive"), ("GOMP_SPINCOUNT", "300000")


def choose_waiting(root: Path = Path("/")) -> None:
    """Choose how threads wait for each other, before torch is imported; what the user has set stays.

    On cores of its own a run whose threads sleep takes a seventh longer. Where something else uses one of the cores,
    spinning threads wait for the one that has none, and with sleeping ones it takes two thirds of the time
    (benchmarks/busy_core.py, docs/speed.md). Processes started from here do alike.
    """
    if os.environ.keys() & {_ASLEEP[0], _SPINNING[0]}:
        return
    name, value = _SPINNING if _others(root) + affinity() <= (os.cpu_count() or 1) else _ASLEEP
    os.environ[name] = value


def _others(root: Path) -> int:
    """Other threads of this machine that run all the time, for a fiftieth of a second; 1 where it cannot be known."""
    running = []
    for _ in range(3):
        try:
            text = (root / "proc/loadavg").read_text(encoding="utf-8")
        except OSError:  # another system
            return 1
        running.append(int(text.split()[3].partition("/")[0]))
        time.sleep(0.01)
    return max(0, min(running) - 1)


def affinity() -> int:
    """Cores that the system lets this process run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def quota(root: Path = Path("/")) -> float:
    """Processors that the container may use at a time, by its control groups (v1 and v2); infinity without a limit."""
    periods = [text.split() for text in _limits(root, "cpu", "cpu.max", "cpu.cfs_quota_us", "cpu.cfs_period_us")]
    return min((int(us) / int(period) for us, period in periods if us not in ("max", "-1")), default=math.inf)


def memory(root: Path = Path("/")) -> float:
    """Bytes of memory that the container, or else the machine, has."""
    limits = [text.strip() for text in _limits(root, "memory", "memory.max", "memory.limit_in_bytes")]
    return min([float(psutil.virtual_memory().total), *(float(limit) for limit in limits if limit != "max")])


def _limits(root: Path, controller: str, unified: str, *separate: str) -> Iterator[str]:
    """What the files of this process's control groups, and of those above them, say.

    See https://docs.kernel.org/admin-guide/cgroup-v2.html, and admin-guide/cgroup-v1 there. A container may see itself
    as the topmost group, whatever its path.
    """
    try:
        groups = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:  # another system
        return
    for number, controllers, path in (line.split(":", 2) for line in groups):
        files, top = [unified], root / "sys/fs/cgroup"
        if number != "0":  # of version 1
            files, top = [*separate], top / controller
            if controller not in controllers.split(","):
                continue
        group = top / path.lstrip("/")
        for folder in (group, *group.parents):
            if folder.is_relative_to(top) and all((folder / file).is_file() for file in files):
                yield " ".join((folder / file).read_text(encoding="utf-8").strip() for file in files)


def cores() -> int:
    """Cores that this process may use: no more than its container's quota of processors."""
    return max(1, int(min(affinity(), quota())))


def found() -> str:
    """The cores and the memory, in words."""
    limited = f" (the container's quota; {affinity()} without it)" if cores() < affinity() else ""
    return f"{cores()} core{'s' * (cores() > 1)}{limited}, {memory() / 2**30:.1f} GB of memory"


def unbind() -> str:
    """Let the workers of a sweep spread over the cores, whatever the environment says; in words, if it said anything.

    OpenMP reads it when torch is imported, and children inherit what it makes of this process.
    """
    bound = [f"{name}={os.environ.pop(name)}" for name in _BINDINGS if name in os.environ]
    return f"; {', '.join(bound)} would tie all workers to the same cores, and is ignored" if bound else ""


@functools.cache
def multiplies_bf16() -> bool:
    """Whether the processor multiplies bf16 itself; False where that cannot be told."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    return any(not _BF16.isdisjoint(line.split()) for line in lines if line.startswith(("flags", "Features")))


def machine() -> dict[str, Any]:
    """What a reader of the numbers wants to know of this machine: system, processor, cores, memory in GB."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    memory = round(psutil.virtual_memory().total / 1e9, 1)
    processor = named[0] if named else platform.processor()
    return {"system": platform.platform(), "processor": processor, "cores": cores(), "memory_gb": memory}


def precision(wanted: Precision | Literal["auto"], on_gpu: bool) -> tuple[Precision, str]:
    """The precision of training for the config's ``trainer.precision``, and why; no reason where it was asked for."""
    if wanted != "auto":
        return wanted, ""
    if on_gpu:
        import torch

        able, what = torch.cuda.is_bf16_supported(including_emulation=False), "GPU"
    else:
        able, what = multiplies_bf16(), "CPU"
    return ("bf16", f"this {what} has bf16") if able else (32, f"this {what} has no bf16")


def precision_in_words(chosen: Precision, why: str) -> str:
    """``precision: fp32 (this CPU has no bf16)``: what `precision` chose, and why."""
    return f"precision: {'fp32' if chosen == 32 else chosen} ({why})"


def gpus() -> tuple[str, ...]:
    """The GPUs that torch can use, by the names that CUDA_VISIBLE_DEVICES has or would have for them."""
    if not any(map(os.path.exists, _DRIVERS)) and shutil.which("nvidia-smi") is None:
        return ()  # importing torch takes seconds, and most machines without a driver are known so
    import torch

    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    count = torch.cuda.device_count()
    return tuple(named[:count]) if len(named) >= count else tuple(str(index) for index in range(count))


def usual_workers(gpus: int) -> int:
    """Runs at a time, if nothing else is asked for: as many as cores; on GPUs one to eight for each.

    No more than have room in the memory.
    """
    room = max(1, int(memory() / _MEMORY_A_WORKER))
    if not gpus:
        return min(cores(), room)
    import torch

    on_gpu = min(torch.cuda.get_device_properties(index).total_memory for index in range(gpus))
    return max(gpus, min(gpus * min(_WORKERS_A_GPU, on_gpu // _BYTES_A_WORKER), cores(), room))


def check_accelerator(accelerator: str) -> None:
    """Raise a RequestError where ``trainer.accelerator`` is ``gpu``, and torch can use none here."""
    if accelerator == "gpu" and not gpus():
        raise RequestError("trainer.accelerator=gpu: no GPU here that torch can use; allowed: auto, cpu")
