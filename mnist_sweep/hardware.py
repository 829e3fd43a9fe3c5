"""What the processor can do, found out without importing torch."""

import functools
import os
from pathlib import Path
from typing import Literal

Precision = Literal[32, "bf16"]

#: What Linux calls the instructions that multiply bf16: on x86, and on Arm.
_BF16 = {"avx512_bf16", "amx_bf16", "bf16"}


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@functools.cache
def multiplies_bf16() -> bool:
    """Whether the processor multiplies bf16 itself; False where that cannot be told."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    return any(not _BF16.isdisjoint(line.split()) for line in lines if line.startswith(("flags", "Features")))


def precision(wanted: Precision | Literal["auto"], on_gpu: bool) -> tuple[Precision, str]:
    """The precision of training, and why, in a few words; empty where it was asked for.

    Args:
        wanted: the config's ``trainer.precision``.
        on_gpu: whether it is for a GPU that torch can use.
    """
    if wanted != "auto":
        return wanted, ""
    if on_gpu:
        import torch

        able, what = torch.cuda.is_bf16_supported(including_emulation=False), "GPU"
    else:
        able, what = multiplies_bf16(), "processor"
    return ("bf16", f"this {what} multiplies bf16") if able else (32, f"this {what} does not multiply bf16")
