"""Hyperparameter sweeps for convolutional networks on small images, with a record of how the best was found."""

import importlib

from mnist_sweep import hardware

hardware.choose_waiting()  # before torch is imported, by whatever is imported below

from mnist_sweep.result import Result  # noqa: E402
from mnist_sweep.version import __version__  # noqa: E402

importlib.import_module("mnist_sweep.sweep")  # the subpackage, so that importing it later does not hide the function
from mnist_sweep.api import load, predict, sweep, train  # noqa: E402

__all__ = ["Result", "__version__", "load", "predict", "sweep", "train"]
