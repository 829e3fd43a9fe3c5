"""What a trained network, or an ensemble, does: its probabilities, first filters, activation maps, as plain arrays."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mnist_sweep.config import network_shapes as shapes
from mnist_sweep.config import schema
from mnist_sweep.config.metrics import Measured
from mnist_sweep.errors import RequestError
from mnist_sweep.training.data import ImageSet
from mnist_sweep.training.lightning_module import Classifier
from mnist_sweep.training.models import network

Array = np.ndarray[Any, Any]

#: Images at a time: their maps fit a processor's cache (benchmarks/NOTES.md).
BATCH = 64


class Ensemble(nn.Module):
    """Trained networks that answer together: the mean of their probabilities.

    Args:
        members: at least one, trained on the same data set.

    Attributes:
        config: of the first member, for all that members have in common: the data.
        test: what was measured on the test set, where it was opened.
    """

    def __init__(self, members: Sequence[Classifier]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.config = members[0].config
        self.test: Measured | None = None

    @property
    def classifiers(self) -> list[Classifier]:
        """The members; of the first, filters and activation maps are shown."""
        return [member for member in self.members if isinstance(member, Classifier)]

    @property
    def device(self) -> torch.device:
        return self.classifiers[0].device

    def probabilities(self, images: torch.Tensor) -> torch.Tensor:
        """Probabilities (B, 10), each row summing to 1, of images (B, 1, 28, 28), 0 … 1."""
        return torch.stack([member.probabilities(images) for member in self.classifiers]).mean(dim=0)


#: What answers: one network, or several.
Network = Classifier | Ensemble


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
        self.network = network(classifier.config.model)
        self.network.load_state_dict({k: v.cpu() for k, v in classifier.network.state_dict().items()})
        self.register_buffer("mean", classifier.mean.detach().cpu().clone())
        self.register_buffer("deviation", classifier.deviation.detach().cpu().clone())
        self.eval()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        probabilities: torch.Tensor = self.network((images - self.mean) / self.deviation).softmax(dim=1)
        return probabilities


class ServedEnsemble(nn.Module):
    """An ensemble as it is served and exported, see `Served`.

    Args:
        ensemble: is left as it is.
    """

    def __init__(self, ensemble: Ensemble) -> None:
        super().__init__()
        self.members = nn.ModuleList(Served(member) for member in ensemble.classifiers)
        self.eval()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.stack([member(images) for member in self.members]).mean(dim=0)


def served(network: Network) -> nn.Module:
    """A network or an ensemble as it is served and exported, see `Served`."""
    return Served(network) if isinstance(network, Classifier) else ServedEnsemble(network)


def load(checkpoint: Path) -> Network:
    """The network or the ensemble of a checkpoint, in evaluation mode, on the CPU. Only plain data is read.

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
        # of the first byte of a text or a picture, which is no pickle at all, torch says "Unsupported operand"
        hostile = "Weights only" in cause and "Unsupported operand" not in cause
        said = "it holds more than plain data, and nothing of it was executed" if hostile else "it is no checkpoint"
        raise RequestError(f"{checkpoint}: refused: {said}; allowed: the best.ckpt of a run") from error
    try:
        if "members" in content:
            return Ensemble([_classifier(member) for member in content["members"]]).eval()
        return _classifier(content).eval()
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, RuntimeError) as error:
        cause = " ".join(f"{type(error).__name__}: {error}".split())[:100]
        raise RequestError(
            f"{checkpoint}: not a checkpoint of mnist_sweep ({cause}); allowed: a run's best.ckpt"
        ) from error


def _classifier(content: Any) -> Classifier:
    """The network of a checkpoint's content."""
    config = schema.Config.model_validate(content["hyper_parameters"]["config"])
    state = content["state_dict"]
    classifier = Classifier(network(config.model), config, (float(state["mean"]), float(state["deviation"])))
    classifier.load_state_dict(state)
    return classifier


def save_ensemble(checkpoints: Sequence[Path], file: Path) -> None:
    """Put the checkpoints of several runs into one, which `load` reads as their ensemble."""
    contents = [torch.load(checkpoint, map_location="cpu", weights_only=True) for checkpoint in checkpoints]
    members = [{key: content[key] for key in ("hyper_parameters", "state_dict")} for content in contents]
    torch.save({"members": members}, file)


@torch.no_grad()
def probabilities(network: Network, images: torch.Tensor) -> Array:
    """Probabilities (N, 10) float32 of images (N, 1, 28, 28) uint8, 0 … 255, on whatever device; batch by batch."""
    network.eval()
    batches = [
        network.probabilities(part.to(network.device).float() / 255).cpu() for part in torch.split(images, BATCH)
    ]
    return torch.cat(batches).numpy() if batches else np.zeros((0, shapes.CLASSES), np.float32)


def _one(network: Network) -> Classifier:
    return network if isinstance(network, Classifier) else network.classifiers[0]


def first_filters(network: Network) -> Array:
    """The first convolution's kernels, (filters, K, K); none of a network without blocks: (0, 1, 1).

    Args:
        network: of an ensemble, the first member is looked at.
    """
    for module in _one(network).network.modules():
        if isinstance(module, nn.Conv2d):
            return module.weight.detach().float().cpu().numpy()[:, 0]
    return np.zeros((0, 1, 1), np.float32)


@torch.no_grad()
def activation_maps(network: Network, images: torch.Tensor) -> list[Array]:
    """What each block makes of some images.

    Args:
        network: in evaluation mode; of an ensemble, the first member is looked at.
        images: (N, 1, 28, 28) uint8, 0 … 255.

    Returns:
        For each block (N, filters, S, S), the output of its last layer.
    """
    found: list[Array] = []
    classifier = _one(network)
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
