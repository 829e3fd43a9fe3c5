"""Hyperparameter sweeps for convolutional networks on small images, with a record of how the best was found."""

import importlib
import os

if not os.environ.keys() & {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}:
    # Threads that wait for each other sleep, before torch is imported. By default they spin, and where something else
    # uses one of the cores, all wait for the one that has none (benchmarks/busy_core.py).
    os.environ["OMP_WAIT_POLICY"] = "passive"

from mnist_sweep.result import Result
from mnist_sweep.version import __version__

importlib.import_module("mnist_sweep.sweep")  # the subpackage, so that importing it later does not hide the function
from mnist_sweep.api import load, predict, sweep, train  # noqa: E402

__all__ = ["Result", "__version__", "load", "predict", "sweep", "train"]
