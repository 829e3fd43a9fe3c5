"""Error analysis over the trials: what the best networks still confuse, and which hyperparameter moves which class."""

import logging
import warnings
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from optuna.importance import get_param_importances
from optuna.trial import FrozenTrial, TrialState

from mnist_sweep.config import metrics
from mnist_sweep.config.network_shapes import CLASSES
from mnist_sweep.errors import RequestError
from mnist_sweep.run_folder import RunFolder
from mnist_sweep.sweep.plots import with_pruned
from mnist_sweep.sweep.study import Study
from mnist_sweep.tracking import figures
from mnist_sweep.training import trained_model
from mnist_sweep.training.data import ImageSet
from mnist_sweep.training.evaluate import evaluate

log = logging.getLogger(__name__)

#: How many of the best networks are evaluated, and how many of their common mistakes are shown.
_TOP, _SHOWN = 5, 30


@dataclass(frozen=True)
class Mistakes:
    """What the best networks get wrong on the same images.

    Attributes:
        trials: their numbers, the best first.
        confusions: how often which class was taken for which, over all of them, the most frequent first.
        missed: how many images each of them gets wrong.
        pictures: by name.
    """

    trials: list[int]
    confusions: list[tuple[int, int, int]]
    missed: int
    pictures: dict[str, Figure]


def _folder(trial: FrozenTrial, runs: Path) -> RunFolder:
    """A trial's folder among the runs, which may have been moved since."""
    return RunFolder(runs / Path(trial.user_attrs["result"]["folder"]).name)


def common_mistakes(study: Study, runs: Path, images: ImageSet) -> Mistakes | None:
    """Evaluate the networks of the best trials on the validation images; None where no checkpoint is left."""
    found = {}
    for trial in study.ranking()[:_TOP]:
        try:
            network = trained_model.read(_folder(trial, runs).best).network
        except RequestError as error:
            log.warning("%s", error)
        else:
            found[trial.number] = evaluate(network, images, "val")
    if not found:
        return None
    who = f"the {len(found)} best models" if len(found) > 1 else "the best model"
    counts = np.sum([evaluation.confusion for evaluation in found.values()], axis=0)
    pictures = {"confusion_of_the_best": figures.confusion_matrix(counts, f"{who} on validation, counts added up")}
    labels = images.labels.cpu().numpy()
    probabilities = np.stack([evaluation.probabilities for evaluation in found.values()])  # (networks, N, 10)
    missed = np.flatnonzero((probabilities.argmax(axis=2) != labels).all(axis=0))
    if len(missed):
        mean = probabilities[:, missed].mean(axis=0)  # (missed, 10)
        mean[np.arange(len(missed)), labels[missed]] = 0.0  # the true class may still have the greatest mean
        order = np.argsort(-mean.max(axis=1), kind="stable")[:_SHOWN]  # the most confident mistakes first
        mean, shown = mean[order], trained_model.images_at(images, missed[order].tolist())
        said = labels[missed[order]], mean.argmax(axis=1), mean.max(axis=1)
        pictures["missed_by_all"] = figures.mistakes(shown, *said, f"missed by {who}, each")
    pairs = [(int(counts[i, j]), int(i), int(j)) for i, j in np.argwhere(counts) if i != j]
    return Mistakes(list(found), sorted(pairs, reverse=True), len(missed), pictures)


def class_importances(study: Study, runs: Path) -> tuple["np.ndarray[Any, Any]", list[str]] | None:
    """How much each hyperparameter decides how well each class is recognised (its recall on validation).

    Returns:
        (hyperparameters, 10) shares, and the names of the rows, the weightiest first. Each column sums to 1, or to 0
        where all trials recognise the class alike: there is nothing to explain, and Optuna would say 1/n of each of n.
        None where that is so of all classes, and with fewer than four trials that are complete or pruned.
    """
    recalls: dict[int, np.ndarray[Any, Any]] = {}
    for trial in study.trials(TrialState.COMPLETE, TrialState.PRUNED):
        result = _folder(trial, runs).result() if "result" in trial.user_attrs else None
        if result and result.confusion:
            recalls[trial.number] = metrics.per_class(np.array(result.confusion))["recall"]
    moved = np.flatnonzero(np.ptp(list(recalls.values()), axis=0)).tolist() if len(recalls) > 3 else []
    if not moved:
        return None

    def missed(trial: FrozenTrial, label: int) -> float:
        return 1.0 - float(recalls[trial.number][label]) if trial.number in recalls else 1.0

    seen = with_pruned(study)
    with warnings.catch_warnings(action="ignore"):  # Optuna's, that low values of the target are sought
        found = {label: get_param_importances(seen, target=partial(missed, label=label)) for label in moved}
    weights = {name: sum(each[name] for each in found.values()) for name in found[moved[0]]}
    names = sorted(weights, key=lambda name: -weights[name])
    shares = np.zeros((len(names), CLASSES))
    for label, importance in found.items():
        shares[:, label] = [importance[name] for name in names]
    return shares, names
