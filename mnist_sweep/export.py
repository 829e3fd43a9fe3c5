"""``python -m mnist_sweep.export``, the same as ``mnist-sweep export``; the work is done in `mnist_sweep.inference.export`."""

from mnist_sweep import cli

if __name__ == "__main__":
    cli.module_main("export")
