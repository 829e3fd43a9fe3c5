"""A trial over several seeds: how good a configuration is, rather than how lucky its first seed was."""

import statistics
from collections.abc import Callable
from dataclasses import replace

from mnist_sweep.config.command import CommandLine
from mnist_sweep.result import Result
from mnist_sweep.sweep.workers.messages import Task


def over_seeds(task: Task, first: Result, train: Callable[[CommandLine], Result]) -> Result:
    """The result of a task whose run has finished, with the means over its seeds in place of the run's own numbers.

    Each further seed is a run of its own, named after the trial and the seed; `train` goes on with one that is there.
    Where one does not finish, the trial fails as that did.
    """
    config = task.command.config
    runs = [first]
    for seed in range(config.seed + 1, config.seed + task.seeds):
        run = train(task.command.with_(seed=seed % 2**32, name=f"{config.name}-seed{seed % 2**32}"))
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
