"""What MLflow costs: python benchmarks/account.py [rounds] [override …]

A default trial, with the time that is spent on its MLflow run and its pictures, and their share of the trial; then a
single run, which keeps all pictures and its model. The process is warm, as a worker is: libraries are loaded, one run
has been kept before.
"""

import functools
import sys
import tempfile
import time
from collections import Counter
from typing import Any

from mnist_sweep import run, run_report
from mnist_sweep.config.command import CommandLine
from mnist_sweep.tracking import MLflowRun
from mnist_sweep.training import datasets

SMALL = ["data=mnist5k", "data.limit=500", "trainer.max_epochs=1"]


class Clock:
    """Adds up the time in some functions, those within each other once."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self._inside = False

    def watch(self, owner: Any, name: str) -> None:
        """From now on the time in this function counts."""
        function = getattr(owner, name)

        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            if self._inside:
                return function(*args, **kwargs)
            self._inside = True
            started = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self._inside = False
                self.seconds[name] += time.perf_counter() - started

        setattr(owner, name, timed)


def seconds(command: CommandLine, folder: str, name: str, pictures: bool) -> float:
    """Of a run."""
    result = run.train(command.with_(output=folder, name=name), pictures=pictures)
    if result.status != "finished":
        raise SystemExit(f"{name} {result.status}: {result.detail}")
    return result.seconds


def main(rounds: int, command: CommandLine) -> None:
    """Run trials and single runs, and print the best share of each."""
    command = command.add(f"data={datasets.obtain(command.config.data)}")
    print(f"data set: {command.config.data.name}; without MNIST itself, MNIST_SWEEP_DATA names its folder", flush=True)
    clock = Clock()
    methods = [name for name, value in vars(MLflowRun).items() if callable(value) and not name.startswith("_")]
    for method in [*methods, "__init__"]:
        clock.watch(MLflowRun, method)
    clock.watch(run_report, "keep")
    clock.watch(run_report, "keep_trial")
    with tempfile.TemporaryDirectory() as folder:
        seconds(command.add(*SMALL), folder, "warm", pictures=True)
        for kind, pictures in (("trial", False), ("single run", True)):
            shares = []
            for index in range(rounds):
                clock.seconds.clear()
                whole = seconds(command, folder, f"{kind.replace(' ', '-')}{index}", pictures)
                spent = sum(clock.seconds.values())
                shares.append(spent / whole)
                print(f"{kind} {index}: {whole:.1f} s, of which MLflow {spent:.2f} s ({100 * spent / whole:.1f}%)")
                for name, took in clock.seconds.most_common(8):
                    print(f"    {name:<16} {took:.2f} s", flush=True)
            print(f"MLflow's share of a {kind}, best of {rounds}: {100 * min(shares):.1f}%")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3, CommandLine.of(sys.argv[2:]))
