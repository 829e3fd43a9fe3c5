"""Checkpoints and data sets that are damaged."""

import copy
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mnist_sweep.config.command import CommandLine
from mnist_sweep.errors import RequestError
from mnist_sweep.training import datasets
from tests.training.fitting import failing_in, fit

LABELS, PIXELS = "t10k-labels-idx1-ubyte", "t10k-images-idx3-ubyte"


def _another_network(state: dict[str, Any]) -> None:
    network = state["parts"]["network"]
    name = next(key for key, value in network.items() if value.ndim == 4)
    network[name] = torch.zeros(1, 1, 9, 9)


def _without_an_optimizer(state: dict[str, Any]) -> None:
    for name in [*state["parts"]][1:]:
        state["parts"][name] = {}


def _another_generator(state: dict[str, Any]) -> None:
    state["torch"] = state["torch"][:100]


@pytest.mark.slow
@pytest.mark.fault(8)
@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
        lambda path: path.write_bytes(bytes(path.stat().st_size)),
        lambda path: path.write_bytes(b""),
        _another_network, _without_an_optimizer, _another_generator,
    ],
)  # fmt: skip
def test_a_damaged_checkpoint_means_that_a_trial_starts_again(tmp_path: Path, damage: Callable[[Any], object]) -> None:
    items = ["trainer.max_epochs=3"]
    whole = fit(tmp_path / "whole", *items)
    with pytest.raises(KeyError):
        fit(tmp_path, *items, on_epoch=failing_in(2))
    last = tmp_path / "checkpoints" / "last.ckpt"
    if damage.__name__.startswith("_"):
        state = copy.deepcopy(torch.load(last, weights_only=True))
        damage(state)
        torch.save(state, last)
    else:
        damage(last)
    assert fit(tmp_path, *items).history == whole.history


@pytest.mark.fault(15)
@pytest.mark.parametrize(
    ("name", "content"),
    [
        (LABELS, struct.pack(">2i", 2051, 10_000) + bytes(10_000)),
        (LABELS, struct.pack(">2i", 2049, 9_999) + bytes(10_000)),
        (LABELS, struct.pack(">2i", 2049, 10_000) + bytes([10]) * 10_000),
        (LABELS, bytes(10_007)),
        (PIXELS, struct.pack(">4i", 2051, 10_000, 28, 27) + bytes(7_840_000)),
        (PIXELS, b""),
    ],
)
@pytest.mark.parametrize("dataset", ["MNIST", "KMNIST"])
def test_an_altered_file_is_named_before_anything_begins(
    tmp_path: Path, name: str, content: bytes, dataset: str
) -> None:
    raw = tmp_path / dataset / "raw"
    raw.mkdir(parents=True)
    (raw / name).write_bytes(content)
    data = CommandLine.of([f"data={dataset.lower()}", f"data.root={tmp_path}"]).config.data
    with pytest.raises(RequestError, match=f"{name} is damaged"):
        datasets.verify(data)
