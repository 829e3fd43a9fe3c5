"""What a trained network does, as arrays; and that a hostile file does nothing."""

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.calibration import calibration_curve

from mnist_sweep import run
from mnist_sweep.config import metrics
from mnist_sweep.config.command import compose
from mnist_sweep.errors import RequestError
from mnist_sweep.result import BEST, Result
from mnist_sweep.training import data
from mnist_sweep.training import trained_model as inspection
from mnist_sweep.training.lightning_module import Classifier
from tests.conftest import SMALL


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """A run of a second."""
    given = [*SMALL, f"output={tmp_path_factory.mktemp('inspected')}", "name=small"]
    return run.run(compose(given), given)


def test_a_checkpoint_gives_the_numbers_of_its_run(small: Result) -> None:
    classifier = inspection.load(Path(small.folder) / BEST)
    assert isinstance(classifier, Classifier)
    _, validation = data.training_and_validation("mnist5k", "data", 0, 200)
    said = inspection.probabilities(classifier, validation.images)
    assert said.shape == (500, 10)
    assert said.sum(axis=1) == pytest.approx(np.ones(500), abs=1e-5)
    right = (said.argmax(axis=1) == validation.labels.numpy()).mean()
    assert right == pytest.approx(small.metrics["val/accuracy"])
    assert small.confusion is not None
    assert np.trace(small.confusion) / 500 == pytest.approx(right)
    served = inspection.served(classifier)
    with torch.no_grad():
        assert np.allclose(served(validation.images.float() / 255).numpy(), said, atol=1e-6)


def test_filters_and_activation_maps(small: Result) -> None:
    classifier = inspection.load(Path(small.folder) / BEST)
    assert isinstance(classifier, Classifier)
    _, validation = data.training_and_validation("mnist5k", "data", 0, 200)
    assert inspection.first_filters(classifier).shape == (4, 3, 3)
    chosen = inspection.one_of_each(validation.labels)
    assert validation.labels[chosen].tolist() == list(range(10))
    maps = inspection.activation_maps(classifier, validation.images[chosen])
    assert [each.shape for each in maps] == [(10, 4, 14, 14)]
    head = classifier.network.head
    with torch.no_grad():
        through = head(torch.from_numpy(maps[-1])).softmax(dim=1).numpy()  # type: ignore[operator]
    assert np.allclose(through, inspection.probabilities(classifier, validation.images[chosen]), atol=1e-5)


class Hostile:
    """Executes something when it is unpickled without care."""

    def __reduce__(self) -> Any:
        return os.system, ("touch executed",)


def test_a_hostile_file_is_refused_and_nothing_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Hostile()}, "zip.ckpt")
    Path("raw.ckpt").write_bytes(pickle.dumps(Hostile()))
    Path("text.ckpt").write_text("name: one\nseed: 0\n")
    torch.save({"state_dict": {}}, "other.ckpt")
    for name in ("zip", "raw", "text", "other", "none"):
        with pytest.raises(RequestError, match=f"{name}.ckpt") as caught:
            inspection.load(Path(f"{name}.ckpt"))
        assert "\n" not in str(caught.value)
        assert ("it holds more than plain data" in str(caught.value)) == (name == "zip")
    assert not Path("executed").exists()


def test_calibration_is_that_of_scikit_learn() -> None:
    draw = np.random.default_rng(0)
    probabilities = draw.dirichlet(np.full(10, 0.3), 4_000)
    labels = np.array([draw.choice(10, p=row) for row in probabilities])
    found = metrics.calibration(probabilities, labels, 10)
    assert found["images"].sum() == 4_000
    right = probabilities.argmax(axis=1) == labels
    true, mean = calibration_curve(right, probabilities.max(axis=1), n_bins=10)
    filled = found["images"] > 0
    assert found["accuracy"][filled] == pytest.approx(true)
    assert found["confidence"][filled] == pytest.approx(mean)
    assert metrics.calibration_error(found) < 0.05  # the labels were drawn by these very probabilities
    sure = np.eye(10)[(labels + 1) % 10]
    assert metrics.calibration_error(metrics.calibration(sure, labels)) == 1.0


def test_the_most_confident_mistakes_come_first() -> None:
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.4, 0.6], [0.3, 0.7]])
    assert metrics.confident_mistakes(probabilities, np.array([0, 0, 0, 1]), 5).tolist() == [1, 2]
    assert metrics.confident_mistakes(probabilities, np.array([1, 0, 0, 1]), 2).tolist() == [0, 1]
    assert metrics.confident_mistakes(probabilities, np.array([0, 1, 1, 1]), 2).tolist() == []
