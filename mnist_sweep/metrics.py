"""The metrics of an epoch: their names, which way is better, and how they follow from a confusion matrix."""

from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np

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
    "gap/accuracy": "minimize",
}

#: What a trial can be judged by besides: trainable numbers, multiply-adds for one image, and the time of the whole run.
RUN_METRICS: dict[str, Direction] = {"parameters": "minimize", "multiply_adds": "minimize", "seconds": "minimize"}
TRIAL_METRICS: dict[str, Direction] = EPOCH_METRICS | RUN_METRICS


def per_class(confusion: "np.ndarray[Any, Any]") -> dict[str, "np.ndarray[Any, Any]"]:
    """Precision, recall and F1 of each class; 0 where a class was never predicted or never occurs.

    Args:
        confusion: (classes, classes) counts, a row for each true class, a column for each predicted one.

    Returns:
        ``precision``, ``recall``, ``f1`` in [0, 1] and ``support`` (images), each of shape (classes,).
    """
    import numpy as np

    counts = confusion.astype(np.float64)
    hits, true, predicted = counts.diagonal(), counts.sum(axis=1), counts.sum(axis=0)

    def ratio(numerator: "np.ndarray[Any, Any]", denominator: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
        quotient: np.ndarray[Any, Any] = np.zeros_like(numerator)
        np.divide(numerator, denominator, out=quotient, where=denominator > 0)
        return quotient

    return {
        "precision": ratio(hits, predicted),
        "recall": ratio(hits, true),
        "f1": ratio(2 * hits, true + predicted),
        "support": true.astype(np.int64),
    }


def averages(confusion: "np.ndarray[Any, Any]") -> dict[str, float]:
    """Accuracy, and precision, recall and F1 as plain (macro) means over the classes that occur or were predicted.

    The same numbers as scikit-learn's ``accuracy_score`` and ``precision_recall_fscore_support(average="macro",
    zero_division=0)`` on the predictions that were counted.

    Args:
        confusion: (classes, classes) counts, a row for each true class; at least one image.
    """
    occurring = (confusion.sum(axis=0) + confusion.sum(axis=1)) > 0
    means = {
        name: float(values[occurring].mean()) for name, values in per_class(confusion).items() if name != "support"
    }
    return {"accuracy": float(confusion.trace() / confusion.sum()), **means}
