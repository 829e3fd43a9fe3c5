"""``python -m mnist_sweep.predict``, the same as ``mnist-sweep predict``."""

from mnist_sweep import cli

if __name__ == "__main__":
    cli.module_main("predict")
