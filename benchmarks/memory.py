"""Whether a worker grows: python benchmarks/memory.py [trials] [override …]

A sweep of many trials of one epoch on 2,000 images in one worker, which is never replaced. Printed: its resident memory
(with what it shares with other processes) before the first trial, after every twentieth and at the end.
"""

import sys
import tempfile
from typing import Any

import psutil

from mnist_sweep.config.command import compose
from mnist_sweep.sweep.driver import common, sweep
from mnist_sweep.sweep.workers import Ended, Event
from mnist_sweep.sweep.workers import resources as machine
from mnist_sweep.sweep.workers.local import Local
from mnist_sweep.training import datasets

SETTINGS = [
    "+sweep=optuna", "sweep.workers=1", "sweep/sampler=random", "sweep/pruner=none", "sweep.winner.top=1",
    "sweep.winner.seeds=1", "data.limit=2000", "trainer.max_epochs=1",
]  # fmt: skip
EVERY = 20


class Watched(Local):
    """Notes the memory of its only worker whenever a trial has ended, MB of 2**20 bytes."""

    megabytes: list[float]

    def wait(self, *arguments: Any) -> list[Event]:
        events = super().wait(*arguments)
        self.megabytes = getattr(self, "megabytes", [])
        for event in events:
            if isinstance(event, Ended):
                self.megabytes.append(psutil.Process(self._workers[0].process.pid).memory_info().rss / 2**20)
                if len(self.megabytes) % EVERY == 0:
                    print(f"after trial {len(self.megabytes):4d}: {self.megabytes[-1]:,.0f} MB", flush=True)
        return events


def main(trials: int, items: list[str]) -> None:
    """Run the sweep and print the growth."""
    name = datasets.obtain(compose(items).data)
    with tempfile.TemporaryDirectory() as folder:
        given = [*SETTINGS, f"data={name}", f"sweep.trials={trials}", f"output={folder}", *items]
        config = compose(given)
        divided = machine.share(config)
        launcher: list[Watched] = []

        def launch() -> Watched:
            warm = common(config, given, divided)
            launcher.append(Watched(1, threads=divided.threads, memory_growth_mb=10**6, warm_up=warm))
            return launcher[0]

        sweep(config, given, launch=launch)
    found = launcher[0].megabytes
    ratio = found[trials - 1] / found[EVERY - 1]
    print(f"{name}: {found[EVERY - 1]:,.0f} MB after trial {EVERY}, {found[trials - 1]:,.0f} MB after trial {trials}: "
          f"{ratio:.3f} times")  # fmt: skip


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200, sys.argv[2:])
