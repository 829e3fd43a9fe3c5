"""Metrics from a confusion matrix against scikit-learn on the same predictions, to the last digit; means over seeds."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import stats
from sklearn.calibration import calibration_curve
from sklearn.metrics import accuracy_score, confusion_matrix, precision_recall_fscore_support

from mnist_sweep.config import metrics

labels = st.integers(0, 9)


@given(st.lists(st.tuples(labels, labels), min_size=1, max_size=300))
@example([(3, 3)])  # classes that never occur do not lower the mean
def test_metrics_equal_those_of_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    true, predicted = zip(*pairs, strict=True)
    confusion = confusion_matrix(true, predicted, labels=range(10))
    precision, recall, f1, _ = precision_recall_fscore_support(true, predicted, average="macro", zero_division=0)
    accuracy = accuracy_score(true, predicted)
    found = metrics.averages(confusion)
    assert found == {"accuracy": accuracy, "precision": precision, "recall": recall, "f1": f1}
    each = precision_recall_fscore_support(true, predicted, labels=range(10), zero_division=0)
    for name, values in zip(("precision", "recall", "f1", "support"), each, strict=True):
        np.testing.assert_array_equal(metrics.per_class(confusion)[name], values)


def test_losses_and_the_gap_are_minimized_and_the_test_set_is_no_objective() -> None:
    for name, direction in metrics.EPOCH_METRICS.items():
        assert (direction == "minimize") == (name.endswith("loss") or name.startswith("gap"))
        assert not name.startswith("test/")


def test_the_best_epoch_is_the_first_of_equal_ones() -> None:
    assert metrics.best_epoch([0.1, 0.3, 0.2, 0.3], "maximize") == 2
    assert metrics.best_epoch([0.1, 0.3, 0.1], "minimize") == 1
    assert metrics.best_epoch([], "minimize") is None


@given(st.lists(st.floats(0.5, 1.0), min_size=3, max_size=6, unique_by=lambda value: round(value, 3)))
def test_the_interval_of_a_mean_over_seeds_is_students(values: list[float]) -> None:
    found = metrics.spread(values)
    low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
    assert (found["low"], found["high"]) == pytest.approx((low, high))
    share = metrics.spread(values, share=True)
    assert (share["low"], share["high"]) == (max(0.0, found["low"]), min(1.0, found["high"]))
    assert share["mean"] == found["mean"] == pytest.approx(np.mean(values))
    for few in ([0.5], [0.25, 0.75]):  # t of one degree of freedom says next to nothing
        assert metrics.spread(few) == {"mean": 0.5, "low": None, "high": None, "each": few}


def test_calibration_is_that_of_scikit_learn() -> None:
    draw = np.random.default_rng(0)
    probabilities = draw.dirichlet(np.full(10, 0.3), 4_000)
    labels = np.array([draw.choice(10, p=row) for row in probabilities])
    found = metrics.calibration(probabilities, labels, 10)
    right = probabilities.argmax(axis=1) == labels
    accuracy, confidence = calibration_curve(right, probabilities.max(axis=1), n_bins=10)
    filled = found["images"] > 0
    assert found["images"].sum() == 4_000
    assert found["accuracy"][filled] == pytest.approx(accuracy)
    assert found["confidence"][filled] == pytest.approx(confidence)
    assert metrics.calibration_error(found) < 0.05  # the labels were drawn by these very probabilities
    assert metrics.calibration_error(metrics.calibration(np.eye(10)[(labels + 1) % 10], labels)) == 1.0


def test_the_most_confident_mistakes_come_first() -> None:
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6], [0.3, 0.7]])
    assert metrics.confident_mistakes(probabilities, np.array([0, 0, 0, 1]), 5).tolist() == [1, 2]
    assert metrics.confident_mistakes(probabilities, np.array([1, 0, 0, 1]), 2).tolist() == [0, 1]
