"""Studies of trials that nobody trained: what the end of a sweep is tested with."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState

from mnist_sweep.config.command import CommandLine
from mnist_sweep.config.metrics import TRIAL_METRICS
from mnist_sweep.config.sweep_options import Objective
from mnist_sweep.result import BEST, Result, run_name
from mnist_sweep.sweep.space import Space
from mnist_sweep.sweep.study import _KEPT, IDENTITY, Study
from tests.conftest import SMALL

#: The attributes of the trial of the config's own values.
BASELINE = {IDENTITY: "its own"}
LR = {"optimizer.lr": FloatDistribution(1e-4, 1.0, log=True)}


def sweep_of(folder: Path, *items: str) -> CommandLine:
    """The command line of a sweep of small networks below a folder."""
    return CommandLine.of(["+sweep=optuna", *SMALL, f"output={folder}", *items])


def result_of(folder: Path, name: str, value: float, **changes: Any) -> Result:
    """The result of a finished run; every metric has the same value."""
    made = Result(
        status="finished", reason=None, detail=None, objective=value, best_epoch=1, epochs=2, seconds=1.0,
        metrics={"train/accuracy": 1.0, "train/loss": 0.1, "val/accuracy": value, "val/loss": 1 - value},
        train_seconds=1.0, parameters=1000, dataset="mnist5k", seed=0, device="cpu", threads=1, precision="32",
        mlflow_run_id=None, overrides=[*SMALL, f"output={folder}"], command=f"python -m mnist_sweep name={name}",
        folder=str(folder / "runs" / name), checkpoint=str(BEST), multiply_adds=5000,
    )  # fmt: skip
    return dataclasses.replace(made, **changes)


def trial_of(
    folder: Path, number: int, values: Sequence[float] = (), curve: Sequence[float] = (), *,
    params: dict[str, Any] | None = None, space: Mapping[str, BaseDistribution] = LR,
    attributes: Mapping[str, Any] | None = None, **changes: Any,
) -> FrozenTrial:  # fmt: skip
    """A trial with these values, complete, or with this curve, pruned; `changes` are of its result."""
    params = params or dict.fromkeys(space, 0.001 * (number + 1))
    result = dataclasses.asdict(result_of(folder, run_name("sweep", number), *values[:1] or (0.0,), **changes))
    kept = {key: result[key] for key in _KEPT}
    drawn = {"proposed": [f"{key}={value}" for key, value in params.items()], "values": params, "digest": str(number)}
    return optuna.trial.create_trial(
        state=TrialState.COMPLETE if values else TrialState.PRUNED, values=list(values) or None,
        params=params, distributions=dict(space), intermediate_values=dict(enumerate(curve, start=1)),
        user_attrs={"result": kept, **drawn, **(attributes or {})},
    )  # fmt: skip


def study_of(trials: Sequence[FrozenTrial], *metrics: str) -> Study:
    """The study of these trials; without metrics it goes by val/accuracy."""
    goals = [Objective(metric=name, direction=TRIAL_METRICS[name]) for name in metrics or ("val/accuracy",)]
    storage = InMemoryStorage()
    made = optuna.create_study(storage=storage, study_name="sweep", directions=[goal.direction for goal in goals])
    made.set_user_attr("id", "its id")
    made.add_trials(trials)
    tree = {"optimizer": {"lr": {"low": 1e-4, "high": 1.0, "log": True}}}
    study = Study(storage, "sweep", goals, {}, Space(tree, {"optimizer": "adam", "optimizer.lr": 1e-3}))
    study.own = BASELINE[IDENTITY]
    return study
