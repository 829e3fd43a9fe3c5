"""How well a network does: the one way to measure it, in validation, on the test set, and for an ensemble."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from mnist_sweep.config import metrics
from mnist_sweep.training.data import ImageSet
from mnist_sweep.training.own_code import Metric

#: Images at a time. Their maps fit a processor's cache (benchmarks/NOTES.md); a GPU is filled by more.
BATCH = {"cpu": 64, "cuda": 1_000}


@dataclass(frozen=True)
class Evaluation:
    """What a network does on N images."""

    # PART/loss, PART/accuracy, PART/precision, PART/recall, PART/f1 (macro), and PART/NAME of each extra metric
    metrics: dict[str, float]
    confusion: np.ndarray[Any, Any]  # (classes, classes) int64 counts, a row for each true class
    probabilities: np.ndarray[Any, Any]  # (N, classes) float32, each row summing to 1, in the order of the images


def evaluate(
    network: nn.Module,
    images: ImageSet,
    part: str,
    device: torch.device | None = None,
    extra: Mapping[str, Metric] | None = None,
) -> Evaluation:
    """Measure a network, images (B, C, H, W), 0 … 1 → logits (B, classes), on at least one image, in full precision.

    The metrics are named after the part, ``val`` or ``test``; `extra` are further ones by name. The network is moved to
    the device (None = it stays where it is), and stays in training where it is in training.
    """
    mode, device = network.training, device or device_of(network)
    network.eval().to(device)
    images = images.to(device)
    confusion = torch.zeros(0, dtype=torch.int64, device=device)
    loss = torch.zeros((), dtype=torch.float64, device=device)
    probabilities = []
    with torch.inference_mode():
        for positions in torch.split(torch.arange(len(images), device=device), BATCH[device.type]):
            labels = images.labels[positions]
            logits = network(images.take(positions).float() / 255).float()
            if not len(confusion):
                classes = logits.shape[1]
                confusion = torch.zeros(classes**2, dtype=torch.int64, device=device)
            loss += cross_entropy(logits, labels, reduction="sum")
            cells = labels * classes + logits.argmax(dim=1)
            confusion.scatter_add_(0, cells, torch.ones_like(cells))  # bincount would wait for a GPU
            probabilities.append(logits.softmax(dim=1))
    network.train(mode)
    counts = confusion.reshape(classes, classes).cpu().numpy()
    shares, true = torch.cat(probabilities).cpu().numpy(), images.labels.cpu().numpy()
    values = {"loss": loss.item() / len(images), **metrics.averages(counts)}
    values |= {name: float(function(counts, shares, true)) for name, function in (extra or {}).items()}
    named = {f"{part}/{name}": value for name, value in values.items()}
    return Evaluation(named, counts, shares)


def device_of(network: nn.Module) -> torch.device:
    return next(network.parameters()).device
