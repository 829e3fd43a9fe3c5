"""What Lightning trains: a network with its loss, its optimizer, its schedule and its average."""

from typing import Any

import pytorch_lightning as pl
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from mnist_sweep.config import schema
from mnist_sweep.training import cuda_graphs, own_code
from mnist_sweep.training.data import Batch, ImageSet
from mnist_sweep.training.evaluate import Evaluation, evaluate


def moving_average(network: nn.Module, decay: float) -> AveragedModel:
    """The exponential moving average of a network's weights, which often does better than the last of them.

    A step keeps `decay` of it, 0 … 1, in the first steps less: (1 + n) / (10 + n) after n, as TensorFlow's
    ExponentialMovingAverage. Statistics of batch normalisation stay the network's own, as in arXiv 2008.10400.
    """

    def update(averages: Any, weights: Any, _: Any) -> None:
        steps = int(average.n_averaged) + 1  # on the processor, while the argument would wait for a GPU
        get_ema_multi_avg_fn(min(decay, (1 + steps) / (10 + steps)))(averages, weights, steps)  # type: ignore[no-untyped-call]

    average = AveragedModel(network, multi_avg_fn=update)
    return average


class Classifier(pl.LightningModule):
    """Trains a network: steps over groups of batches, and a validation at the end of each epoch.

    What Lightning does around each call would be a good part of a small network's step. So it gives the batches in
    groups, and the steps within a group are made here ("manual optimization"). The network, see `Fit`, is on its
    device; the config has a fixed precision; the schedule is stretched over all steps. The weights (classes,) are those
    of the classes in the loss; None = each image counts the same.
    """

    def __init__(
        self, network: nn.Module, config: schema.Config, steps: int, weights: torch.Tensor | None = None
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self._weights, self.extra = weights, own_code.extra_metrics(config.extra_metrics())
        self.network, self.config = network, config
        self.optimizer = config.optimizer.build(network.parameters())
        self._schedule = config.scheduler.build(self.optimizer, steps, config.trainer.max_epochs)
        decay = config.trainer.ema_decay
        # in a list, so that Lightning leaves its count of steps on the processor
        self._average = [moving_average(network, decay)] if decay else []
        self._step: cuda_graphs.Step | None = None
        # of each group in this epoch: its images, those recognised, the sum of their losses; no step waits for them
        self._counts: list[tuple[int, torch.Tensor, torch.Tensor]] = []

    @property
    def trained(self) -> nn.Module:
        """What the training makes: the average of the network where there is one, else the network itself."""
        return self._average[0].module if self._average else self.network

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.optimizer

    def training_step(self, group: list[Batch], _: int) -> None:
        """A step of the optimizer for each batch: images (B, C, H, W), 0 … 1, and labels (B,)."""
        if not self._counts:  # the rate with which the epoch begins, as Lightning's LearningRateMonitor logs it
            self._rate = float(self.optimizer.param_groups[0]["lr"])
        if self._step is None:
            graphs, device, self._step = self.config.trainer.cuda_graphs, group[0][0].device, self.step
            if graphs is True or (graphs == "auto" and cuda_graphs.supported(device)):
                self._step = cuda_graphs.recorded(self.step, self.network, self.optimizer, *group[0])
        losses, predicted = [], []
        for images, labels in group:
            loss, classes = self._step(images, labels)
            for average in self._average:
                average.update_parameters(self.network)
            if self._schedule is not None:
                self._schedule.step()
            losses.append(loss)
            predicted.append(classes)
        labels = torch.cat([labels for _, labels in group])
        right, loss = (torch.cat(predicted) == labels).sum(), torch.stack(losses).double().sum() * len(group[0][1])
        self._counts.append((len(labels), right, loss))

    def step(self, images: torch.Tensor, labels: torch.Tensor) -> cuda_graphs.Outputs:
        """A step of the optimizer for a batch, see `cuda_graphs.Step`."""
        settings = self.config.trainer
        # left before the optimizer's step: within, the weights would be rounded only once
        with torch.autocast(images.device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
            logits = self.network(images)
        logits = logits.float()
        smoothing = self.config.loss.label_smoothing
        loss: torch.Tensor = cross_entropy(logits, labels, self._weights, label_smoothing=smoothing)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if settings.gradient_clip is not None:
            nn.utils.clip_grad_norm_(self.network.parameters(), settings.gradient_clip)
        self.optimizer.step()
        return loss.detach(), logits.detach().argmax(dim=1)

    def end_epoch(self, validation: ImageSet) -> tuple[dict[str, float], Evaluation]:
        """Close an epoch: its metrics by name, and the evaluation on the validation images."""
        evaluation = evaluate(self.trained, validation, "val", extra=self.extra)
        seen, right, loss = (sum(counts) for counts in zip(*self._counts, strict=True))
        self._counts.clear()
        values = {"train/loss": float(loss) / seen, "train/accuracy": float(right) / seen, **evaluation.metrics}
        values |= {"gap/accuracy": values["train/accuracy"] - values["val/accuracy"], "lr": self._rate}
        return values, evaluation

    def parts(self) -> dict[str, Any]:
        """What has a state that is needed to go on, by name."""
        found = {"network": self.network, "optimizer": self.optimizer, "schedule": self._schedule}
        found["average"] = next(iter(self._average), None)
        return {name: part for name, part in found.items() if part is not None}
