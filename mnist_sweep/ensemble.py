"""``python -m mnist_sweep.ensemble``, the same as ``mnist-sweep ensemble``; the work is done in `mnist_sweep.inference.ensemble`."""

from mnist_sweep import cli

if __name__ == "__main__":
    cli.module_main("ensemble")
