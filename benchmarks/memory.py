"""Whether a worker grows: python benchmarks/memory.py [trials] [override …]

A sweep of many trials of one epoch on 2,000 images in one worker, which is never replaced. Printed: its resident memory
(with what it shares with other processes) after every twentieth trial and at the end.
"""

import sys
import tempfile
import threading
from pathlib import Path

import psutil

from mnist_sweep.config.command import CommandLine
from mnist_sweep.sweep.session import sweep
from mnist_sweep.training import datasets

SETTINGS = [
    "+sweep=optuna", "sweep.workers=1", "sweep/sampler=random", "sweep/pruner=none", "sweep.winner.top=1",
    "sweep.winner.seeds=1", "data.limit=2000", "trainer.max_epochs=1", "launcher.memory_growth_mb=1000000",
]  # fmt: skip
EVERY = 20


def watch(runs: Path, megabytes: list[float], done: threading.Event) -> None:
    """Note the memory of this process's only child whenever a run has ended, MB of 2**20 bytes."""
    while not done.wait(0.05):
        ended = len(list(runs.glob("*/result.json")))
        children = psutil.Process().children()
        if ended > len(megabytes) and children:
            memory = children[0].memory_info().rss / 2**20
            megabytes += [memory] * (ended - len(megabytes))
            if ended % EVERY == 0:
                print(f"after trial {ended:4d}: {memory:,.0f} MB", flush=True)


def main(trials: int, items: list[str]) -> None:
    """Run the sweep and print the growth."""
    name = datasets.obtain(CommandLine.of(items).config.data)
    done, found = threading.Event(), list[float]()
    with tempfile.TemporaryDirectory() as folder:
        thread = threading.Thread(target=watch, args=(Path(folder) / "runs", found, done), daemon=True)
        thread.start()
        given = [f"data={name}", f"sweep.trials={trials}", f"output={folder}"]
        sweep(CommandLine.of([*SETTINGS, *given, *items]))
        done.set()
        thread.join()
    early = min(EVERY, trials)
    first, last = found[early - 1], found[trials - 1]
    print(f"{name}: {first:,.0f} MB after trial {early}, {last:,.0f} MB after trial {trials}: {last / first:.3f} times")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200, sys.argv[2:])
