"""The options of the config's groups: the keys of each, their bounds, and how it is built. The defaults are in conf/.

A new option is one class here and one YAML file. Torch is imported only where something is built.
"""

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self, cast

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from mnist_sweep.config.paths import PathText
from mnist_sweep.config.section import Fraction, NonNegative, Positive, Rate, Section, Target

if TYPE_CHECKING:
    import torch
    from torch.optim.lr_scheduler import LRScheduler


class _Optimizer(Section):
    """The class has the name and the keys of torch's own, which are handed to it as they are."""

    #: Whether torch has a form of it that changes all parameters in one call. A CUDA graph needs that, or an optimizer
    #: that is "capturable" and whose state begins with zeros.
    fused: ClassVar[bool] = True
    lr: Rate
    weight_decay: NonNegative

    def build(self, parameters: "Iterable[torch.Tensor]") -> "torch.optim.Optimizer":
        """The optimizer of these parameters, in its fastest form."""
        import torch

        arguments = self.model_dump(exclude={"name"}) | ({"fused": True} if self.fused else {})
        return cast("torch.optim.Optimizer", getattr(torch.optim, type(self).__name__)(parameters, **arguments))


Betas = Annotated[list[Fraction], Field(min_length=2, max_length=2)]


class Adam(_Optimizer):
    name: Literal["adam"]
    betas: Betas


class AdamW(_Optimizer):
    name: Literal["adamw"]
    betas: Betas


class SGD(_Optimizer):
    name: Literal["sgd"]
    momentum: Fraction
    nesterov: bool

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> Self:
        if self.nesterov and self.momentum == 0:
            raise ValueError("optimizer.momentum=0: allowed only with optimizer.nesterov=false")
        return self


class RMSprop(_Optimizer):
    fused = False
    name: Literal["rmsprop"]
    alpha: Fraction
    momentum: Fraction


Optimizer = Annotated[Adam | AdamW | SGD | RMSprop, Field(discriminator="name")]


class _Scheduler(Section):
    stretched: ClassVar[bool] = False  # over all epochs of the run


class Nothing(_Scheduler):
    """The option "none", of the scheduler and of tracking."""

    name: Literal["none"]

    def build(self, optimizer: "torch.optim.Optimizer", steps: int, epochs: int) -> "LRScheduler | None":
        """The schedule of all steps of all epochs, which moves with each step; the optimizer's rate is its highest."""
        return None


class Step(_Scheduler):
    name: Literal["step"]
    step_size: Positive
    gamma: Annotated[float, Field(gt=0, le=1)]

    def build(self, optimizer: "torch.optim.Optimizer", steps: int, epochs: int) -> "LRScheduler | None":
        from torch.optim.lr_scheduler import StepLR

        return StepLR(optimizer, self.step_size * (steps // epochs), self.gamma)


class Cosine(_Scheduler):
    stretched = True

    name: Literal["cosine"]
    final_lr: NonNegative

    def build(self, optimizer: "torch.optim.Optimizer", steps: int, epochs: int) -> "LRScheduler | None":
        from torch.optim.lr_scheduler import CosineAnnealingLR

        return CosineAnnealingLR(optimizer, steps, eta_min=self.final_lr)


class OneCycle(_Scheduler):
    stretched = True

    name: Literal["onecycle"]
    warmup: Annotated[float, Field(gt=0, lt=1)]
    initial_div: Annotated[float, Field(ge=1)]
    final_div: Annotated[float, Field(ge=1)]

    def build(self, optimizer: "torch.optim.Optimizer", steps: int, epochs: int) -> "LRScheduler | None":
        from torch.optim.lr_scheduler import OneCycleLR

        if steps < 3:  # a cycle has a first, a highest and a last rate; so the rate stays at its peak
            return None
        return OneCycleLR(
            optimizer,
            optimizer.defaults["lr"],
            steps,
            pct_start=max(self.warmup, 2 / steps),  # with less than two steps of warm-up torch begins at neither rate
            cycle_momentum=False,  # momentum is a key of its own, and may be searched
            div_factor=self.initial_div,
            final_div_factor=self.final_div,
        )


Scheduler = Annotated[Nothing | Step | Cosine | OneCycle, Field(discriminator="name")]


class Loss(Section):
    label_smoothing: Fraction
    class_weights: Literal["balanced"] | None = None


def _metric(target: str) -> str:
    if target != "balanced_accuracy" and ":" not in target:
        raise ValueError("should be balanced_accuracy, or MODULE:NAME or FILE.py:NAME of a function")
    return target


class Extra(Section):
    """A metric besides those that are always measured."""

    target: Annotated[Target, AfterValidator(_metric)]
    direction: Literal["maximize", "minimize"] = "maximize"

    @property
    def metric(self) -> str:
        """The last part of its name: top3 of my_package.metrics:top3."""
        return re.split("[:.]", self.target)[-1]


class Metrics(Section):
    #: As a text, the target alone.
    extra: list[Annotated[Extra, BeforeValidator(lambda item: {"target": item} if isinstance(item, str) else item)]]


class Trainer(Section):
    max_epochs: Positive
    patience: Positive | None
    gradient_clip: Rate | None
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None
    accelerator: Literal["auto", "cpu", "gpu"]
    precision: Literal[32, "bf16", "auto"]
    cuda_graphs: Literal[True, False, "auto"]
    threads: Annotated[int, Field(ge=1, le=1024)] | None
    init_from: PathText | None = None


class MLflow(Section):
    name: Literal["mlflow"]
    uri: PathText
    experiment: Annotated[str, Field(min_length=1)]


Tracking = Annotated[MLflow | Nothing, Field(discriminator="name")]


class LocalLauncher(Section):
    name: Literal["local"]
    memory_growth_mb: Positive


class InlineLauncher(Section):
    name: Literal["inline"]


class RayLauncher(Section):
    name: Literal["ray"]
    address: Annotated[str, Field(pattern=r"^(auto|[^/:\s]+:\d+)$")] | None
    cpus_per_worker: Rate
    gpus_per_worker: NonNegative
    memory_growth_mb: Positive


Launcher = Annotated[LocalLauncher | InlineLauncher | RayLauncher, Field(discriminator="name")]
