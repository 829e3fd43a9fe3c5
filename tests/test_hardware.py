"""What the machine has, and the precision that follows."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

from mnist_sweep import hardware


@pytest.mark.parametrize(
    ("content", "able"),
    [
        ("model name\t: bf16\nflags\t\t: fpu avx512f avx512_bf16 sse\n", True),
        ("processor\t: 0\nFeatures\t: fp asimd bf16\n", True),
        ("model name\t: bf16 avx512_bf16\nflags\t\t: fpu avx512f\n", False),
        (None, False),
    ],
)
def test_precision_follows_the_flags_of_the_processor_unless_one_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, content: str | None, able: bool
) -> None:
    read = Mock(return_value=content, side_effect=None if content else FileNotFoundError)  # not on other systems
    monkeypatch.setattr(Path, "read_text", read)
    hardware.multiplies_bf16.cache_clear()
    found, why = hardware.precision("auto", on_gpu=False)
    hardware.multiplies_bf16.cache_clear()
    assert (found, "CPU" in why) == ("bf16" if able else 32, True)
    assert hardware.precision(32, on_gpu=False) == (32, "")
    assert hardware.precision("bf16", on_gpu=False) == ("bf16", "")


@pytest.mark.parametrize(
    ("visible", "there", "found"),
    [("", 2, ("0", "1")), ("GPU-a,GPU-b", 2, ("GPU-a", "GPU-b")), ("3,4", 1, ("3",)), ("7", 0, ())],
)
def test_gpus_by_the_names_that_a_worker_is_given(
    monkeypatch: pytest.MonkeyPatch, visible: str, there: int, found: tuple[str, ...]
) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: "nvidia-smi")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: there)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert hardware.gpus() == found


@pytest.mark.parametrize(("known", "kept"), [({}, "passive None"), ({"GOMP_SPINCOUNT": "5"}, "None 5")])
def test_threads_that_wait_sleep_unless_the_user_has_said_otherwise(known: dict[str, str], kept: str) -> None:
    names = "OMP_WAIT_POLICY", "GOMP_SPINCOUNT"
    environment = {key: value for key, value in os.environ.items() if key not in names} | known
    script = "import os, sys, mnist_sweep; assert 'torch' not in sys.modules; print(*map(os.environ.get, "
    done = subprocess.run(
        [sys.executable, "-c", f"{script}{names}))"], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == kept
