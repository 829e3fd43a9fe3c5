"""What a trained network does: its probabilities, its first filters, its activation maps, as plain arrays."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mnist_sweep import schema, shapes
from mnist_sweep.classifier import Classifier
from mnist_sweep.data import ImageSet
from mnist_sweep.errors import RequestError
from mnist_sweep.models import ConvNet

Array = np.ndarray[Any, Any]

#: Images at a time: their maps fit a processor's cache.
_BATCH = 100


class Served(nn.Module):
    """A network as it is served and exported: images (B, 1, 28, 28), 0 … 1, white on black → probabilities (B, 10).

    A copy on the CPU, in evaluation mode, free of Lightning.

    Args:
        classifier: is left as it is.
    """

    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.network = ConvNet(classifier.config.model)
        self.network.load_state_dict({k: v.cpu() for k, v in classifier.network.state_dict().items()})
        self.register_buffer("mean", classifier.mean.detach().cpu().clone())
        self.register_buffer("deviation", classifier.deviation.detach().cpu().clone())
        self.eval()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        probabilities: torch.Tensor = self.network((images - self.mean) / self.deviation).softmax(dim=1)
        return probabilities


def load(checkpoint: Path) -> Classifier:
    """The network of a checkpoint, with its config, in evaluation mode, on the CPU. Only plain data is read.

    Raises:
        RequestError: the file cannot be read, holds more than plain data, or is not one of ours.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a foreign file's format
            content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise RequestError(f"{checkpoint}: no such file; allowed: the best.ckpt of a run") from error
    except OSError as error:
        raise RequestError(
            f"{checkpoint}: cannot be read ({error.strerror}); allowed: the best.ckpt of a run"
        ) from error
    except Exception as error:  # torch's, zipfile's and pickle's own
        cause = " ".join(str(error).split())
        hostile = "Unsupported" in cause or "Weights only" in cause
        said = "it holds more than plain data, and nothing of it was executed" if hostile else "it is no checkpoint"
        raise RequestError(f"{checkpoint}: refused: {said}; allowed: the best.ckpt of a run") from error
    try:
        config = schema.Config.model_validate(content["hyper_parameters"]["config"])
        state = content["state_dict"]
        classifier = Classifier(ConvNet(config.model), config, (float(state["mean"]), float(state["deviation"])))
        classifier.load_state_dict(state)
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        cause = " ".join(f"{type(error).__name__}: {error}".split())[:100]
        raise RequestError(
            f"{checkpoint}: not a checkpoint of mnist_sweep ({cause}); allowed: a run's best.ckpt"
        ) from error
    return classifier.eval()


@torch.no_grad()
def probabilities(classifier: Classifier, images: torch.Tensor) -> Array:
    """Probabilities (N, 10) float32 of images (N, 1, 28, 28) uint8, 0 … 255, on whatever device; batch by batch."""
    classifier.eval()
    batches = [
        classifier.probabilities(part.to(classifier.device).float() / 255).cpu() for part in torch.split(images, _BATCH)
    ]
    return torch.cat(batches).numpy() if batches else np.zeros((0, shapes.CLASSES), np.float32)


def first_filters(classifier: Classifier) -> Array:
    """The first convolution's kernels, (filters, K, K); none of a network without blocks: (0, 1, 1)."""
    for module in classifier.network.modules():
        if isinstance(module, nn.Conv2d):
            return module.weight.detach().float().cpu().numpy()[:, 0]
    return np.zeros((0, 1, 1), np.float32)


@torch.no_grad()
def activation_maps(classifier: Classifier, images: torch.Tensor) -> list[Array]:
    """What each block makes of some images.

    Args:
        classifier: in evaluation mode.
        images: (N, 1, 28, 28) uint8, 0 … 255.

    Returns:
        For each block (N, filters, S, S), the output of its last layer.
    """
    found: list[Array] = []
    flow = (images.to(classifier.device).float() / 255 - classifier.mean) / classifier.deviation
    blocks = classifier.network.blocks
    for block in blocks if isinstance(blocks, nn.Sequential) else []:
        flow = block(flow.contiguous(memory_format=torch.channels_last))
        found.append(flow.float().cpu().numpy())
    return found


def one_of_each(labels: torch.Tensor, classes: Sequence[int] = range(shapes.CLASSES)) -> list[int]:
    """The position of the first image of each class, (N,) labels; classes that do not occur are left out."""
    return [int((labels == label).nonzero()[0]) for label in classes if bool((labels == label).any())]


def images_at(images: ImageSet, positions: Sequence[int]) -> Array:
    """Some images as an array (K, 28, 28) uint8."""
    return images.take(torch.as_tensor(positions, dtype=torch.int64))[:, 0].cpu().numpy()
