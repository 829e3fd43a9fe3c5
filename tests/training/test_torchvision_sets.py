"""The sets that torchvision reads, in the forms in which it has them: made up here, since they are large."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torchvision

from mnist_sweep.config.command import CommandLine
from mnist_sweep.config.image_sets import IMAGE_SETS
from mnist_sweep.errors import RequestError
from mnist_sweep.training import data, datasets

OTHERS = [name for name, source in IMAGE_SETS.items() if source.arguments]
#: What each class of torchvision calls its images and labels, and how it has them.
FORMS = {"USPS": (16, 16), "SVHN": (3, 32, 32), "CIFAR10": (32, 32, 3), "CIFAR100": (32, 32, 3)}


def made(kind: str, classes: int, count: int) -> Any:
    images = np.random.default_rng(0).integers(0, 256, (count, *FORMS.get(kind, (28, 28))), dtype=np.uint8)
    labels = np.arange(count) % classes
    if kind == "SVHN":
        return SimpleNamespace(data=images, labels=labels)
    if kind in FORMS:
        return SimpleNamespace(data=images, targets=labels.tolist())
    if kind == "QMNIST":
        return SimpleNamespace(data=torch.from_numpy(images), targets=torch.from_numpy(np.stack([labels] * 8, axis=1)))
    return SimpleNamespace(data=torch.from_numpy(images), targets=torch.from_numpy(labels))


@pytest.mark.parametrize("name", OTHERS)
def test_each_form_becomes_images_and_labels(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, asked = IMAGE_SETS[name], []
    count, kind = source.validation + source.images.classes, str(source.torchvision)

    def read(root: str, download: bool, **arguments: Any) -> Any:
        asked.append((root, download, arguments))
        found = made(kind, source.images.classes, count if len(asked) == 1 else 50)
        if name == "emnist_letters":
            found.targets += 1
        return found

    monkeypatch.setattr(torchvision.datasets, kind, read)
    settings = CommandLine.of([f"data={name}", f"data.root={tmp_path}"]).config.data
    assert settings.images == source.images
    assert len(settings.classes) == source.images.classes == len(set(source.classes))
    assert datasets.missing(settings)
    assert datasets.obtain(settings) == name
    assert datasets.missing(settings) == []
    assert asked == [(str(tmp_path), True, arguments) for arguments in source.arguments or ()]
    (_, validation), test = data.parts(settings), data.test_images(settings)
    assert (len(validation), len(test)) == (source.validation, 50)
    assert test.images.shape[1:] == source.images.shape
    given = made(kind, source.images.classes, 50)
    first = np.asarray(given.data[0])
    wanted = first.T if name.startswith("emnist") else first.transpose(2, 0, 1) if first.shape[-1] == 3 else first
    assert torch.equal(test.images[0].squeeze(0), torch.from_numpy(np.ascontiguousarray(wanted)))
    assert test.labels.tolist() == [number % source.images.classes for number in range(50)]
    assert len(asked) == 2  # kept


def test_without_a_network_a_line_says_what_to_put_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*_: Any, **__: Any) -> Any:
        raise RuntimeError("Error downloading x:\n<urlopen error [Errno 111] Connection refused>")

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", read)
    settings = CommandLine.of(["data=cifar10", f"data.root={tmp_path / 'there'}"]).config.data
    why = (
        r"CIFAR-10 is not there and cannot be downloaded \(\[Errno 111\] Connection refused\); allowed: a folder that "
    )
    with pytest.raises(RequestError, match=why + "has .*/there/cifar-10-python.tar.gz"):
        datasets.obtain(settings)
    assert not list(tmp_path.glob("there/cache/*"))


def test_an_archive_that_somebody_put_there_is_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a kill between the download and the unpacking, too: nothing is missing, and nothing can be read yet."""
    (tmp_path / "cifar-10-python.tar.gz").touch()

    def read(_: str, download: bool, train: bool) -> Any:
        if not download:  # by which torchvision is asked to unpack it
            raise RuntimeError("Dataset not found or corrupted.")
        return made("CIFAR10", 10, 5_010 if train else 50)

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", read)
    settings = CommandLine.of(["data=cifar10", f"data.root={tmp_path}"]).config.data
    assert datasets.missing(settings) == []
    assert datasets.obtain(settings) == "cifar10"
    assert len(data.test_images(settings)) == 50


def test_an_archive_that_is_damaged_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*_: Any, **__: Any) -> Any:
        raise RuntimeError("Error downloading x:\n<urlopen error [Errno 111] Connection refused>")

    (tmp_path / "cifar-10-python.tar.gz").touch()
    monkeypatch.setattr(torchvision.datasets, "CIFAR10", read)
    settings = CommandLine.of(["data=cifar10", f"data.root={tmp_path}"]).config.data
    why = r"CIFAR-10 is not there as it was published and cannot be downloaded .*; allowed: a folder .*10-python"
    with pytest.raises(RequestError, match=why):
        datasets.obtain(settings)
