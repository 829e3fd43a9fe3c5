"""What a terminal shows of a single run while it trains."""

import time
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class ProgressBar(Callback):
    """One bar over all epochs, on standard error: which epoch it is, images a second, the time left.

    It is gone when the training ends, however it ends.

    Args:
        epochs: of the whole run.
        done: of them by an earlier attempt.
        images: of an epoch.
    """

    def __init__(self, epochs: int, done: int, images: int) -> None:
        self.epochs, self.done, self.images = epochs, done, images
        times = TimeElapsedColumn(), TimeRemainingColumn()
        columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[speed]}"), *times
        self.bar = Progress(*columns, console=Console(stderr=True), transient=True)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.seen, self.began = 0, time.monotonic()
        total, completed = self.epochs * self.images, self.done * self.images
        self.task = self.bar.add_task(self._epoch(), total=total, completed=completed, speed="")
        self.bar.start()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: list[Any], _: int) -> None:
        self.seen += sum(len(labels) for _, labels in batch)
        speed = f"{self.seen / (time.monotonic() - self.began):,.0f} images a second"
        completed = self.done * self.images + self.seen
        self.bar.update(self.task, completed=completed, description=self._epoch(), speed=speed)

    def _epoch(self) -> str:
        epoch = min(self.epochs, 1 + self.done + self.seen // self.images)
        return f"epoch {epoch} of {self.epochs}"

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self.bar.stop()
