"""A worker process, as a sweep starts it: ``python -m mnist_sweep.sweep.workers DESCRIPTOR``."""

import sys

from mnist_sweep.sweep.workers.worker import main

main(int(sys.argv[1]))
