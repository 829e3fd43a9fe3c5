"""What the machine has, and the precision that follows."""

import math
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


@pytest.mark.parametrize(
    ("running", "known", "kept"),
    [
        ("1/99", {}, (None, "300000")),
        ("2/99", {}, ("passive", None)),
        (None, {}, ("passive", None)),
        ("2/99", {"GOMP_SPINCOUNT": "5"}, (None, "5")),
        ("1/99", {"OMP_WAIT_POLICY": "active"}, ("active", None)),
    ],
)
def test_threads_sleep_beside_other_processes_unless_the_user_has_said_otherwise(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, running: str | None, known: dict[str, str],
    kept: tuple[str | None, str | None],
) -> None:  # fmt: skip
    names = "OMP_WAIT_POLICY", "GOMP_SPINCOUNT"
    for name in names:
        monkeypatch.setenv(name, known.get(name, ""))
        if name not in known:
            monkeypatch.delenv(name)
    monkeypatch.setattr(os, "cpu_count", hardware.affinity)
    if running:
        (tmp_path / "proc").mkdir()
        (tmp_path / "proc" / "loadavg").write_text(f"9.9 0.0 0.0 {running} 4242\n")
    hardware.choose_waiting(tmp_path)
    assert tuple(map(os.environ.get, names)) == kept


def test_how_threads_wait_is_chosen_before_torch_is_imported() -> None:
    script = "import os, sys, mnist_sweep; assert 'torch' not in sys.modules; print(*os.environ)"
    environment = {key: value for key, value in os.environ.items() if key not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert len({"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & {*done.stdout.split()}) == 1


@pytest.mark.parametrize(
    ("groups", "files", "processors", "gigabytes"),
    [
        ("0::/", {"cpu.max": "250000 100000", "memory.max": "1073741824"}, 2.5, 1),
        ("0::/a/b", {"a/cpu.max": "50000 100000", "a/b/cpu.max": "max 100000", "a/b/memory.max": "max"}, 0.5, None),
        (
            "4:memory:/docker/1\n3:cpu,cpuacct:/docker/1\n0::/docker/1",  # which the container has as its topmost group
            {
                "cpu/cpu.cfs_quota_us": "300000",
                "cpu/cpu.cfs_period_us": "100000",
                "memory/memory.limit_in_bytes": "2147483648",
            },
            3,
            2,
        ),
        ("3:cpu:/", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, math.inf, None),
        (None, {}, math.inf, None),
    ],
)
def test_the_limits_of_a_container(
    tmp_path: Path, groups: str | None, files: dict[str, str], processors: float, gigabytes: float | None
) -> None:
    if groups is not None:
        files = {f"sys/fs/cgroup/{name}": text for name, text in files.items()} | {"proc/self/cgroup": groups}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{text}\n")
    assert hardware.quota(tmp_path) == processors
    assert hardware.memory(tmp_path) == (gigabytes * 2**30 if gigabytes else hardware.memory(Path("/nowhere")))


def test_no_more_cores_than_the_quota_and_no_more_workers_than_have_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "affinity", lambda: 64)
    monkeypatch.setattr(hardware, "quota", lambda: 6.9)
    monkeypatch.setattr(hardware, "memory", lambda: 4.5 * 2**30)
    assert (hardware.cores(), hardware.usual_workers(0)) == (6, 4)
    assert hardware.found() == "6 cores (the container's quota; 64 without it), 4.5 GB of memory"


def test_a_binding_of_threads_is_taken_from_the_environment_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert hardware.unbind() == ""
    monkeypatch.setenv("OMP_PROC_BIND", "true")
    assert "OMP_PROC_BIND=true would tie all workers" in hardware.unbind()
    assert "OMP_PROC_BIND" not in os.environ
