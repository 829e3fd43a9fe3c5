"""``python -m mnist_sweep.demo``, the same as ``mnist-sweep demo``."""

from mnist_sweep import cli

if __name__ == "__main__":
    cli.module_main("demo")
