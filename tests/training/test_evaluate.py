"""The one way to measure a network: against scikit-learn, for single networks and for ensembles."""

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix, log_loss
from torch import nn

from mnist_sweep.config.metrics import averages
from mnist_sweep.training import data
from mnist_sweep.training.evaluate import BATCH, evaluate
from mnist_sweep.training.trained_model import Ensemble


def images(count: int) -> data.ImageSet:
    pixels = torch.randint(0, 256, (count, 1, 28, 28), dtype=torch.uint8)
    return data.ImageSet(pixels, torch.randint(0, 10, (count,)))


def linear() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))


@pytest.mark.parametrize("count", [1, BATCH["cpu"], 3 * BATCH["cpu"] - 1])
def test_numbers_are_those_of_scikit_learn(count: int) -> None:
    torch.manual_seed(0)
    network, part = linear(), images(count)
    found = evaluate(network, part, "test")
    with torch.no_grad():
        wanted = network(part.images.float() / 255).double().softmax(dim=1).numpy()
    np.testing.assert_allclose(found.probabilities, wanted, atol=1e-6)
    labels, confusion = part.labels.numpy(), confusion_matrix(part.labels, wanted.argmax(axis=1), labels=range(10))
    assert (found.confusion == confusion).all()
    assert found.metrics == {
        "test/loss": pytest.approx(log_loss(labels, wanted, labels=range(10))),
        **{f"test/{name}": value for name, value in averages(confusion).items()},
    }


@pytest.mark.parametrize("training", [True, False])
def test_a_network_is_measured_as_it_will_be_used_and_trains_on(training: bool) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Dropout(0.9), nn.BatchNorm1d(784), nn.Linear(784, 10)).train(training)
    before = [value.clone() for value in network.state_dict().values()]
    part = images(70)
    assert evaluate(network, part, "val").metrics == evaluate(network, part, "val").metrics
    assert all(module.training == training for module in network.modules())
    assert all(map(torch.equal, before, network.state_dict().values()))
    network(part.images.float() / 255).sum().backward()


def test_an_ensemble_is_measured_by_its_mean_probabilities() -> None:
    torch.manual_seed(0)
    members, part = [linear() for _ in range(3)], images(50)
    found = evaluate(Ensemble(members), part, "val")
    mean = np.mean([evaluate(member, part, "val").probabilities for member in members], axis=0)
    np.testing.assert_allclose(found.probabilities, mean, atol=1e-6)
    wanted = -np.log(mean[np.arange(50), part.labels.numpy()]).mean()
    assert found.metrics["val/loss"] == pytest.approx(wanted, rel=1e-5)
    with torch.no_grad():
        members[0][1].bias[3] = 1e9  # type: ignore[index]
    wrong = data.ImageSet(torch.zeros(1, 1, 28, 28, dtype=torch.uint8), torch.tensor([4]))
    assert 80 < evaluate(Ensemble(members[:1]), wrong, "val").metrics["val/loss"] < 100  # finite
