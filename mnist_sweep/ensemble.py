"""``python -m mnist_sweep.ensemble``, the same as ``mnist-sweep ensemble``."""

from mnist_sweep import cli

if __name__ == "__main__":
    cli.module_main("ensemble")
