"""Types and bounds of ``optimizer`` and ``scheduler``. The defaults are in conf/."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from mnist_sweep.config.section import Fraction, NonNegative, Positive, Rate, Section

Betas = Annotated[list[Fraction], Field(min_length=2, max_length=2)]


class Adam(Section):
    name: Literal["adam"]
    lr: Rate
    betas: Betas
    weight_decay: NonNegative


class AdamW(Section):
    name: Literal["adamw"]
    lr: Rate
    betas: Betas
    weight_decay: NonNegative


class SGD(Section):
    name: Literal["sgd"]
    lr: Rate
    momentum: Fraction
    nesterov: bool
    weight_decay: NonNegative

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> Self:
        if self.nesterov and self.momentum == 0:
            raise ValueError("optimizer.momentum=0: allowed only with optimizer.nesterov=false")
        return self


class RMSprop(Section):
    name: Literal["rmsprop"]
    lr: Rate
    alpha: Fraction
    momentum: Fraction
    weight_decay: NonNegative


Optimizer = Annotated[Adam | AdamW | SGD | RMSprop, Field(discriminator="name")]


class NoScheduler(Section):
    name: Literal["none"]


class Step(Section):
    name: Literal["step"]
    step_size: Positive
    gamma: Annotated[float, Field(gt=0, le=1)]


class Cosine(Section):
    name: Literal["cosine"]
    final_lr: NonNegative


class OneCycle(Section):
    name: Literal["onecycle"]
    warmup: Annotated[float, Field(gt=0, lt=1)]
    initial_div: Annotated[float, Field(ge=1)]
    final_div: Annotated[float, Field(ge=1)]


Scheduler = Annotated[NoScheduler | Step | Cosine | OneCycle, Field(discriminator="name")]
