"""A network in a file: it keeps its numbers, also one of version 1; and a hostile file does nothing."""

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mnist_sweep.errors import RequestError
from mnist_sweep.training import data, trained_model
from mnist_sweep.training.evaluate import evaluate
from tests.training.fitting import fit

#: Written by version 1: 1,000 images of mnist5k, three epochs, `model.filters=[2] model.pool_size=4 model.hidden=[]`.
VERSION_1 = Path(__file__).parent / "version1.ckpt"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A training of a second."""
    return fit(tmp_path_factory.mktemp("small"))


def best(trained: Any) -> Path:
    return Path(trained.folder) / "checkpoints" / "best.ckpt"


def test_a_file_gives_the_numbers_of_its_training(small: Any) -> None:
    model = trained_model.read(best(small))
    assert model.config.relevant() == small.config.relevant()
    np.testing.assert_array_equal(model.probabilities(small.held_out.images), small.validation.probabilities)
    assert evaluate(model.network, small.held_out, "val").metrics == small.validation.metrics
    served = trained_model.served(model.network)
    with torch.no_grad():
        shares = served(small.held_out.images.float() / 255).numpy()
    np.testing.assert_allclose(shares, small.validation.probabilities, atol=1e-6)
    assert model.probabilities(small.held_out.images[:0]).shape == (0, 10)


def test_a_file_of_version_1_gives_the_numbers_that_version_1_measured(tmp_path: Path) -> None:
    model = trained_model.read(VERSION_1)
    _, validation = data.parts(model.config.data)
    found = evaluate(model.network, validation, "val").metrics
    assert found["val/accuracy"] == 0.816
    assert found["val/loss"] == pytest.approx(0.5436859893798828, rel=1e-5)
    trained_model.save(tmp_path / "new.ckpt", model.network, model.config)
    assert evaluate(trained_model.read(tmp_path / "new.ckpt").network, validation, "val").metrics == found


def test_an_ensemble_in_one_file(small: Any, tmp_path: Path) -> None:
    trained_model.save_ensemble([best(small), VERSION_1], tmp_path / "both.ckpt")
    model = trained_model.read(tmp_path / "both.ckpt")
    assert [member.config.parameters()["model.filters"] for member in model.members] == [[4], [2]]
    assert model.config.relevant() == small.config.relevant()
    images = data.test_set("mnist5k", "").images[:70]
    each = [member.probabilities(images) for member in model.members]
    np.testing.assert_allclose(model.probabilities(images), np.mean(each, axis=0), atol=1e-6)
    for look in (trained_model.first_filters, lambda network: trained_model.activation_maps(network, images)[0]):
        np.testing.assert_array_equal(look(model.network), look(model.members[0].network))


def test_filters_and_activation_maps(small: Any) -> None:
    model = trained_model.read(best(small))
    assert trained_model.first_filters(model.network).shape == (4, 3, 3)
    chosen = list(range(10))
    assert trained_model.images_at(small.held_out, chosen).shape == (10, 28, 28)
    images = small.held_out.images[chosen]
    maps = trained_model.activation_maps(model.network, images)
    assert [each.shape for each in maps] == [(10, 4, 14, 14)]
    with torch.no_grad():
        through = model.network.get_submodule("head")(torch.from_numpy(maps[-1])).softmax(dim=1).numpy()
    assert np.allclose(through, model.probabilities(images), atol=1e-5)


class Hostile:
    """Executes something when it is unpickled without care."""

    def __reduce__(self) -> Any:
        return os.system, ("touch executed",)


def test_a_hostile_file_is_refused_and_nothing_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Hostile()}, "zip.ckpt")
    Path("raw.ckpt").write_bytes(pickle.dumps(Hostile()))
    Path("text.ckpt").write_text("name: one\nseed: 0\n")
    Path("folder.ckpt").mkdir()
    for name, content in (("other", {"state_dict": {}}), ("empty", {"members": []}), ("list", [1])):
        torch.save(content, f"{name}.ckpt")
    for name in ("zip", "raw", "text", "other", "empty", "list", "none", "folder"):
        with pytest.raises(RequestError, match=f"{name}.ckpt.*; allowed: ") as caught:
            trained_model.read(Path(f"{name}.ckpt"))
        assert "\n" not in str(caught.value)
    assert not Path("executed").exists()


@pytest.mark.parametrize("dataset", ["mnist", "kmnist"])
def test_what_is_served_takes_images_as_callers_have_them(small: Any, dataset: str) -> None:
    network = trained_model.served(small.network, dataset)
    images = small.held_out.images[:20].float()
    wanted = network(images / 255)
    assert torch.allclose(network(images), wanted, atol=1e-6)
    on_white = torch.allclose(network(255 - images), wanted, atol=1e-5)
    assert on_white == (dataset == "mnist")  # of other sets the ground may have any brightness
