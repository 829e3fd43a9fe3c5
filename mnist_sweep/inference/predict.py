"""Recognise pictures: ``mnist-sweep predict IMAGE… [--model URI | --checkpoint FILE]``."""

import argparse
import json
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import nn

from mnist_sweep.config.image_sets import DIGITS
from mnist_sweep.errors import check_interrupted
from mnist_sweep.inference import load, preprocess
from mnist_sweep.inference.paper import PictureError
from mnist_sweep.training.trained_model import served

log = logging.getLogger(__name__)

#: Pictures at a time: the network's maps of them fit a processor's cache.
_BATCH = 64


@dataclass(frozen=True)
class Prediction:
    """What a network sees in a picture."""

    image: str  #: its path, as given
    digit: int  #: the most probable class
    probability: float  #: of this class, six digits behind the point
    probabilities: list[float]  #: of the ten classes, likewise; they sum to 1


def predictions(network: nn.Module, dataset: str, paths: Sequence[Path]) -> Iterator[Prediction | PictureError]:
    """Recognise PNG and JPEG files, in their order, in batches; the files of a batch that cannot be read come first.

    Args:
        network: images (B, 1, 28, 28), 0 … 1 → probabilities (B, 10).
        dataset: that it was trained on; for handwritten digits, pictures are brought to MNIST's form.

    Yields:
        A prediction for each; of a file that cannot be read the error, which names it.
    """
    formed = preprocess.normalised if dataset in DIGITS else preprocess.as_it_is
    for start in range(0, len(paths), _BATCH):
        check_interrupted()
        names, pictures = [], []
        for path in paths[start : start + _BATCH]:
            try:
                pictures.append(formed(preprocess.read(path)))
                names.append(str(path))
            except PictureError as error:
                yield PictureError(f"{path}: {error}")
        if names:
            with torch.inference_mode():
                rows = network(torch.from_numpy(np.stack(pictures))[:, None].float() / 255)
            for name, row in zip(names, rows.double().numpy().round(6), strict=True):
                yield Prediction(name, int(row.argmax()), float(row.max()), row.tolist())


def perform(options: argparse.Namespace) -> int:
    """Print a line for each picture; the exit code is 1 where one could not be read."""
    model, name = load.chosen(options)
    paths: list[Path] = []
    wrong = 0
    for path in options.images:
        files = _pictures(path)
        paths += files
        if not files:
            wrong += 1
            log.error("error: %s: no pictures in this folder; allowed: %s", path, ", ".join(preprocess.SUFFIXES))
    as_table = sys.stdout.isatty() and not options.json
    width = max((len(str(path)) for path in paths), default=0)
    if as_table:
        print(f"{name}\n{'image':{width}}  digit  probability  next")
    results = predictions(served(model.network), model.config.data.name, paths)
    hidden = as_table or len(paths) <= _BATCH or not sys.stderr.isatty()
    console = Console(stderr=True)
    for result in track(results, "recognising", len(paths), console=console, transient=True, disable=hidden):
        if isinstance(result, PictureError):
            wrong += 1
            log.error("error: %s", result)
        else:
            print(_row(result, width) if as_table else json.dumps(asdict(result)), flush=True)
    return 1 if wrong else 0


def _pictures(path: Path) -> list[Path]:
    """The pictures in a folder and the folders within it, by name; of what is no folder, the path itself."""
    if not os.path.isdir(path):  # noqa: PTH112  # Path's own raises an error for a name that is too long
        return [path]
    return sorted(file for file in path.rglob("*") if file.suffix.lower() in preprocess.SUFFIXES and file.is_file())


def _row(prediction: Prediction, width: int) -> str:
    """A line of the table: the picture, its most probable class, and the next two."""
    shares = [f"{100 * share:.1f}%" for share in prediction.probabilities]
    first, *others = np.argsort(prediction.probabilities)[:-4:-1]
    following = "  ".join(f"{label}: {shares[label]}" for label in others)
    return f"{prediction.image:{width}}  {first:5}  {shares[first]:>11}  {following}"
