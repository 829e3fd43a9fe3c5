"""Trained networks: how they are kept in files, put together, served, and looked into."""

import copy
import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from mnist_sweep.config import schema
from mnist_sweep.config.image_sets import HANDWRITTEN
from mnist_sweep.errors import RequestError, one_line
from mnist_sweep.training.data import ImageSet
from mnist_sweep.training.evaluate import BATCH, device_of

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class TrainedModel:
    """A trained network, or an ensemble of several."""

    network: nn.Module  # images (B, C, H, W), 0 … 1 → logits (B, classes)
    config: schema.Config  # of the run that trained it; of an ensemble, the first member's
    members: tuple["TrainedModel", ...] = ()  # of an ensemble

    @torch.inference_mode()
    def probabilities(self, images: torch.Tensor) -> Array:
        """Probabilities (N, classes) float32, each row summing to 1, of images (N, C, H, W) uint8, 0 … 255."""
        network, device = self.network.eval(), device_of(self.network)
        batches = [np.zeros((0, self.config.data.images.classes), np.float32)]
        for batch in torch.split(images, BATCH[device.type]):
            batches.append(network(batch.to(device).float() / 255).float().softmax(dim=1).cpu().numpy())
        return np.concatenate(batches)


class Ensemble(nn.Module):
    """Networks that answer together: images (B, C, H, W), 0 … 1 → the log of their mean probabilities (B, classes)."""

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        mean = torch.stack([member(images).float().softmax(dim=1) for member in self.members]).mean(dim=0)
        return mean.clamp_min(torch.finfo(mean.dtype).tiny).log()


class AsTrained(nn.Module):
    """Images (B, C, H, W) as callers have them → as the network was trained on: those of 0 … 255 are divided by 255.

    Of `digits`, dark ink on light paper becomes white on black: no digit fills the edge of its picture.
    """

    def __init__(self, digits: bool) -> None:
        super().__init__()
        self.digits = digits

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        images = torch.where(images.amax(dim=(1, 2, 3), keepdim=True) > 2, images / 255, images)
        if not self.digits:
            return images
        ends = images[:, :, (0, -1), :].mean(dim=(1, 2, 3)) + images[:, :, :, (0, -1)].mean(dim=(1, 2, 3))
        return torch.where(ends[:, None, None, None] > 1.5, 1 - images, images)


def served(network: nn.Module, dataset: str = "") -> nn.Module:
    """A copy as it is exported, on the CPU, to be used only: images (B, C, H, W), 0 … 1 → probabilities (B, classes).

    See `AsTrained` for what else it takes; `dataset` is the one that it was trained on.
    """
    return nn.Sequential(AsTrained(dataset in HANDWRITTEN), copy.deepcopy(network).cpu(), nn.Softmax(dim=1)).eval()


def save(path: Path, network: nn.Module, config: schema.Config) -> None:
    """Keep a network and its config."""
    write(path, {"config": config.trained(), "network": network.state_dict()})


def save_ensemble(paths: Sequence[Path], file: Path) -> None:
    """Put the checkpoints of several runs into one file, which `read` gives back as their ensemble."""
    write(file, {"members": [_load(path) for path in paths]})


def write(path: Path, content: dict[str, Any]) -> None:
    """Keep tensors and plain data in a file that is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part, buffer = path.with_suffix(".part"), io.BytesIO()
    torch.save(content, buffer)  # which, into a file, says of a full disk that it is at another position
    try:
        part.write_bytes(buffer.getbuffer())
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def read(path: Path) -> TrainedModel:
    """The network or ensemble in a file, in evaluation mode, on the CPU; RequestError where it is not one of ours."""
    content = _load(path)
    try:
        members = tuple(_model(member) for member in content.get("members", ()))
        if not members:
            return _model(content)
        return TrainedModel(Ensemble([member.network for member in members]).eval(), members[0].config, members)
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        what = f"it is no checkpoint ({one_line(error, 100)})"
        raise RequestError(f"{path}: refused: {what}; allowed: a run's best.ckpt") from error


def start_from(path: str, network: nn.Module) -> None:
    """Give a network the weights and the standardisation in a checkpoint; RequestError where they do not fit it."""
    try:
        network.load_state_dict(read(Path(path)).network.state_dict())
    except RuntimeError as error:
        why = " ".join(str(error).split("\n\t")[-1].split())[:200]
        allowed = "a checkpoint of a network with the same keys of model"
        raise RequestError(f"trainer.init_from={path}: does not fit ({why}); allowed: {allowed}") from error


def _load(path: Path) -> Any:
    """What a file of plain data holds; RequestError for any other."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a foreign file's format
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise RequestError(f"{path}: no such file; allowed: a run's best.ckpt") from error
    except Exception as error:  # torch's, zipfile's and pickle's own; nothing of the file is executed
        raise RequestError(f"{path}: refused: it is no checkpoint; allowed: a run's best.ckpt") from error


def _model(content: dict[str, Any]) -> TrainedModel:
    """One network of a file's content."""
    if "hyper_parameters" in content:  # version 1 wrote Lightning's files, with the standardisation beside the network
        state = {key.removeprefix("network."): value for key, value in content["state_dict"].items()}
        content = {"config": content["hyper_parameters"]["config"], "network": state}
    state = content["network"]
    config = schema.Config.of_trained(content["config"])
    held = sum(value.untyped_storage().nbytes() for value in state.values())
    if 4 * sum(layer.parameters for layer in config.layers()) > held:  # else a few bytes could ask for terabytes
        raise ValueError(f"{held:,} bytes of weights are too few for the network of its config")
    mean, deviation = (state[name].flatten().tolist() for name in ("mean", "deviation"))
    single = len(mean) == 1  # grey images
    network = config.model.build(mean[0] if single else mean, deviation[0] if single else deviation, config.data.images)
    network.load_state_dict(state)
    return TrainedModel(network.eval(), config)


def first_filters(network: nn.Module) -> Array:
    """The first convolution's kernels (N, K, K), of an ensemble the first member's; (0, 1, 1) without convolutions.

    Of a convolution of several channels, the mean over them.
    """
    weights = [module.weight.detach() for module in network.modules() if isinstance(module, nn.Conv2d)]
    return cast(Array, weights[0].mean(dim=1).float().cpu().numpy()) if weights else np.zeros((0, 1, 1), np.float32)


@torch.inference_mode()
def activation_maps(network: nn.Module, images: torch.Tensor) -> list[Array]:
    """What each block of a network in evaluation mode makes of images (N, C, H, W) uint8, 0 … 255: (N, C', H', W').

    Of an ensemble, the first member is looked at. A network without blocks has none.
    """
    one = cast(Any, network.members[0] if isinstance(network, Ensemble) else network)
    blocks, found = getattr(one, "blocks", ()), []
    maps = one.standardised(images.to(device_of(one)).float() / 255) if blocks else images
    for block in blocks:
        maps = block(maps.contiguous(memory_format=torch.channels_last))
        found.append(maps.float().cpu().numpy())
    return found


def images_at(images: ImageSet, positions: Sequence[int]) -> Array:
    """Some images as an array (K, H, W) uint8; coloured ones (K, H, W, 3)."""
    found = images.take(torch.as_tensor(positions, dtype=torch.int64)).permute(0, 2, 3, 1).cpu().numpy()
    return found[..., 0] if found.shape[3] == 1 else found
