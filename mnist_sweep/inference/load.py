"""The network that a command works with: a registered model, or the checkpoint of a run."""

import argparse
import tempfile
from pathlib import Path

from mnist_sweep import tracking
from mnist_sweep.config.image_sets import HANDWRITTEN
from mnist_sweep.training import trained_model
from mnist_sweep.training.trained_model import TrainedModel


def chosen(options: argparse.Namespace) -> tuple[TrainedModel, str]:
    """The network that ``--checkpoint`` or ``--model`` names, else a champion for digits; and its name for people.

    Raises:
        RequestError: there is none, or it cannot be read.
    """
    if options.checkpoint:
        return trained_model.read(options.checkpoint), str(options.checkpoint)
    names = [tracking.registered_name(dataset) for dataset in HANDWRITTEN]
    uri = options.model or tracking.registered(options.tracking_uri, names) or f"models:/{names[0]}@champion"
    return registered(uri, options.tracking_uri), uri


def registered(uri: str, store: str) -> TrainedModel:
    """A model in MLflow's store, ``models:/NAME@ALIAS`` or ``models:/NAME/VERSION``; it raises as `chosen` does."""
    with tempfile.TemporaryDirectory() as folder:
        return trained_model.read(tracking.checkpoint_of(uri, store, Path(folder)))
