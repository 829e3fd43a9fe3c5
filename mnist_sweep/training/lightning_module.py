"""What Lightning trains: a network with its loss, its optimizer and its metrics."""

import math
from typing import Any, cast

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer, lr_scheduler
from torch.optim.swa_utils import get_ema_multi_avg_fn

from mnist_sweep.config import metrics, schema
from mnist_sweep.config import network_shapes as shapes
from mnist_sweep.errors import RunFailure
from mnist_sweep.result import best_epoch
from mnist_sweep.training import cuda_graphs, optimizers
from mnist_sweep.training.step import BatchLoss, TrainingStep


class Tally(nn.Module):
    """Counts on the device what an epoch's metrics are made of, so that no step waits for a number."""

    confusion: torch.Tensor
    loss: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("confusion", torch.zeros(shapes.CLASSES**2, dtype=torch.int64), persistent=False)
        self.register_buffer("loss", torch.zeros((), dtype=torch.float64), persistent=False)

    @torch.no_grad()
    def add(self, predicted: torch.Tensor, labels: torch.Tensor, loss: torch.Tensor) -> None:
        """Count images: predicted and true classes (N,), and the sum of their losses, a scalar."""
        cells = labels * shapes.CLASSES + predicted
        self.confusion.scatter_add_(0, cells, torch.ones_like(cells))  # bincount would wait for a GPU
        self.loss += loss

    def take(self) -> tuple[Any, float]:
        """The confusion matrix (10, 10), true classes as rows, and the mean loss; then start again from nothing."""
        confusion = self.confusion.reshape(shapes.CLASSES, shapes.CLASSES).cpu().numpy().copy()
        loss = self.loss.item() / max(int(confusion.sum()), 1)
        self.confusion.zero_()
        self.loss.zero_()
        return confusion, loss


class Average:
    """The exponential moving average of a network's weights, which often does better than the last of them.

    In the first steps the decay is smaller, (1 + n) / (10 + n) after n steps, as in
    https://www.tensorflow.org/api_docs/python/tf/train/ExponentialMovingAverage. The statistics of batch
    normalisation stay the network's own, as in An et al. 2020 (arXiv 2008.10400).

    Args:
        network: whose weights are averaged.
        decay: the part of the average that a step keeps, 0 … 1, both excluded.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network, self.decay = network, decay
        self._averages: list[torch.Tensor] = []
        self._steps = 0

    def update(self) -> None:
        """After a step of the optimizer."""
        weights = [weight.detach() for weight in self.network.parameters()]
        self._steps += 1
        if not self._averages:
            self._averages = [weight.clone() for weight in weights]
        if self._averages[0].device != weights[0].device:  # they come from a checkpoint
            self._averages = [average.to(weights[0].device) for average in self._averages]
        decay = min(self.decay, (1 + self._steps) / (10 + self._steps))
        get_ema_multi_avg_fn(decay)(self._averages, weights, self._steps)  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the average and the weights, once there is an average."""
        if not self._averages:
            return
        for weight, average in zip(self.network.parameters(), self._averages, strict=True):
            kept = weight.clone()
            weight.copy_(average)
            average.copy_(kept)

    def state(self) -> dict[str, Any]:
        """All that is needed to go on."""
        return {"averages": self._averages, "steps": self._steps}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self._averages, self._steps = state["averages"], state["steps"]


class Classifier(pl.LightningModule):
    """Images → logits, with everything that training needs.

    Training and evaluation take the batches in groups: what Lightning does around each call would be a good part of
    a small network's step. So the steps within a group are ours ("manual optimization").

    Args:
        network: (B, 1, 28, 28) standardised images → (B, 10) logits.
        config: of the run; kept in the checkpoint as plain data.
        standardisation: mean and standard deviation of the training pixels, scaled to [0, 1].

    Attributes:
        history: the metrics of each epoch by name, the first epoch first.
        confusions: the validation set's confusion matrix (10, 10) after each epoch.
        validated: probabilities (N, 10) of the validation images after the best epoch; None where an earlier attempt
            at the run did that epoch.
        test: what was measured on the test set, where it was opened.
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
        self.validated: Any | None = None
        self.test: metrics.Measured | None = None
        self._probabilities: list[torch.Tensor] = []
        self.automatic_optimization = False
        self._step: TrainingStep | cuda_graphs.Recorded | None = None
        self._average = Average(self.network, config.trainer.ema_decay) if config.trainer.ema_decay else None
        self._each_step: lr_scheduler.LRScheduler | None = None
        self._each_epoch: lr_scheduler.LRScheduler | None = None

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (B, 10) of images (B, 1, 28, 28), 0 … 1."""
        logits: torch.Tensor = self.network((images - self.mean) / self.deviation)
        return logits

    def probabilities(self, images: torch.Tensor) -> torch.Tensor:
        """Softmax (B, 10), each row summing to 1, of images (B, 1, 28, 28), 0 … 1."""
        logits: torch.Tensor = self(images)
        return logits.float().softmax(dim=1)

    def on_train_start(self) -> None:
        """Now that the network is where it is trained, and as a checkpoint had it."""
        config = self.config
        loss = BatchLoss(
            self.network,
            self.mean,
            self.deviation,
            config.loss.label_smoothing,
            bf16=config.trainer.precision == "bf16",
        )
        # itself, since what Lightning does around its step cannot be recorded
        optimizer = cast(Optimizer, self.optimizers(use_pl_optimizer=False))
        self._step = step = TrainingStep(loss, optimizer, config.trainer.gradient_clip)
        wanted = config.trainer.cuda_graphs
        if wanted is True or (wanted == "auto" and cuda_graphs.supported(self.device)):
            groups: Any = self.trainer.train_dataloader
            self._step = cuda_graphs.recorded(step, *groups.batches.blank())

    def release(self) -> None:
        """Forget how to train, and with it the memory of a graph."""
        self._step = None

    def training_step(self, group: list[tuple[torch.Tensor, torch.Tensor]], _: int) -> None:
        """A step of the optimizer for each batch: images (B, 1, 28, 28), 0 … 1, and labels (B,)."""
        assert self._step is not None
        # as Lightning's own optimizer counts them; by its count a checkpoint is known to be a new one
        progress = self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
        losses, predicted = [], []
        for images, labels in group:
            loss, classes = self._step(images, labels)
            progress.increment_ready()
            progress.increment_completed()
            if self._average:
                self._average.update()
            if self._each_step is not None:
                self._each_step.step()
            losses.append(loss)
            predicted.append(classes)
        labels = torch.cat([labels for _, labels in group])
        self.training_tally.add(torch.cat(predicted), labels, torch.stack(losses).double().sum() * len(group[0][1]))

    def on_train_epoch_end(self) -> None:
        if self._each_epoch is not None:
            self._each_epoch.step()

    def validation_step(self, group: list[tuple[torch.Tensor, torch.Tensor]], _: int) -> None:
        """Count what is right, in full precision, whatever that of training: the network as it will be used.

        The probabilities are kept for the pictures, so that no image is evaluated a second time.
        """
        for images, labels in group:
            logits = self(images)
            loss = cross_entropy(logits, labels, reduction="sum")
            self.evaluation_tally.add(logits.argmax(dim=1), labels, loss)
            self._probabilities.append(logits.softmax(dim=1))

    test_step = validation_step

    def on_validation_epoch_end(self) -> None:
        """Close the epoch: the training batches before this validation, and the validation.

        Raises:
            RunFailure: ``diverged`` where a loss is not a finite number.
        """
        seen, train_loss = self.training_tally.take()
        confusion, val_loss = self.evaluation_tally.take()
        probabilities = self._take_probabilities()
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
        objective = self.config.objective
        if best_epoch([values[objective] for values in self.history], self.config.direction) == len(self.history):
            self.validated = probabilities
        # double precision, since what is best must not turn on a rounding
        self.log(objective, torch.tensor(epoch[objective], dtype=torch.float64))

    def on_test_epoch_end(self) -> None:
        confusion, loss = self.evaluation_tally.take()
        averages = {f"test/{name}": value for name, value in metrics.averages(confusion).items()}
        self.test = metrics.Measured({"test/loss": loss, **averages}, confusion, self._take_probabilities())

    def _take_probabilities(self) -> Any:
        """Of the images evaluated since the last time, (N, 10)."""
        probabilities = torch.cat(self._probabilities).cpu().numpy()
        self._probabilities.clear()
        return probabilities

    def on_validation_start(self) -> None:
        if self._average:
            self._average.swap()

    def on_validation_end(self) -> None:  # after the callbacks have heard of it: the best checkpoint has the average
        if self._average:
            self._average.swap()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self._average:
            checkpoint["average"] = self._average.state()
        checkpoint["history"] = self.history
        checkpoint["confusions"] = [confusion.tolist() for confusion in self.confusions]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if self._average:
            self._average.load(checkpoint["average"])
        self.history = checkpoint["history"]
        self.confusions = [np.array(confusion) for confusion in checkpoint["confusions"]]

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = optimizers.make_optimizer(self.config, self.network)
        self.trainer.fit_loop.setup_data()
        groups: Any = self.trainer.train_dataloader
        steps = self.config.trainer.max_epochs * groups.steps
        self._each_step, self._each_epoch = optimizers.schedules(self.config, optimizer, steps)
        schedule = self._each_step or self._each_epoch
        # Lightning keeps the schedule in its checkpoints; with manual optimization it does not move it
        return [optimizer], [schedule] if schedule else []
