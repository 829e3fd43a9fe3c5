"""What a config says of the steps of training: the optimizer, and the schedule of its learning rate."""

import torch
from torch import nn
from torch.optim import Optimizer, lr_scheduler

from mnist_sweep.config import options as optimizer_schema
from mnist_sweep.config import schema

#: From the first learning rate to the peak; with less, torch would begin at neither.
_WARMUP_STEPS = 2
#: First, peak, last: in fewer steps there is no cycle, and the learning rate stays at its peak.
_ONECYCLE_STEPS = 3
#: And whether torch has a fused form of it, one call for all parameters. A CUDA graph needs that or "capturable", and a
#: state that begins with zeros.
_OPTIMIZERS: dict[str, tuple[type[Optimizer], bool]] = {
    "adam": (torch.optim.Adam, True),
    "adamw": (torch.optim.AdamW, True),
    "sgd": (torch.optim.SGD, True),
    "rmsprop": (torch.optim.RMSprop, False),
}


def make_optimizer(config: schema.Config, network: nn.Module) -> Optimizer:
    """The config's optimizer of a network's parameters, in its fastest form."""
    settings = config.optimizer
    made, fused = _OPTIMIZERS[settings.name]
    arguments = settings.model_dump(exclude={"name"}) | ({"fused": True} if fused else {})
    return made(network.parameters(), **arguments)


def schedules(
    config: schema.Config, optimizer: Optimizer, steps: int
) -> tuple[lr_scheduler.LRScheduler | None, lr_scheduler.LRScheduler | None]:
    """The schedule of the learning rate over so many steps: one that moves with each step, or with each epoch."""
    match config.scheduler:
        case optimizer_schema.Step(step_size=size, gamma=gamma):
            return None, lr_scheduler.StepLR(optimizer, size, gamma)
        case optimizer_schema.Cosine(final_lr=final):
            return lr_scheduler.CosineAnnealingLR(optimizer, steps, eta_min=final), None
        case optimizer_schema.OneCycle() if steps < _ONECYCLE_STEPS:
            return None, None
        case optimizer_schema.OneCycle(warmup=warmup, initial_div=initial, final_div=final):
            # momentum stays the optimizer's own: it is a key of its own, and may be searched
            return lr_scheduler.OneCycleLR(
                optimizer,
                config.optimizer.lr,
                steps,
                pct_start=max(warmup, _WARMUP_STEPS / steps),
                cycle_momentum=False,
                div_factor=initial,
                final_div_factor=final,
            ), None
    return None, None
