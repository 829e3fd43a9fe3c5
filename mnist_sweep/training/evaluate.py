"""How well a network does: the one way to measure it, in validation, on the test set, and for an ensemble."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from mnist_sweep.config import metrics
from mnist_sweep.config import network_shapes as shapes
from mnist_sweep.training.data import ImageSet

#: Images at a time. Their maps fit a processor's cache (benchmarks/NOTES.md); a GPU is filled by more.
BATCH = {"cpu": 64, "cuda": 1_000}


@dataclass(frozen=True)
class Evaluation:
    """What a network does on N images."""

    metrics: dict[str, float]  # PART/loss, PART/accuracy, and PART/precision, PART/recall, PART/f1 (macro)
    confusion: np.ndarray[Any, Any]  # (10, 10) int64 counts, a row for each true class
    probabilities: np.ndarray[Any, Any]  # (N, 10) float32, each row summing to 1, in the order of the images


def evaluate(network: nn.Module, images: ImageSet, part: str, device: torch.device | None = None) -> Evaluation:
    """Measure a network, images (B, 1, 28, 28), 0 … 1 → logits (B, 10), on at least one image, in full precision.

    The metrics are named after the part, ``val`` or ``test``. The network is moved to the device (None = it stays where
    it is), and stays in training where it is in training.
    """
    mode, device = network.training, device or device_of(network)
    network.eval().to(device)
    images = images.to(device)
    confusion = torch.zeros(shapes.CLASSES**2, dtype=torch.int64, device=device)
    loss = torch.zeros((), dtype=torch.float64, device=device)
    probabilities = []
    with torch.inference_mode():
        for positions in torch.split(torch.arange(len(images), device=device), BATCH[device.type]):
            labels = images.labels[positions]
            logits = network(images.take(positions).float() / 255).float()
            loss += cross_entropy(logits, labels, reduction="sum")
            cells = labels * shapes.CLASSES + logits.argmax(dim=1)
            confusion.scatter_add_(0, cells, torch.ones_like(cells))  # bincount would wait for a GPU
            probabilities.append(logits.softmax(dim=1))
    network.train(mode)
    counts = confusion.reshape(shapes.CLASSES, shapes.CLASSES).cpu().numpy()
    values = {"loss": loss.item() / len(images), **metrics.averages(counts)}
    named = {f"{part}/{name}": value for name, value in values.items()}
    return Evaluation(named, counts, torch.cat(probabilities).cpu().numpy())


def device_of(network: nn.Module) -> torch.device:
    return next(network.parameters()).device
