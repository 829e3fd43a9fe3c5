"""``python -m mnist_sweep.export``, the same as ``mnist-sweep export``."""

from mnist_sweep import cli

if __name__ == "__main__":
    cli.module_main("export")
