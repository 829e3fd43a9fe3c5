"""Error analysis over the trials: what the best networks still confuse."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from optuna.trial import FrozenTrial

from mnist_sweep.errors import RequestError
from mnist_sweep.run_folder import RunFolder
from mnist_sweep.sweep.study import Study
from mnist_sweep.tracking import figures
from mnist_sweep.training import trained_model
from mnist_sweep.training.data import ImageSet
from mnist_sweep.training.evaluate import evaluate

log = logging.getLogger(__name__)

#: How many of the best networks are evaluated at most, and how many of their common mistakes are shown.
_TOP, _SHOWN = 5, 30
#: So many standard errors below the best one's accuracy a network is still as good, as far as can be told.
_ERRORS = 3


@dataclass(frozen=True)
class Mistakes:
    """What the best networks get wrong on the same images."""

    trials: list[int]  # their numbers, the best first
    least: float  # the validation accuracy from which on a network was taken in
    confusions: list[tuple[int, int, int]]  # count, true and predicted class, over all of them, the most frequent first
    missed: int  # images that each of them gets wrong
    pictures: dict[str, Figure]  # by name
    names: Sequence[str]  # of the classes


def within_reach(study: Study, winner: int | None, images: int) -> tuple[list[FrozenTrial], float]:
    """The trials that are as good as the winner, else the most accurate one, as far as so many images can tell.

    That is, whose validation accuracy is at most three standard errors below its own, √(p (1 − p) / N). The most
    accurate first, after the winner; and the accuracy from which on they were taken in.
    """

    def accuracy(trial: FrozenTrial) -> float:
        return float(trial.user_attrs["result"]["metrics"]["val/accuracy"])

    won = [trial for trial in study.trials() if trial.number == winner]
    others = sorted((trial for trial in study.ranking() if trial.number != winner), key=accuracy, reverse=True)
    best, *_ = ranked = [*won, *others]
    share = accuracy(best)
    least = share - _ERRORS * math.sqrt(share * (1 - share) / images)
    return [trial for trial in ranked if accuracy(trial) >= least], least


def common_mistakes(study: Study, runs: Path, images: ImageSet, winner: int | None = None) -> Mistakes | None:
    """Evaluate the best networks `within_reach` on the validation images; None where no checkpoint is left."""
    found = {}
    near, least = within_reach(study, winner, len(images)) if study.ranking() or winner is not None else ([], 0.0)
    for trial in near[:_TOP]:
        folder = RunFolder(runs / Path(trial.user_attrs["result"]["folder"]).name)  # which may have been moved since
        if (result := folder.result()) and result.checkpoint is None:  # by sweep.keep
            continue
        try:
            found[trial.number] = evaluate(trained_model.read(folder.best).network, images, "val")
        except RequestError as error:
            log.warning("%s", error)
    if not found:
        return None
    who = f"the {len(found)} best models" if len(found) > 1 else "the best model"
    added, each = (", counts added up", ", each") if len(found) > 1 else ("", "")
    counts = np.sum([evaluation.confusion for evaluation in found.values()], axis=0)
    pictures = {
        "confusion_of_the_best": figures.confusion_matrix(counts, f"{who} on validation{added}", images.classes)
    }
    labels = images.labels.cpu().numpy()
    probabilities = np.stack([evaluation.probabilities for evaluation in found.values()])  # (networks, N, classes)
    missed = np.flatnonzero((probabilities.argmax(axis=2) != labels).all(axis=0))
    if len(missed):
        mean = probabilities[:, missed].mean(axis=0)  # (missed, classes)
        mean[np.arange(len(missed)), labels[missed]] = 0.0  # the true class may still have the greatest mean
        order = np.argsort(-mean.max(axis=1), kind="stable")[:_SHOWN]  # the most confident mistakes first
        mean, shown = mean[order], trained_model.images_at(images, missed[order].tolist())
        names = np.array(images.classes)
        said = names[labels[missed[order]]], names[mean.argmax(axis=1)], mean.max(axis=1)
        pictures["missed_by_all"] = figures.mistakes(shown, *said, f"missed by {who}{each}")
    pairs = [(int(counts[i, j]), int(i), int(j)) for i, j in np.argwhere(counts) if i != j]
    return Mistakes(list(found), least, sorted(pairs, reverse=True), len(missed), pictures, images.classes)
