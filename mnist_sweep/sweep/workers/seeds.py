"""A trial over several seeds: how good a configuration is, rather than how lucky its first seed was."""

import statistics
from collections.abc import Callable
from dataclasses import replace

from mnist_sweep.config import schema
from mnist_sweep.config.command import CommandLine
from mnist_sweep.result import Result
from mnist_sweep.sweep.workers.messages import Task


def further(config: schema.Config, seeds: int) -> dict[int, str]:
    """The names of the further runs, by their seeds, of a trial that is trained with so many seeds in all."""
    found = [(config.seed + index) % 2**32 for index in range(1, seeds)]
    return {seed: f"{config.name}-seed{seed}" for seed in found}


def over_seeds(task: Task, first: Result, train: Callable[[CommandLine], Result]) -> Result:
    """The result of a task whose run has finished, with the means over its seeds in place of the run's own numbers.

    Each further seed is a run of its own, named after the trial and the seed; `train` goes on with one that is there.
    Where one does not finish, the trial fails as that did.
    """
    config = task.command.config
    runs = [first]
    for seed, name in further(config, task.seeds).items():
        changed = {"seed": seed, "name": name}
        command = task.command.with_(changed)
        if "composed" not in vars(task.command):  # it was sent with its config, whose files are not at hand
            command = command.composed_as(config.model_copy(update=changed))
        run = train(command)
        if run.status != "finished":
            return replace(first, status=run.status, reason=run.reason, detail=f"with seed {run.seed}: {run.detail}")
        runs.append(run)
    names = [name for name in first.metrics if all(name in run.metrics for run in runs)]
    values = [run.objective for run in runs if run.objective is not None]
    return replace(
        first,
        objective=statistics.fmean(values) if values else None,
        metrics={name: statistics.fmean(run.metrics[name] for run in runs) for name in names},
        seeds=len(runs),
        seconds=statistics.fmean(run.seconds for run in runs),
        train_seconds=statistics.fmean(run.train_seconds for run in runs),
    )
