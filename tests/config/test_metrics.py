"""Metrics from a confusion matrix against scikit-learn on the same predictions, to the last digit."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, confusion_matrix, precision_recall_fscore_support

from mnist_sweep.config import metrics

labels = st.integers(0, 9)


@given(st.lists(st.tuples(labels, labels), min_size=1, max_size=300))
def test_equal_to_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    true, predicted = zip(*pairs, strict=True)
    found = metrics.averages(confusion_matrix(true, predicted, labels=range(10)))
    precision, recall, f1, _ = precision_recall_fscore_support(true, predicted, average="macro", zero_division=0)
    assert found == {
        "accuracy": accuracy_score(true, predicted),
        "precision": precision,
        "recall": recall,
        "f1": f1,
    }


@given(st.lists(st.tuples(labels, labels), min_size=1, max_size=300))
def test_each_class_equals_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    true, predicted = zip(*pairs, strict=True)
    found = metrics.per_class(confusion_matrix(true, predicted, labels=range(10)))
    wanted = precision_recall_fscore_support(true, predicted, labels=range(10), zero_division=0)
    for name, values in zip(("precision", "recall", "f1", "support"), wanted, strict=True):
        np.testing.assert_array_equal(found[name], values)


def test_a_class_that_never_occurs_does_not_lower_the_mean() -> None:
    confusion = np.zeros((10, 10), dtype=int)
    confusion[3, 3] = 5
    assert metrics.averages(confusion) == {"accuracy": 1.0, "precision": 1.0, "recall": 1.0, "f1": 1.0}


@pytest.mark.parametrize("name", metrics.EPOCH_METRICS)
def test_losses_and_the_gap_are_minimized(name: str) -> None:
    assert (metrics.EPOCH_METRICS[name] == "minimize") == (name.endswith("loss") or name.startswith("gap"))


def test_the_test_set_cannot_be_an_objective() -> None:
    assert not any(name.startswith("test/") for name in metrics.EPOCH_METRICS)
