"""What a sweep's own process costs: python benchmarks/driver.py [trials] [workers]

Sweeps of stub trials: real worker processes that report like a training but only sleep, so that what the sweep's own
process does is asking, checking, submitting, deciding and recording. Sampler, pruner and databases are those of the
default sweep. Two spaces: eight keys without conditions, and the default one, whose lists of drawn length and
conditional keys make four estimators of one. Printed for each, over the whole sweep: the processor time a trial of the
sweep's own process, and the time from the end of a worker's trial to the beginning of its next.
"""

import hashlib
import importlib
import itertools
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # the workers import this file by its name in the checkout

LOG = "MNIST_SWEEP_BENCHMARK_LOG"
#: A stub's epoch. With much less the two cores of a small machine would be what is measured.
EPOCH_SECONDS = 0.5
EIGHT = """{
    model: {dropout: {low: 0.0, high: 0.6}, pool_size: {choices: [2, 3]}, hidden: {choices: [[64], [128], [256]]}},
    optimizer: {lr: {low: 1e-4, high: 0.3, log: true}, weight_decay: {low: 1e-6, high: 0.1, log: true}},
    data: {batch_size: {choices: [32, 64, 128, 256]}},
    loss: {label_smoothing: {low: 0.0, high: 0.2}},
    trainer: {max_epochs: {low: 3, high: 12}}
}"""
SPACES = {"eight keys": ["sweep/space=empty", f"++sweep.space={' '.join(EIGHT.split())}"], "default": []}


def stub(task: Any, on_epoch: Callable[[int, dict[str, float]], Any], _: Callable[[], int | None]) -> Any:
    """A trial that only sleeps; its score follows from the learning rate, and a bit from everything else.

    It goes on after the epoch at which it paused.
    """
    import math

    from mnist_sweep.result import Result

    began = time.monotonic()
    values = dict(item.partition("=")[::2] for item in task.command.overrides)
    noise = int(hashlib.sha256(repr(sorted(values.items())).encode()).hexdigest()[:8], 16) / 16**8
    score = 0.99 - 0.02 * abs(math.log10(float(values.get("optimizer.lr", 1e-3)) / 3e-3)) - 0.01 * noise
    epochs, decision = int(values.get("trainer.max_epochs", 10)), True
    state = Path(os.environ[LOG]).parent / values["name"]
    history = [{"val/accuracy": score * (1 - 0.1 / epoch)} for epoch in range(1, epochs + 1)]
    done = int(state.read_text()) if state.exists() else 0
    for epoch in range(done + 1, epochs + 1):
        time.sleep(EPOCH_SECONDS)
        decision, done = on_epoch(epoch, history[epoch - 1]), epoch
        if decision is not True:
            break
    state.write_text(str(done))
    history = history[:done]
    with Path(os.environ[LOG]).open("a") as file:
        file.write(f"{os.getpid()} {began} {time.monotonic()}\n")
    folder = Path(values["output"]) / "runs" / values["name"]
    folder.mkdir(parents=True, exist_ok=True)
    result = Result(
        status={True: "finished", False: "pruned", "pause": "interrupted"}[decision], reason=None, detail=None,
        objective=history[-1]["val/accuracy"], metrics=history[-1], best_epoch=len(history), epochs=len(history),
        seconds=time.monotonic() - began, train_seconds=time.monotonic() - began, parameters=0, dataset="mnist5k",
        seed=0, device="cpu", threads=1, precision="32", mlflow_run_id=None, overrides=list(task.command.overrides),
        command="", folder=str(folder), checkpoint=None,
    )  # fmt: skip
    result.write()
    return result


def main(trials: int, workers: int) -> None:
    """Run the sweeps and print what they cost."""
    print(f"{trials} stub trials, {workers} workers, {os.cpu_count()} cores")
    for name, space in SPACES.items():
        with tempfile.TemporaryDirectory() as folder:
            _sweep(name, [*space, f"output={folder}"], Path(folder) / "log", trials, workers)


def _sweep(name: str, items: list[str], log: Path, trials: int, workers: int) -> None:
    import numpy as np

    from mnist_sweep.config.command import CommandLine
    from mnist_sweep.sweep.session import opened
    from mnist_sweep.sweep.workers.resources import Resources, local

    os.environ[LOG] = str(log)
    stub_trial = importlib.import_module("benchmarks.driver").stub  # the workers find it by this name
    command = ["+sweep=optuna", "data=mnist5k", f"sweep.trials={trials}", f"sweep.workers={workers}", *items]
    resources = Resources(workers, threads=1, gpus=(), precision=32, why="")
    with opened(CommandLine.of(command)) as session, local(stub_trial, resources) as pool:
        session.begin(pool)
        before, started = time.process_time(), time.monotonic()
        session.tune(pool)
        spent, lasted = time.process_time() - before, time.monotonic() - started
    counts = ", ".join(f"{count} {state}" for state, count in session.study.counts().items())
    waits = 1000 * np.array(_waits(log))
    print(f"\nspace: {name}   ({lasted:.0f} s; {counts})")
    print(f"  processor time a trial            {1000 * spent / trials:6.1f} ms")
    for label, part in (("median", 50), ("p95", 95), ("p99", 99)):
        print(f"  worker free → next trial, {label:<7} {np.percentile(waits, part):6.1f} ms")


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
    arguments = [int(argument) for argument in sys.argv[1:]]
    main(*(arguments + [1_000, 8][len(arguments) :]))
