"""Lightning's Trainer for one config: quiet, without a logger, with one call an epoch."""

import logging
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, EarlyStopping, ModelCheckpoint, RichProgressBar

from mnist_sweep import schema
from mnist_sweep.classifier import Classifier
from mnist_sweep.errors import check_interrupted

#: Called after each epoch with the epoch, counted from 1, and its metrics; whether training may go on.
AfterEpoch = Callable[[int, dict[str, float]], bool]


class Watch(Callback):
    """Hears of each epoch, and takes the time of all.

    Args:
        after_epoch: called after each.

    Attributes:
        stopped: whether `after_epoch` ended the training.
    """

    def __init__(self, after_epoch: AfterEpoch) -> None:
        self.after_epoch = after_epoch
        self.stopped = False
        self._started: float | None = None

    def seconds(self) -> float:
        """Since the first batch; 0 before it."""
        return 0.0 if self._started is None else time.monotonic() - self._started

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._started = time.monotonic()

    def on_train_batch_end(self, *_: Any) -> None:
        check_interrupted()

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        assert isinstance(module, Classifier)
        if not self.after_epoch(len(module.history), module.history[-1]):
            self.stopped = True
            trainer.should_stop = True


def best_checkpoint(config: schema.Config, folder: Path) -> ModelCheckpoint:
    """Keeps the best epoch's weights, by the config's objective, as ``best.ckpt`` in a folder."""
    return ModelCheckpoint(
        dirpath=folder.resolve(),
        filename="best",
        monitor=config.objective,
        mode=_mode(config),
        save_weights_only=True,
        enable_version_counter=False,
    )


def trainer(config: schema.Config, device: torch.device, callbacks: list[Callback], bars: bool) -> pl.Trainer:
    """The Trainer of a config.

    Args:
        config: its ``trainer`` gives epochs, precision, clipping and early stopping.
        device: ``cpu``, or a GPU.
        callbacks: besides early stopping and bars.
        bars: show progress bars, on standard error.
    """
    _quiet()
    more = list(callbacks)
    if config.trainer.patience is not None:
        patience = config.trainer.patience
        more.append(EarlyStopping(config.objective, patience=patience, mode=_mode(config), check_finite=False))
    if bars:
        more.append(RichProgressBar(refresh_rate=20, leave=False, console_kwargs={"stderr": True}))
    return pl.Trainer(
        max_epochs=config.trainer.max_epochs,
        accelerator="cpu" if device.type == "cpu" else "gpu",
        devices=1,
        precision="bf16-mixed" if config.trainer.precision == "bf16" else "32-true",
        gradient_clip_val=config.trainer.gradient_clip,
        callbacks=more,
        logger=False,
        enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in more),
        num_sanity_val_steps=0,
        enable_progress_bar=bars,
        enable_model_summary=False,
    )


def _mode(config: schema.Config) -> str:
    return "max" if config.direction == "maximize" else "min"


def _quiet() -> None:
    """No tips, no lines about hardware, no warnings about what Lightning calls from torch."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*exists and is not empty.*")
