"""What one driver can serve: python benchmarks/scale.py [URL of a PostgreSQL database] [--trials N] [--rate R]

Stub trials over simulated workers: one other process plays all of them, and speaks as real ones do, over one connection
each. What the driver does is real: asking, checking, submitting, deciding, recording, in a study on the server. An
epoch lasts so long that all workers together would end so many trials a second. Printed for each thousand trials: the
driver's processor time a trial, and the time from "worker free" to its next trial; then the study's size and the
driver's memory.
"""

import argparse
import hashlib
import heapq
import itertools
import math
import subprocess
import sys
import tempfile
import time
import uuid
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

#: Epochs of a trial in the mean, as pausing leaves them; measured with this space and 1,000 trials.
EPOCHS_A_TRIAL = 2.5


def play(descriptors: list[int], log: Path, epoch_seconds: float) -> None:
    """Be the workers behind these file descriptors, until the driver hangs up."""
    workers = {Connection(descriptor): None for descriptor in descriptors}
    running: dict[Connection, list[Any]] = {}  # task, epochs, done, score, seconds an epoch
    done: dict[str, int] = {}  # epochs, by the names of runs that paused
    due: list[tuple[float, int, Connection]] = []
    freed, order = {worker: time.monotonic() for worker in workers}, itertools.count()
    for worker in workers:
        worker.recv()
        worker.send(("ready", 100.0))
    with log.open("w") as file:
        while workers:
            now = time.monotonic()
            while due and due[0][0] <= now:
                worker = heapq.heappop(due)[2]
                running[worker][2] += 1
                _, _, epoch, score, _ = running[worker]
                worker.send(("report", epoch, {"val/accuracy": score * (1 - 0.1 / epoch)}))
            for worker in wait([*workers], timeout=max(0.0, min(due[0][0] - now, 1.0)) if due else 1.0):
                try:
                    message = worker.recv()
                except EOFError:
                    workers.pop(worker)
                    continue
                go_on: Any = False
                if not isinstance(message, tuple):  # a task
                    file.write(f"{message.id} {time.monotonic() - freed[worker]}\n")
                    values = dict(item.partition("=")[::2] for item in message.command.overrides)
                    noise = int(hashlib.sha256(repr(sorted(values.items())).encode()).hexdigest()[:8], 16) / 16**8
                    score = 0.99 - 0.02 * abs(math.log10(float(values.get("optimizer.lr", 1e-3)) / 3e-3)) - 0.01 * noise
                    running[worker] = [message, int(values.get("trainer.max_epochs", 10)), done.get(values["name"], 0)]
                    running[worker] += [score, epoch_seconds * (0.5 + noise)]  # else all would report in waves
                    go_on = True
                elif message[0] == "answer":
                    task, epochs, epoch, score, _ = running[worker]
                    go_on = message[3]
                    if go_on is not True or epoch >= epochs:
                        worker.send(("finished", result(task, go_on, epoch, score, done), 100.0))
                        freed[worker], go_on = time.monotonic(), False
                else:  # the end
                    worker.send(("finished", None, 100.0))
                if go_on is True:
                    heapq.heappush(due, (time.monotonic() + running[worker][4], next(order), worker))


def result(task: Any, decision: Any, epoch: int, score: float, done: dict[str, int]) -> Any:
    """What a run of the stub comes to, as it is on disk, too."""
    from mnist_sweep.result import Result

    values = dict(item.partition("=")[::2] for item in task.command.overrides)
    history = [{"val/accuracy": score * (1 - 0.1 / each)} for each in range(1, epoch + 1)]
    folder = Path(values["output"]) / "runs" / values["name"]
    folder.mkdir(parents=True, exist_ok=True)
    done[values["name"]] = epoch
    made = Result(
        status={True: "finished", False: "pruned", "pause": "interrupted"}[decision], reason=None, detail=None,
        objective=history[-1]["val/accuracy"], metrics=history[-1], best_epoch=epoch, epochs=epoch, seconds=1.0,
        train_seconds=1.0, parameters=0, dataset="mnist5k", seed=0, device="cpu", threads=1, precision="32",
        mlflow_run_id=None, overrides=list(task.command.overrides), command="", folder=str(folder), checkpoint=None,
    )  # fmt: skip
    made.write()
    return made


def main() -> None:
    """Run the sweep and print what it cost."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("storage", nargs="?", help="postgresql+psycopg://USER@HOST/DATABASE; else a SQLite file")
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=200)
    parser.add_argument("--rate", type=float, default=3.0, help="trials a second (default: 3)")
    parser.add_argument("--play", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.play:
        log, seconds, *descriptors = options.play
        play([int(each) for each in descriptors], Path(log), float(seconds))
        return
    with tempfile.TemporaryDirectory() as folder:
        _sweep(options, Path(folder))


def _sweep(options: argparse.Namespace, folder: Path) -> None:
    import numpy as np
    import psutil

    from mnist_sweep.config.command import CommandLine
    from mnist_sweep.sweep.session import opened
    from mnist_sweep.sweep.study import Study
    from mnist_sweep.sweep.workers.pool import Handle, Workers

    pipes = [Pipe() for _ in range(options.workers)]
    seconds = options.workers / options.rate / EPOCHS_A_TRIAL
    ends = [theirs.fileno() for _, theirs in pipes]
    simulated = subprocess.Popen(
        [sys.executable, __file__, "--play", str(folder / "log"), str(seconds), *map(str, ends)], pass_fds=ends
    )
    for ours, theirs in pipes:
        theirs.close()
        ours.send(("train", None))
    items = [
        "+sweep=optuna",
        "data=mnist5k",
        "tracking=none",
        f"output={folder}",
        f"sweep.name=scale-{uuid.uuid4().hex}",
    ]
    items += [f"sweep.storage='{options.storage}'"] if options.storage else []
    command = CommandLine.of([*items, f"sweep.trials={options.trials}", f"sweep.workers={options.workers}"])
    spent: dict[int, tuple[float, float]] = {}
    original = Study.tell

    def tell(study: Study, *arguments: Any) -> Any:  # where the time is read
        state = original(study, *arguments)
        spent.setdefault(len(study.trials()) // 1000, (time.process_time(), time.monotonic()))
        return state

    Study.tell = tell  # type: ignore[method-assign]
    with opened(command) as session, Workers(options.workers, lambda place: Handle(pipes[place][0])) as pool:
        session.begin(pool)
        before, started = time.process_time(), time.monotonic()
        session.tune(pool)
        used, lasted = time.process_time() - before, time.monotonic() - started
        begun = len(session.study.trials())
    simulated.wait()
    waits = np.array([line.split() for line in (folder / "log").read_text().splitlines()], float)
    # the first wait of each is the start; after the last new trial they wait for work, not for the driver
    later = waits[options.workers : int(waits[:, 0].argmax()) + 1]
    print(
        f"{begun} trials over {options.workers} simulated workers, {lasted:.0f} s, {begun / lasted:.2f} trials a second"
    )
    print(f"  the driver's processor time   {1000 * used / begun:6.1f} ms a trial, {used / lasted:.0%} of one core")
    for first in range(0, begun, 1000):
        part = later[(later[:, 0] >= first) & (later[:, 0] < first + 1000), 1]
        if len(part):
            print(
                f"  trials {first:>6} …: worker free → next trial, p50, p95 {np.percentile(part, [50, 95]).round(3)} s"
            )
    for (_, (a, b)), (number, (c, d)) in itertools.pairwise(sorted(spent.items())):
        print(f"  {1000 * number:>6} begun: {c - a:6.1f} ms of processor time a trial, {1000 / (d - b):.2f} a second")
    print(f"  the driver's memory           {psutil.Process().memory_info().rss / 2**20:6.0f} MB")
    if options.storage:
        _size(options.storage)


def _size(storage: str) -> None:
    from sqlalchemy import create_engine, text

    with create_engine(storage).connect() as connection:
        size = connection.execute(text("SELECT pg_database_size(current_database())")).scalar_one()
    print(f"  the database, with all in it  {size / 2**20:6.0f} MB")


if __name__ == "__main__":
    main()
