"""What the driver of a sweep costs: python benchmarks/driver.py [trials] [workers]

A sweep of stub trials: real worker processes that report like a training but only sleep, so that the processor time of
the driver's process is that of asking, checking, submitting, deciding and recording. Sampler, pruner, space and the two
databases are those of the default sweep. Printed: the driver's processor time a trial, and the time from the end of a
worker's trial to the beginning of its next, both over the whole sweep.
"""

import hashlib
import itertools
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))  # the workers import this file by its name in the checkout

LOG = "MNIST_SWEEP_BENCHMARK_LOG"
#: A stub's epoch. With fewer seconds the two cores of a small machine would be what is measured.
EPOCH_SECONDS = 0.15


def stub(task: Any, report: Callable[[int, dict[str, float]], bool]) -> dict[str, Any]:
    """A trial that only sleeps; its score follows from the learning rate, and a bit from everything else."""
    began = time.monotonic()
    values = dict(item.partition("=")[::2] for item in task.overrides)
    noise = int(hashlib.sha256(repr(sorted(values.items())).encode()).hexdigest()[:8], 16) / 16**8
    score = 0.99 - 0.02 * abs(np.log10(float(values.get("optimizer.lr", 1e-3)) / 3e-3)) - 0.01 * noise
    history = []
    for epoch in range(1, int(values.get("trainer.max_epochs", 10)) + 1):
        time.sleep(EPOCH_SECONDS)
        history.append({"val/accuracy": score * (1 - 0.1 / epoch)})
        if not report(epoch, history[-1]):
            break
    stopped = len(history) < int(values.get("trainer.max_epochs", 10))
    from mnist_sweep.result import Result

    result = Result(
        status="pruned" if stopped else "finished", reason=None, detail=None, objective=history[-1]["val/accuracy"],
        metrics=history[-1], best_epoch=len(history), epochs=len(history), seconds=time.monotonic() - began,
        train_seconds=time.monotonic() - began, parameters=0, dataset="mnist5k", seed=0, device="cpu", threads=1,
        precision="32", mlflow_run_id=None, overrides=task.overrides, command="", folder="", checkpoint=None,
    )  # fmt: skip
    with Path(os.environ[LOG]).open("a") as file:
        file.write(f"{os.getpid()} {began} {time.monotonic()}\n")
    return asdict(result)


def main(trials: int, workers: int) -> None:
    """Run the sweep and print what it cost."""
    from mnist_sweep.sweep.launchers.local import Local

    from mnist_sweep.composition import compose
    from mnist_sweep.sweep.crew import Crew
    from mnist_sweep.sweep.driver import opened

    with tempfile.TemporaryDirectory() as folder:
        os.environ[LOG] = f"{folder}/log"
        given = [
            "+sweep=optuna",
            "data=mnist5k",
            f"output={folder}",
            f"sweep.trials={trials}",
            f"sweep.workers={workers}",
        ]
        with opened(compose(given), given) as driver:
            driver.begin()
            with Crew(
                lambda: Local(workers, threads=1, memory_growth_mb=10_000, performer="benchmarks.driver:stub")
            ) as crew:
                before, started = time.process_time(), time.monotonic()
                driver.search(crew)
                spent, lasted = time.process_time() - before, time.monotonic() - started
            ended, waits = driver.study.counts(), _waits(Path(os.environ[LOG]))
    print(f"{trials} stub trials, {workers} workers, {os.cpu_count()} cores: {lasted:.0f} s, {ended}")
    print(f"driver's processor time a trial       {1000 * spent / trials:6.1f} ms   (at most 20)")
    for name, part in (("median", 50), ("p95", 95), ("p99", 99)):
        limit = "   (at most 100)" if name == "p95" else ""
        print(f"worker free → next trial, {name:<12}{1000 * np.percentile(waits, part):6.1f} ms{limit}")


def _waits(log: Path) -> list[float]:
    """Seconds between the end of a trial and the beginning of the next, for each worker in turn."""
    turns: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for line in log.read_text().splitlines():
        worker, began, ended = line.split()
        turns[worker].append((float(began), float(ended)))
    return [
        later[0] - earlier[1] for each in map(sorted, turns.values()) for earlier, later in itertools.pairwise(each)
    ]


if __name__ == "__main__":
    main(*[int(argument) for argument in sys.argv[1:3]] or (1_000,), *([8] if len(sys.argv) < 3 else []))
