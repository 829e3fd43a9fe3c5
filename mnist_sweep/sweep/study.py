"""Optuna's record of a sweep: opened or resumed, and only if it is still the same sweep."""

import json
import warnings
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from mnist_sweep import schema
from mnist_sweep.errors import RequestError
from mnist_sweep.sweep.space import Space

optuna.logging.set_verbosity(optuna.logging.ERROR)

#: Reasons of failures that say nothing about the proposal: such a trial does not count towards the total.
UNCOUNTED = {"interrupted", "crashed", "infeasible"}
#: Keys that do not change what a trial's value means.
_IMMATERIAL = {"output", "tracking", "trainer.threads", "trainer.accelerator", "data.root", "data.fallback"}


def open_study(config: schema.Config, space: Space, digest: str) -> optuna.Study:
    """The study of this name, new or resumed.

    Args:
        config: with its ``sweep``.
        space: what is searched.
        digest: of the data set.

    Raises:
        RequestError: the storage cannot be opened, or the study was begun with another space, objective, data set or
            other settings; each difference is named.
    """
    assert config.sweep is not None
    fingerprint = _fingerprint(config, space, digest)
    try:
        if config.sweep.storage.startswith("sqlite:///"):
            Path(config.sweep.storage.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        storage = optuna.storages.RDBStorage(config.sweep.storage)
        study = optuna.create_study(
            study_name=config.sweep.name, storage=storage, load_if_exists=True, direction=config.direction
        )
    except Exception as error:  # SQLAlchemy's and each driver's own
        line = " ".join(str(error).split())[:200]
        raise RequestError(f"sweep.storage={config.sweep.storage}: cannot be opened ({line})") from error
    before = study.user_attrs.get("fingerprint")
    if before is None:
        study.set_user_attr("fingerprint", fingerprint)
    elif before != fingerprint:
        changed = [key for key in sorted({*before, *fingerprint}) if before.get(key) != fingerprint.get(key)]
        lines = "; ".join(
            f"{key}: {before.get(key, 'not there')} → {fingerprint.get(key, 'not there')}" for key in changed
        )
        raise RequestError(
            f"sweep.name={config.sweep.name}: this study was begun otherwise ({lines}); allowed: the settings it was "
            "begun with, or sweep.name=ANOTHER"
        )
    study.pruner = _pruner(config.sweep)
    return study


def _fingerprint(config: schema.Config, space: Space, digest: str) -> dict[str, str]:
    """What must not change between two sittings, by key, as JSON texts."""
    searched = {dimension.key for dimension in space.dimensions}
    found: dict[str, Any] = {"direction": config.direction, "data digest": digest}
    for key, value in config.parameters().items():
        if key not in searched and not any(key == name or key.startswith(f"{name}.") for name in _IMMATERIAL):
            found[key] = value
    for dimension in space.dimensions:
        found[f"sweep.space.{dimension.key}"] = _subtree(space.tree, dimension.key)
    return {key: json.dumps(value, ensure_ascii=False) for key, value in found.items()}


def _subtree(tree: Mapping[str, Any], key: str) -> Any:
    node: Any = tree
    for part in key.split("."):
        node = node[part]
    return node.get("_group_", node)


def sampler(settings: schema.Sweep, seed: int, number: int) -> optuna.samplers.BaseSampler:
    """The sampler that proposes trial `number`.

    Its seed is made of both, so that a resumed sweep proposes what an uninterrupted one would have, and does not begin
    its random draws again.
    """
    mixed = seed * 1_000_003 + number
    match settings.sampler:
        case schema.TPE(startup_trials=startup):
            with warnings.catch_warnings():  # group is marked as experimental
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                return optuna.samplers.TPESampler(
                    seed=mixed % 2**32, n_startup_trials=startup, multivariate=True, group=True, constant_liar=True
                )
        case schema.Random():
            return optuna.samplers.RandomSampler(seed=mixed % 2**32)


def _pruner(settings: schema.Sweep) -> optuna.pruners.BasePruner:
    match settings.pruner:
        case schema.Median(startup_trials=startup, warmup_epochs=warmup):
            return optuna.pruners.MedianPruner(n_startup_trials=startup, n_warmup_steps=warmup + 1)
        case schema.NoPruner():
            return optuna.pruners.NopPruner()


def reason(trial: FrozenTrial) -> str | None:
    """Why a trial failed, one word; None where it did not."""
    return trial.user_attrs.get("reason") if trial.state == TrialState.FAIL else None


def counted(study: optuna.Study) -> int:
    """The trials that count towards the total: complete, pruned, or failed by themselves."""
    ended = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL))
    return sum(reason(trial) not in UNCOUNTED for trial in ended)


def counts(study: optuna.Study) -> dict[str, int]:
    """Trials by Optuna's states, in small letters; those that were proposed and not begun are left out."""
    found = Counter(trial.state.name.lower() for trial in study.get_trials(deepcopy=False))
    found.pop("waiting", None)
    return {"complete": 0, "pruned": 0, "fail": 0} | dict(found)


def ranking(study: optuna.Study) -> list[FrozenTrial]:
    """The complete trials, the best first; of equal ones the earlier first."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    sign = -1 if study.direction == optuna.study.StudyDirection.MAXIMIZE else 1
    return sorted(complete, key=lambda trial: (sign * float(trial.value or 0.0), trial.number))


def propose_again(study: optuna.Study) -> None:
    """Put the proposals of trials that were interrupted, or whose process died, at the head of the queue, once each."""
    again = {trial.user_attrs.get("again") for trial in study.get_trials(deepcopy=False)}
    for trial in study.get_trials(deepcopy=False, states=(TrialState.FAIL,)):
        if reason(trial) in ("interrupted", "crashed") and trial.number not in again:
            study.enqueue_trial(trial.params, user_attrs={"again": trial.number})
