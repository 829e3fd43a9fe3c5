"""What the trials say together: what the best models still confuse, and which hyperparameter moves which class."""

import logging
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from mnist_sweep.config import metrics, schema
from mnist_sweep.config import network_shapes as shapes
from mnist_sweep.errors import RequestError
from mnist_sweep.result import BEST, Result
from mnist_sweep.sweep.plots import importances
from mnist_sweep.sweep.study import Study
from mnist_sweep.training import data
from mnist_sweep.training import trained_model as inspection

log = logging.getLogger(__name__)

Array = np.ndarray[Any, Any]

#: So many of the best models are asked.
TOP = 5
_MISSED = 30


@dataclass(frozen=True)
class Agreement:
    """What the best models have in common on the validation images.

    Attributes:
        trials: their numbers, the best first.
        confusion: (10, 10) counts over all of them, a row for each true class.
        images: (N, 28, 28) uint8, those that each of them gets wrong, the most confident first.
        true: (N,) classes.
        predicted: (N,) the wrong class that they hold most probable, in the mean.
        probability: (N,) the mean of their probabilities of it.
        missed: how many images each of them gets wrong; N or more.
    """

    trials: list[int]
    confusion: Array
    images: Array
    true: Array
    predicted: Array
    probability: Array
    missed: int


def agreement(config: schema.Config, study: Study, folder: Path) -> Agreement | None:
    """Ask the best models about the validation images; None where no checkpoint is left.

    Args:
        config: of the sweep.
        study: with at least one complete trial.
        folder: of the runs.
    """
    _, validation = data.parts(config.data)
    asked: dict[int, Array] = {}
    for trial in study.ranking()[:TOP]:
        try:
            classifier = inspection.load(folder / Path(trial.user_attrs["result"]["folder"]).name / BEST)
        except RequestError as error:
            log.warning("%s", error)
            continue
        asked[trial.number] = inspection.probabilities(classifier, validation.images)
    if not asked:
        return None
    labels = validation.labels.numpy()
    said = np.stack(list(asked.values()))  # (models, N, 10)
    answers = said.argmax(axis=2)
    confusion = np.zeros((said.shape[2],) * 2, dtype=np.int64)
    for each in answers:
        np.add.at(confusion, (labels, each), 1)
    mean = said.mean(axis=0)
    mean[np.arange(len(labels)), labels] = 0.0  # an image that all miss may still have the truth as its mean
    wrong = np.flatnonzero((answers != labels).all(axis=0))
    shown = wrong[np.argsort(-mean[wrong].max(axis=1), kind="stable")][:_MISSED]
    return Agreement(
        trials=list(asked),
        confusion=confusion,
        images=inspection.images_at(validation, shown.tolist()),
        true=labels[shown],
        predicted=mean[shown].argmax(axis=1),
        probability=mean[shown].max(axis=1),
        missed=len(wrong),
    )


def class_importances(study: Study, folder: Path) -> tuple[Array, list[str]] | None:
    """How much each hyperparameter decides how well each class is recognised (its recall on validation).

    Args:
        study: as it is at the end.
        folder: of the runs.

    Returns:
        (hyperparameters, 10) shares, and the names of the rows, the weightiest first. Each column sums to 1, or to 0
        where all trials recognise the class alike: there is nothing to explain, and Optuna would say 1/n of each of n.
        None where that is so of all classes, and with less than four trials that are complete or pruned.
    """
    recalls: dict[int, Array] = {}
    for trial in study.trials(TrialState.COMPLETE, TrialState.PRUNED):
        result = Result.found(folder / Path(trial.user_attrs["result"]["folder"]).name)
        if result and result.confusion:
            recalls[trial.number] = metrics.per_class(np.array(result.confusion))["recall"]
    if len(recalls) < 4:
        return None
    spread = np.ptp(np.stack(list(recalls.values())), axis=0)
    moved = [label for label in range(shapes.CLASSES) if spread[label] > 0]
    if not moved:
        return None

    def missed(trial: FrozenTrial, label: int) -> float:
        known = recalls.get(trial.number)
        return 1.0 if known is None else 1.0 - float(known[label])

    found = importances(study, {str(label): partial(missed, label=label) for label in moved})
    weights = {name: sum(each[name] for each in found.values()) for name in found[str(moved[0])]}
    names = sorted(weights, key=lambda name: -weights[name])
    none = dict.fromkeys(names, 0.0)
    return np.array([[found.get(str(label), none)[name] for label in range(shapes.CLASSES)] for name in names]), names
