"""What Lightning trains: a network with its loss, its optimizer and its metrics."""

import math
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer, lr_scheduler

from mnist_sweep import metrics, schema, shapes
from mnist_sweep.errors import RunFailure

_OPTIMIZERS: dict[str, type[Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
    "rmsprop": torch.optim.RMSprop,
}


class Tally(nn.Module):
    """Counts on the device what an epoch's metrics are made of, so that no step waits for a number."""

    confusion: torch.Tensor
    loss: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("confusion", torch.zeros(shapes.CLASSES**2, dtype=torch.int64), persistent=False)
        self.register_buffer("loss", torch.zeros((), dtype=torch.float64), persistent=False)

    @torch.no_grad()
    def add(self, logits: torch.Tensor, labels: torch.Tensor, loss: torch.Tensor) -> None:
        """Count a batch: logits (B, 10), labels (B,), and the batch's mean loss, a scalar."""
        cells = labels * shapes.CLASSES + logits.argmax(dim=1)
        self.confusion += torch.bincount(cells, minlength=shapes.CLASSES**2)
        self.loss += loss.detach().double() * len(labels)

    def take(self) -> tuple[Any, float]:
        """The confusion matrix (10, 10), true classes as rows, and the mean loss; then start again from nothing."""
        confusion = self.confusion.reshape(shapes.CLASSES, shapes.CLASSES).cpu().numpy().copy()
        loss = self.loss.item() / max(int(confusion.sum()), 1)
        self.confusion.zero_()
        self.loss.zero_()
        return confusion, loss


class Classifier(pl.LightningModule):
    """Images → logits, with everything that training needs.

    Args:
        network: (B, 1, 28, 28) standardised images → (B, 10) logits.
        config: of the run; kept in the checkpoint as plain data.
        standardisation: mean and standard deviation of the training pixels, scaled to [0, 1].

    Attributes:
        history: the metrics of each epoch by name, the first epoch first.
        confusions: the validation set's confusion matrix (10, 10) after each epoch.
        test: the test set's metrics and confusion matrix, where it was opened.
    """

    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(self, network: nn.Module, config: schema.Config, standardisation: tuple[float, float]) -> None:
        super().__init__()
        self.network = network
        self.config = config
        self.save_hyperparameters({"config": config.plain()})
        self.register_buffer("mean", torch.tensor(standardisation[0]))
        self.register_buffer("deviation", torch.tensor(standardisation[1]))
        self.training_tally, self.evaluation_tally = Tally(), Tally()
        self.history: list[dict[str, float]] = []
        self.confusions: list[Any] = []
        self.test: tuple[dict[str, float], Any] | None = None

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (B, 10) of images (B, 1, 28, 28), 0 … 1."""
        logits: torch.Tensor = self.network((images - self.mean) / self.deviation)
        return logits

    def probabilities(self, images: torch.Tensor) -> torch.Tensor:
        """Softmax (B, 10), each row summing to 1, of images (B, 1, 28, 28), 0 … 1."""
        logits: torch.Tensor = self(images)
        return logits.float().softmax(dim=1)

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], _: int) -> torch.Tensor:
        images, labels = batch
        logits = self(images)
        loss = cross_entropy(logits, labels, label_smoothing=self.config.loss.label_smoothing)
        self.training_tally.add(logits, labels, loss)
        return loss

    def validation_step(self, batch: tuple[torch.Tensor, torch.Tensor], _: int) -> None:
        images, labels = batch
        logits = self(images)
        self.evaluation_tally.add(logits, labels, cross_entropy(logits, labels))

    test_step = validation_step

    def on_validation_epoch_end(self) -> None:
        """Close the epoch: the training batches before this validation, and the validation.

        Raises:
            RunFailure: ``diverged`` where a loss is not a finite number.
        """
        seen, train_loss = self.training_tally.take()
        confusion, val_loss = self.evaluation_tally.take()
        for name, loss in (("train/loss", train_loss), ("val/loss", val_loss)):
            if not math.isfinite(loss):
                raise RunFailure("diverged", f"{name} became {loss} in epoch {len(self.history) + 1}")
        train_accuracy = metrics.averages(seen)["accuracy"]
        averages = metrics.averages(confusion)
        epoch = {"train/loss": train_loss, "train/accuracy": train_accuracy, "val/loss": val_loss}
        epoch |= {f"val/{name}": value for name, value in averages.items()}
        epoch["gap/accuracy"] = train_accuracy - averages["accuracy"]
        self.history.append(epoch)
        self.confusions.append(confusion)
        objective = self.config.objective  # in double precision: what is best must not turn on a rounding
        self.log(objective, torch.tensor(epoch[objective], dtype=torch.float64))

    def on_test_epoch_end(self) -> None:
        confusion, loss = self.evaluation_tally.take()
        averages = {f"test/{name}": value for name, value in metrics.averages(confusion).items()}
        self.test = {"test/loss": loss, **averages}, confusion

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["history"] = self.history
        checkpoint["confusions"] = [confusion.tolist() for confusion in self.confusions]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.history = checkpoint["history"]
        self.confusions = [np.array(confusion) for confusion in checkpoint["confusions"]]

    def configure_optimizers(self) -> OptimizerLRScheduler:
        settings = self.config.optimizer
        optimizer = _OPTIMIZERS[settings.name](self.network.parameters(), **settings.model_dump(exclude={"name"}))
        schedule, interval = _schedule(self.config, optimizer, int(self.trainer.estimated_stepping_batches))
        if schedule is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": interval}}


def _schedule(config: schema.Config, optimizer: Optimizer, steps: int) -> tuple[lr_scheduler.LRScheduler | None, str]:
    """The schedule of the learning rate over so many steps, and whether it moves each ``step`` or ``epoch``."""
    match config.scheduler:
        case schema.Step(step_size=size, gamma=gamma):
            return lr_scheduler.StepLR(optimizer, size, gamma), "epoch"
        case schema.Cosine(final_lr=final):
            return lr_scheduler.CosineAnnealingLR(optimizer, steps, eta_min=final), "step"
        case schema.OneCycle(warmup=warmup, initial_div=initial, final_div=final):
            # momentum stays the optimizer's own: it is a key of its own, and may be searched
            return lr_scheduler.OneCycleLR(
                optimizer,
                config.optimizer.lr,
                steps,
                pct_start=warmup,
                cycle_momentum=False,
                div_factor=initial,
                final_div_factor=final,
            ), "step"
    return None, "epoch"
