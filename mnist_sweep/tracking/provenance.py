"""Where a run's numbers come from: the code, the packages, the machine."""

import functools
import importlib.metadata
import platform
import subprocess
from pathlib import Path

import mnist_sweep

_PACKAGES = ("torch", "torchvision", "pytorch-lightning", "optuna", "mlflow", "hydra-core", "numpy")


@functools.cache
def versions() -> dict[str, str]:
    """The versions of Python, of this package and of those that bear on the numbers."""
    found = {"python": platform.python_version(), "mnist_sweep": mnist_sweep.__version__}
    for package in _PACKAGES:
        found[package] = importlib.metadata.version(package)
    return found


@functools.cache
def commit() -> dict[str, str]:
    """``commit`` and ``dirty`` (true | false) of the checkout that this package is part of; empty outside of one."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)  # installed inside somebody else's checkout?
        changes = git("status", "--porcelain", "--untracked-files=no")
        return {"commit": git("rev-parse", "HEAD"), "dirty": str(bool(changes)).lower()}
    except (OSError, subprocess.SubprocessError):
        return {}
