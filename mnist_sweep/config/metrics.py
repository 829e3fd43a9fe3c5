"""The metrics of an epoch: their names, which way is better, and how they follow from what a network said.

A confusion matrix has the shape (classes, classes): counts, a row for each true class, a column for each predicted one.
Probabilities have the shape (N, classes), rows that sum to 1; labels, the true classes, have the shape (N,).
"""

import math
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, cast

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

Direction = Literal["maximize", "minimize"]

#: What is logged once an epoch, and so can be an objective. The test set's metrics are not among them.
EPOCH_METRICS: dict[str, Direction] = {
    "train/loss": "minimize",
    "train/accuracy": "maximize",
    "val/loss": "minimize",
    "val/accuracy": "maximize",
    "val/precision": "maximize",
    "val/recall": "maximize",
    "val/f1": "maximize",
    "gap/accuracy": "minimize",  # train − val; the former is a mean over the epoch's batches as they were trained
}
#: Those that lie within [0, 1].
SHARES = frozenset(name for name, direction in EPOCH_METRICS.items() if direction == "maximize")

#: What a trial can be judged by besides: trainable numbers, multiply-adds for one image, and the time of the whole run.
RUN_METRICS: dict[str, Direction] = {"parameters": "minimize", "multiply_adds": "minimize", "seconds": "minimize"}
TRIAL_METRICS: dict[str, Direction] = EPOCH_METRICS | RUN_METRICS


def best_epoch(values: Sequence[float], direction: Direction) -> int | None:
    """The epoch with the best of the values, counted from 1; of equal ones the first. None where no epoch ended."""
    best = max if direction == "maximize" else min
    return values.index(best(values)) + 1 if values else None


def spread(values: Sequence[float], share: bool = False) -> dict[str, Any]:
    """The ``mean`` of values over seeds, ``each`` of them, and its 95% interval by Student's t: ``low`` and ``high``.

    One or two values have no interval: that of two would be thirteen times as wide as their deviation. With `share`,
    the values lie within [0, 1], and so does the interval.
    """
    mean, low, high = statistics.fmean(values), None, None
    if len(values) > 2:
        from scipy.stats import t

        half = float(t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
        low, high = (max(0.0, mean - half), min(1.0, mean + half)) if share else (mean - half, mean + half)
    return {"mean": mean, "low": low, "high": high, "each": list(values)}


def per_class(confusion: "Array") -> dict[str, "Array"]:
    """``precision``, ``recall``, ``f1`` (0 where a class never occurs) and ``support`` (images), each (classes,)."""
    hits, true, predicted = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
    return {
        "precision": hits / predicted.clip(1),
        "recall": hits / true.clip(1),
        "f1": 2 * hits / (true + predicted).clip(1),
        "support": true,
    }


def averages(confusion: "Array") -> dict[str, float]:
    """Accuracy; and precision, recall and F1 as plain (macro) means over the classes that occur or were predicted."""
    occurring = (confusion.sum(axis=0) + confusion.sum(axis=1)) > 0
    means = {name: float(values[occurring].mean()) for name, values in per_class(confusion).items()}
    del means["support"]
    return {"accuracy": float(confusion.trace() / confusion.sum()), **means}


def balanced_accuracy(confusion: "Array", *_: "Array") -> float:
    """The mean over the classes that occur of the share that is recognised (scikit-learn's balanced_accuracy_score)."""
    true = confusion.sum(axis=1)
    return float((confusion.diagonal()[true > 0] / true[true > 0]).mean())


def calibration(probabilities: "Array", labels: "Array", bins: int = 15) -> dict[str, "Array"]:
    """A reliability diagram (Guo et al., "On Calibration of Modern Neural Networks", ICML 2017).

    For bins of equal width of the confidence, a prediction's probability: the means ``confidence`` and ``accuracy``
    (0 where a bin is empty) and the number of ``images``, each of shape (bins,).
    """
    import numpy as np

    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    # a confidence on an edge belongs to the bin below, as in the paper: ((m − 1) / M, m / M]
    index = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    images = np.bincount(index, minlength=bins)
    sums = {"confidence": np.bincount(index, confidence, bins), "accuracy": np.bincount(index, right, bins)}
    return {**{name: values / images.clip(1) for name, values in sums.items()}, "images": images}


def calibration_error(found: "dict[str, Array]") -> float:
    """The expected calibration error (Naeini et al., AAAI 2015), 0 … 1, of what `calibration` found."""
    weights = found["images"] / max(int(found["images"].sum()), 1)
    return float((weights * abs(found["confidence"] - found["accuracy"])).sum())


def confident_mistakes(probabilities: "Array", labels: "Array", count: int) -> "Array":
    """Positions of at most `count` wrongly predicted images, the most confident first."""
    (wrong,) = (probabilities.argmax(axis=1) != labels).nonzero()
    return cast("Array", wrong[(-probabilities[wrong].max(axis=1)).argsort(kind="stable")[:count]])
