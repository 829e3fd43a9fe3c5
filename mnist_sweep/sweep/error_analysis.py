"""Error analysis over the trials: what the best networks still confuse, and which hyperparameter moves which class."""

import logging
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from optuna.trial import FrozenTrial, TrialState

from mnist_sweep.config import metrics
from mnist_sweep.config.network_shapes import CLASSES
from mnist_sweep.errors import RequestError
from mnist_sweep.run_folder import RunFolder
from mnist_sweep.sweep.plots import importances
from mnist_sweep.sweep.study import Study
from mnist_sweep.tracking import figures
from mnist_sweep.training import trained_model
from mnist_sweep.training.data import ImageSet
from mnist_sweep.training.evaluate import evaluate

log = logging.getLogger(__name__)

Array = np.ndarray[Any, Any]

#: How many of the best networks are evaluated.
_TOP = 5
_SHOWN = 30


@dataclass(frozen=True)
class Mistakes:
    """What the best networks get wrong on the same images."""

    trials: list[int]  # their numbers, the best first
    confusion: Array  # (10, 10) counts over all of them, a row for each true class
    missed: int  # how many images each of them gets wrong; some of these, the most confident mistakes first:
    images: Array  # (N, 28, 28) uint8
    true: Array  # (N,) classes
    predicted: Array  # (N,) the wrong class with the greatest mean probability
    probability: Array  # (N,) this probability

    @property
    def pairs(self) -> list[tuple[int, int, int]]:
        """How often which class is taken for which, the most frequent confusion first."""
        wrong = self.confusion - np.diag(self.confusion.diagonal())
        return sorted(((int(wrong[i, j]), int(i), int(j)) for i, j in np.argwhere(wrong)), reverse=True)


def _folder(trial: FrozenTrial, runs: Path) -> RunFolder:
    """A trial's folder among the runs, which may have been moved since."""
    return RunFolder(runs / Path(trial.user_attrs["result"]["folder"]).name)


def common_mistakes(study: Study, runs: Path, images: ImageSet) -> Mistakes | None:
    """Evaluate the networks of the best trials; None where no checkpoint is left.

    Args:
        study: has at least one complete trial.
        runs: the folder of the runs.
        images: of the validation set.
    """
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
    confusion = np.sum([evaluation.confusion for evaluation in found.values()], axis=0)
    labels = images.labels.cpu().numpy()
    probabilities = np.stack([evaluation.probabilities for evaluation in found.values()])  # (networks, N, 10)
    missed = np.flatnonzero((probabilities.argmax(axis=2) != labels).all(axis=0))
    mean = probabilities[:, missed].mean(axis=0)  # (missed, 10)
    mean[np.arange(len(missed)), labels[missed]] = 0.0  # the true class may still have the greatest mean
    order = np.argsort(-mean.max(axis=1), kind="stable")[:_SHOWN]
    shown, mean = missed[order], mean[order]
    drawn = trained_model.images_at(images, shown.tolist())
    return Mistakes(list(found), confusion, len(missed), drawn, labels[shown], mean.argmax(axis=1), mean.max(axis=1))


def class_importances(study: Study, runs: Path) -> tuple[Array, list[str]] | None:
    """How much each hyperparameter decides how well each class is recognised (its recall on validation).

    Args:
        study: as it is at the end.
        runs: the folder of the runs.

    Returns:
        (hyperparameters, 10) shares, and the names of the rows, the weightiest first. Each column sums to 1, or to 0
        where all trials recognise the class alike: there is nothing to explain, and Optuna would say 1/n of each of n.
        None where that is so of all classes, and with fewer than four trials that are complete or pruned.
    """
    recalls: dict[int, Array] = {}
    for trial in study.trials(TrialState.COMPLETE, TrialState.PRUNED):
        result = _folder(trial, runs).result() if "result" in trial.user_attrs else None
        if result and result.confusion:
            recalls[trial.number] = metrics.per_class(np.array(result.confusion))["recall"]
    moved = np.flatnonzero(np.ptp(list(recalls.values()), axis=0)).tolist() if len(recalls) > 3 else []
    if not moved:
        return None

    def missed(trial: FrozenTrial, label: int) -> float:
        return 1.0 - float(recalls[trial.number][label]) if trial.number in recalls else 1.0

    found = {label: importances(study, partial(missed, label=label)) for label in moved}
    weights = {name: sum(each[name] for each in found.values()) for name in found[moved[0]]}
    names = sorted(weights, key=lambda name: -weights[name])
    shares = np.zeros((len(names), CLASSES))
    for label, importance in found.items():
        shares[:, label] = [importance[name] for name in names]
    return shares, names


def pictures(study: Study, runs: Path, mistakes: Mistakes | None) -> dict[str, Figure]:
    """What there is to see, by name; the arguments are those of the functions above."""
    drawn: dict[str, Figure] = {}
    if mistakes:
        who = f"the {len(mistakes.trials)} best models" if len(mistakes.trials) > 1 else "the best model"
        title = f"{who} on the validation images, counts added up"
        drawn["confusion_of_the_best"] = figures.confusion_matrix(mistakes.confusion, title)
        if mistakes.missed:
            shown = mistakes.images, mistakes.true, mistakes.predicted, mistakes.probability
            drawn["missed_by_all"] = figures.mistakes(*shown, f"missed by {who}, each")
    if found := class_importances(study, runs):
        classes, title = list(map(str, range(CLASSES))), "importance for the recall of each class, per cent"
        drawn["hyperparameters_by_class"] = figures.heatmap(*found, classes, title, ("class", ""))
    return drawn
