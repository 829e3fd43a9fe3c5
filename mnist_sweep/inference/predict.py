"""Recognise pictures: ``mnist-sweep predict IMAGE… [--model URI | --checkpoint FILE]``."""

import argparse
import json
import logging
import os
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.progress import track
from torch import nn

from mnist_sweep.config.image_data import Data
from mnist_sweep.config.image_sets import DIGITS, HANDWRITTEN, IMAGE_SETS
from mnist_sweep.errors import check_interrupted
from mnist_sweep.inference import load, preprocess
from mnist_sweep.training import pictures
from mnist_sweep.training.pictures import PictureError
from mnist_sweep.training.trained_model import served

log = logging.getLogger(__name__)

#: Pictures at a time: the network's maps of them fit a processor's cache.
_BATCH = 64
#: Sets of digits without a margin, unlike MNIST's.
_TIGHT = ("digits8x8", "usps")


@dataclass(frozen=True)
class Prediction:
    """What a network sees in a picture."""

    image: str  #: its path, as given
    digit: int  #: the most probable class, by its number
    probability: float  #: of this class, six digits behind the point
    probabilities: list[float]  #: of the classes, likewise; they sum to 1
    label: str  #: the name of the most probable class


def _reader(data: Data | str) -> Callable[[Path], preprocess.Array]:
    """Reads a picture file as (channels, height, width) uint8, in the form that the images of a set have.

    A digit is brought to MNIST's form, or to that of sets without a margin. A picture for another grey set of 28 × 28
    must have its form. Any other is resized, as those of the user's own were.
    """
    name, images = (data, IMAGE_SETS[data].images) if isinstance(data, str) else (data.name, data.images)
    size = (images.height, images.width)
    if name in HANDWRITTEN:
        return lambda path: preprocess.normalised(preprocess.read(path))[None]
    if name in _TIGHT:
        return lambda path: preprocess.tight(preprocess.read(path), size)[None]
    if name in IMAGE_SETS and images.channels == 1:
        return lambda path: preprocess.as_it_is(preprocess.read(path), size)[None]
    return lambda path: pictures.read(path, images.channels, size)


def predictions(network: nn.Module, data: Data | str, paths: Sequence[Path]) -> Iterator[Prediction | PictureError]:
    """Recognise picture files, in their order, in batches; the files of a batch that cannot be read come first.

    Args:
        network: images (B, C, H, W), 0 … 1 → probabilities (B, classes).
        data: of the config that it was trained with, or the name of a set that others publish.

    Yields:
        A prediction for each; of a file that cannot be read the error, which names it.
    """
    read = _reader(data)
    classes = IMAGE_SETS[data].classes if isinstance(data, str) else data.classes
    for start in range(0, len(paths), _BATCH):
        check_interrupted()
        names, found = [], []
        for path in paths[start : start + _BATCH]:
            try:
                found.append(read(path))
                names.append(str(path))
            except PictureError as error:
                yield PictureError(f"{path}: {error}")
        if names:
            with torch.inference_mode():
                rows = network(torch.from_numpy(np.stack(found)).float() / 255)
            for name, row in zip(names, rows.double().numpy().round(6), strict=True):
                best = int(row.argmax())
                yield Prediction(name, best, float(row[best]), row.tolist(), classes[best])


def perform(options: argparse.Namespace) -> int:
    """Print a line for each picture; the exit code is 1 where one could not be read."""
    model, name = load.chosen(options)
    data = model.config.data
    suffixes = (*Image.registered_extensions(),) if data.own else preprocess.SUFFIXES
    paths: list[Path] = []
    wrong = 0
    for path in options.images:
        files = _pictures(path, suffixes)
        paths += files
        if not files:
            wrong += 1
            log.error("error: %s: no pictures in this folder; allowed: %s", path, ", ".join(suffixes))
    as_table = sys.stdout.isatty() and not options.json
    width = max((len(str(path)) for path in paths), default=0)
    if as_table:
        print(f"{name}\n{'image':{width}}  {'digit' if (*data.classes,) == DIGITS else 'class'}  probability  next")
    results = predictions(served(model.network, data.name), data, paths)
    hidden = as_table or len(paths) <= _BATCH or not sys.stderr.isatty()
    console = Console(stderr=True)
    for result in track(results, "recognising", len(paths), console=console, transient=True, disable=hidden):
        if isinstance(result, PictureError):
            wrong += 1
            log.error("error: %s", result)
        else:
            print(_row(result, width, data.classes) if as_table else json.dumps(asdict(result)), flush=True)
    return 1 if wrong else 0


def _pictures(path: Path, suffixes: Collection[str]) -> list[Path]:
    """The pictures in a folder and the folders within it, by name; of what is no folder, the path itself."""
    if not os.path.isdir(path):  # noqa: PTH112  # Path's own raises an error for a name that is too long
        return [path]
    return sorted(file for file in path.rglob("*") if file.suffix.lower() in suffixes and file.is_file())


def _row(prediction: Prediction, width: int, classes: Sequence[str]) -> str:
    """A line of the table: the picture, its most probable class, and the next two."""
    shares = [f"{100 * share:.1f}%" for share in prediction.probabilities]
    first, *others = np.argsort(prediction.probabilities)[:-4:-1]
    following = "  ".join(f"{classes[label]}: {shares[label]}" for label in others)
    return f"{prediction.image:{width}}  {classes[first]:>5}  {shares[first]:>11}  {following}"
