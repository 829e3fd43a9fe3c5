"""What is done with a batch: its loss, the gradient, a step of the optimizer."""

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer

from mnist_sweep.config import schema

#: The mean loss of a batch before the step, a scalar, and the predicted classes (B,).
Outputs = tuple[torch.Tensor, torch.Tensor]


class TrainingStep:
    """A step of the optimizer for a batch, called with it: images (B, 1, 28, 28), 0 … 1, and labels (B,).

    Args:
        network: in training; images (B, 1, 28, 28), 0 … 1 → logits (B, 10).
        optimizer: of all its parameters.
        config: says how the loss is smoothed, in which precision the network computes, and how gradients are clipped.
    """

    def __init__(self, network: nn.Module, optimizer: Optimizer, config: schema.Config) -> None:
        self.network, self.optimizer = network, optimizer
        self.smoothing = config.loss.label_smoothing
        self.bf16, self.clip = config.trainer.precision == "bf16", config.trainer.gradient_clip

    def __call__(self, images: torch.Tensor, labels: torch.Tensor) -> Outputs:
        # left before the optimizer's step: within, the weights would be rounded only once
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.bf16):
            logits = self.network(images)
        logits = logits.float()
        loss: torch.Tensor = cross_entropy(logits, labels, label_smoothing=self.smoothing)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if self.clip is not None:
            nn.utils.clip_grad_norm_(self.network.parameters(), self.clip)
        self.optimizer.step()
        return loss.detach(), logits.detach().argmax(dim=1)
