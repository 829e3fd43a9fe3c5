"""What is done with a batch: its loss, the gradient, a step of the optimizer."""

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer


class BatchLoss(nn.Module):
    """Images (B, 1, 28, 28), 0 … 1, and labels (B,) → the mean loss of the batch, a scalar, and its logits (B, 10).

    Args:
        network: (B, 1, 28, 28) standardised images → (B, 10) logits.
        mean, deviation: of the training pixels, scaled to [0, 1]; scalars.
        smoothing: of the labels, 0 … 1.
        bf16: compute the network in bf16.
    """

    def __init__(
        self, network: nn.Module, mean: torch.Tensor, deviation: torch.Tensor, smoothing: float, bf16: bool
    ) -> None:
        super().__init__()
        self.network, self.mean, self.deviation = network, mean, deviation
        self.smoothing, self.bf16 = smoothing, bf16

    def forward(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        # left before the optimizer's step: within, the weights would be rounded only once
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.bf16):
            logits = self.network((images - self.mean) / self.deviation)
        logits = logits.float()
        return cross_entropy(logits, labels, label_smoothing=self.smoothing), logits


class TrainingStep:
    """A step of the optimizer for a batch, called with it: images (B, 1, 28, 28), 0 … 1, and labels (B,).

    A call returns the mean loss of the batch before the step, a scalar, and the predicted classes (B,).

    Args:
        loss: of a network in training.
        optimizer: of all its parameters.
        clip: greatest norm of the gradient; None = off.
    """

    def __init__(self, loss: BatchLoss, optimizer: Optimizer, clip: float | None) -> None:
        self.loss, self.optimizer, self.clip = loss, optimizer, clip

    def __call__(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        loss, logits = self.loss(images, labels)
        self.optimizer.zero_grad()
        loss.backward()
        if self.clip is not None:
            nn.utils.clip_grad_norm_(self.loss.parameters(), self.clip)
        self.optimizer.step()
        return loss.detach(), logits.detach().argmax(dim=1)
