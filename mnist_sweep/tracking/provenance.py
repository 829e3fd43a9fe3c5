"""Where a run's numbers come from: the code, the packages."""

import functools
import importlib.metadata
import platform
import subprocess
from pathlib import Path

from mnist_sweep.version import __version__

_PACKAGES = ("torch", "torchvision", "pytorch-lightning", "optuna", "mlflow", "hydra-core", "numpy")


@functools.cache
def tags() -> dict[str, str]:
    """The versions of Python, of this package and of those that bear on the numbers; the commit of the checkout."""
    found = {"version.python": platform.python_version(), "version.mnist_sweep": __version__}
    found |= {f"version.{package}": importlib.metadata.version(package) for package in _PACKAGES}
    try:
        _git("ls-files", "--error-unmatch", Path(__file__).name)  # installed inside somebody else's checkout?
        commit = _git("rev-parse", "HEAD")
        dirty = bool(_git("status", "--porcelain", "--untracked-files=no"))
        found |= {"git.commit": commit, "git.dirty": str(dirty).lower(), "mlflow.source.git.commit": commit}
    except (OSError, subprocess.SubprocessError):
        pass
    return found


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
