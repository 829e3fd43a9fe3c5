"""What the account costs: python benchmarks/account.py [rounds] [override …]

A default trial, with the time that is spent in MLflow, in figures and in the model that is kept, and its share of the
trial. The process is warm, as a worker is: libraries are loaded, one trial has been kept before.
"""

import functools
import sys
import tempfile
import time
from collections import Counter
from typing import Any

from mnist_sweep import run, run_report, tracking
from mnist_sweep.config.command import compose
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


def trial(folder: str, name: str, items: list[str]) -> float:
    """A run as a trial's is; its seconds."""
    given = [*items, f"output={folder}", f"name={name}"]
    result = run.run(compose(given), given)
    if result.status != "finished":
        raise SystemExit(f"{name} {result.status}: {result.detail}")
    return result.seconds


def main(rounds: int, items: list[str]) -> None:
    """Run the trials and print the best share."""
    items = [f"data={datasets.obtain(compose(items).data)}", *items]
    print(f"data set: {items[0]}; without MNIST itself, MNIST_SWEEP_DATA names its folder", flush=True)
    clock = Clock()
    methods = [name for name, value in vars(tracking.Account).items() if callable(value) and not name.startswith("_")]
    for method in [*methods, "__init__"]:
        clock.watch(tracking.Account, method)
    clock.watch(run_report, "keep")
    shares = []
    with tempfile.TemporaryDirectory() as folder:
        trial(folder, "warm", [*items, *SMALL])
        for index in range(rounds):
            clock.seconds.clear()
            seconds = trial(folder, f"trial{index}", items)
            spent = sum(clock.seconds.values())
            shares.append(spent / seconds)
            print(f"trial {index}: {seconds:.1f} s, of which the account {spent:.2f} s ({100 * spent / seconds:.1f}%)")
            for name, took in clock.seconds.most_common(8):
                print(f"    {name:<16} {took:.2f} s")
    print(f"the account's share of a trial, best of {rounds}: {100 * min(shares):.1f}%")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3, sys.argv[2:])
