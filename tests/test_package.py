"""The wheel: what is in it, and that it works from another folder without the checkout."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.slow


def test_the_wheel_carries_its_configs_and_works_anywhere(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "uv", "build", "-q", "--offline", "--no-build-isolation", "--wheel"]
    subprocess.run([*build, "--python", sys.executable, "--out-dir", str(tmp_path), str(ROOT)], check=True, timeout=300)
    (wheel,) = tmp_path.glob("*.whl")
    installed = tmp_path / "installed"
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(installed)
    configs = {str(path.relative_to(ROOT)) for path in (ROOT / "conf").rglob("*.yaml")}
    assert {"mnist_sweep/py.typed", *(f"mnist_sweep/{name}" for name in configs)} <= names
    assert not any(name.startswith(("tests", "mlruns", "conf/", "examples")) for name in names)
    (entry_points,) = installed.glob("*.dist-info/entry_points.txt")
    assert "mnist-sweep = mnist_sweep.cli:main" in entry_points.read_text()
    script = "from mnist_sweep.config.command import *; print(CONF, CommandLine.of([]).config.model.filters)"
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(installed)}, capture_output=True, text=True, check=True,
        timeout=60,
    )  # fmt: skip
    assert done.stdout == f"{installed}/mnist_sweep/conf [32, 64]\n"
