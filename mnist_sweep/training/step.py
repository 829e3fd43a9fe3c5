"""What is done with a batch: its loss, the gradient, a step of the optimizer."""

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer


class TrainingStep:
    """A step of the optimizer for a batch, called with it: images (B, 1, 28, 28), 0 … 1, and labels (B,).

    A call returns the mean loss of the batch before the step, a scalar, and the predicted classes (B,).

    Args:
        network: in training; images (B, 1, 28, 28), 0 … 1 → logits (B, 10).
        optimizer: of all its parameters.
        smoothing: of the labels, 0 … 1.
        clip: greatest norm of the gradient; None = off.
        bf16: compute the network in bf16.
    """

    def __init__(
        self, network: nn.Module, optimizer: Optimizer, smoothing: float, clip: float | None, bf16: bool
    ) -> None:
        self.network, self.optimizer = network, optimizer
        self.smoothing, self.clip, self.bf16 = smoothing, clip, bf16

    def __call__(self, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        # left before the optimizer's step: within, the weights would be rounded only once
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.bf16):
            logits = self.network(images)
        logits = logits.float()
        loss = cross_entropy(logits, labels, label_smoothing=self.smoothing)
        self.optimizer.zero_grad()
        loss.backward()
        if self.clip is not None:
            nn.utils.clip_grad_norm_(self.network.parameters(), self.clip)
        self.optimizer.step()
        return loss.detach(), logits.detach().argmax(dim=1)
