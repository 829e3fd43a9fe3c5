"""A sweep of made-up trials, to be killed: ``python -m tests.faults.stub_sweep FOLDER OVERRIDES``."""

import hashlib
import logging
import os
import sys
import time
from collections.abc import Callable

from mnist_sweep.result import Result
from mnist_sweep.run_folder import RunFolder
from mnist_sweep.sweep.workers import Task
from mnist_sweep.sweep.workers.messages import OnEpoch

EPOCHS = 3


def value_of(overrides: list[str], epoch: int) -> float:
    """What a trial with these parameters reaches after an epoch."""
    drawn = sorted(item for item in overrides if item.startswith("optimizer."))
    return int(hashlib.sha256(repr(drawn).encode()).hexdigest()[:8], 16) / 16**8 * (1 - 0.3 / epoch)


def trial(task: Task, on_epoch: OnEpoch, _: Callable[[], int | None]) -> Result:
    """Make numbers up, slowly, and leave on disk what a training leaves there."""
    config, overrides = task.command.config, list(task.command.overrides)
    folder = RunFolder.of(config)
    if task.resume and (ended := folder.ended()):
        return ended
    folder.begin(config, overrides, resume=task.resume)
    folder.note(attempts=folder.progress().attempts + 1)
    with (folder.path / "attempts").open("a") as file:
        file.write(f"{os.getpid()}\n")
    for epoch in range(1, EPOCHS + 1):
        time.sleep(float(os.environ.get("STUB_SECONDS", "0.05")))
        values = {"val/accuracy": value_of(overrides, epoch), "val/loss": 0.0}
        if folder.progress().history[epoch - 1 : epoch] != [values]:
            folder.note(epoch=epoch, **values)
        on_epoch(epoch, values)
    progress = folder.progress()
    result = Result(
        status="finished", reason=None, detail=None, objective=values["val/accuracy"], metrics=values,
        best_epoch=EPOCHS, epochs=EPOCHS, seconds=1.0, train_seconds=1.0, parameters=1, dataset="mnist5k", seed=0,
        device="cpu", threads=1, precision="32", mlflow_run_id=None, overrides=overrides,
        command=task.command.shell(), folder=str(folder.path), checkpoint=None, history=progress.history,
        attempts=progress.attempts,
    )  # fmt: skip
    result.write()
    folder.clear()
    return result


def main(folder: str, *overrides: str) -> None:
    """Run the trials, or go on with them; what is left to be done is done by nobody."""
    from mnist_sweep import cli
    from mnist_sweep.config.command import CommandLine
    from mnist_sweep.errors import signals_as_flag
    from mnist_sweep.sweep.session import opened
    from mnist_sweep.sweep.workers.resources import Resources, local
    from tests.faults import stub_sweep

    cli.log_to_stderr()
    logging.getLogger("mnist_sweep").setLevel(logging.WARNING)
    space = "++sweep.space={optimizer: {lr: {low: 0.0003, high: 0.03, log: true}}}"
    items = ["+sweep=optuna", "sweep/space=empty", space, "data=mnist5k", "tracking=none", f"output={folder}"]
    fixed = [f"trainer.max_epochs={EPOCHS}", "trainer.threads=1", "sweep/sampler=random", "sweep/pruner=none"]
    command = CommandLine.of([*items, *fixed, "sweep.workers=2", *overrides])
    with signals_as_flag(), opened(command) as session, local(stub_sweep.trial, Resources(2, 1, (), 32, "")) as workers:
        session.begin(workers)
        session.tune(workers)
        session.study.remember("seconds", session.seconds())
        session.study.remember("ended", True)


if __name__ == "__main__":
    main(*sys.argv[1:])
