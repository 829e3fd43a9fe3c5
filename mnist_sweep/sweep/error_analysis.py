"""Error analysis over the trials: what the best networks still confuse."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from mnist_sweep.errors import RequestError
from mnist_sweep.run_folder import RunFolder
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
    """What the best networks get wrong on the same images."""

    trials: list[int]  # their numbers, the best first
    confusions: list[tuple[int, int, int]]  # count, true and predicted class, over all of them, the most frequent first
    missed: int  # images that each of them gets wrong
    pictures: dict[str, Figure]  # by name
    names: Sequence[str]  # of the classes


def common_mistakes(study: Study, runs: Path, images: ImageSet) -> Mistakes | None:
    """Evaluate the networks of the best trials on the validation images; None where no checkpoint is left."""
    found = {}
    for trial in study.ranking()[:_TOP]:
        folder = RunFolder(runs / Path(trial.user_attrs["result"]["folder"]).name)  # which may have been moved since
        try:
            found[trial.number] = evaluate(trained_model.read(folder.best).network, images, "val")
        except RequestError as error:
            log.warning("%s", error)
    if not found:
        return None
    who = f"the {len(found)} best models" if len(found) > 1 else "the best model"
    counts = np.sum([evaluation.confusion for evaluation in found.values()], axis=0)
    pictures = {
        "confusion_of_the_best": figures.confusion_matrix(
            counts, f"{who} on validation, counts added up", images.classes
        )
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
        pictures["missed_by_all"] = figures.mistakes(shown, *said, f"missed by {who}, each")
    pairs = [(int(counts[i, j]), int(i), int(j)) for i, j in np.argwhere(counts) if i != j]
    return Mistakes(list(found), sorted(pairs, reverse=True), len(missed), pictures, images.classes)
