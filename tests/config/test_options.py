"""What the options build, and what a network costs by arithmetic."""

import math
from typing import Any

import pytest
import torch

from mnist_sweep.config import schema
from mnist_sweep.config.command import CommandLine


def build(*items: str, steps: int = 16) -> tuple[torch.optim.Optimizer, Any, Any]:
    """The optimizer of one weight, its schedule a step and its schedule an epoch."""
    config = CommandLine.of(items).config
    optimizer = config.optimizer.build([torch.nn.Parameter(torch.zeros(1))])
    return optimizer, *config.scheduler.build(optimizer, steps)


def rates(*items: str, steps: int = 16) -> list[float]:
    """The learning rate of each step, of four steps an epoch."""
    optimizer, each_step, each_epoch = build("optimizer=sgd", "optimizer.lr=0.1", *items, steps=steps)
    found = []
    for step in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if each_step:
            each_step.step()
        if each_epoch and (step + 1) % 4 == 0:
            each_epoch.step()
    return found


@pytest.mark.parametrize(
    ("items", "kind", "keys"),
    [
        (["optimizer=adam"], torch.optim.Adam, {"lr": 1e-3, "betas": (0.9, 0.999), "weight_decay": 0.0, "fused": True}),
        (["optimizer=adamw"], torch.optim.AdamW, {"weight_decay": 1e-2, "fused": True}),
        (["optimizer=sgd"], torch.optim.SGD, {"lr": 0.05, "momentum": 0.9, "nesterov": True, "fused": True}),
        (["optimizer=rmsprop", "optimizer.alpha=0.5"], torch.optim.RMSprop, {"alpha": 0.5, "momentum": 0.0}),
    ],
)
def test_an_optimizer_has_the_configs_keys(items: list[str], kind: type, keys: dict[str, Any]) -> None:
    optimizer, each_step, each_epoch = build(*items)
    assert type(optimizer) is kind
    found = {key: optimizer.param_groups[0][key] for key in keys}
    assert {key: tuple(value) if isinstance(value, list) else value for key, value in found.items()} == keys
    assert (each_step, each_epoch) == (None, None)


def test_the_step_schedule_moves_with_the_epochs() -> None:
    wanted = [0.1] * 4 + [0.05] * 4 + [0.025] * 4 + [0.0125] * 4
    assert rates("scheduler=step", "scheduler.step_size=1", "scheduler.gamma=0.5") == pytest.approx(wanted)


def test_the_cosine_schedule_moves_with_the_steps() -> None:
    wanted = [0.02 + 0.04 * (1 + math.cos(math.pi * step / 16)) for step in range(16)]
    assert rates("scheduler=cosine", "scheduler.final_lr=0.02") == pytest.approx(wanted)


@pytest.mark.parametrize("warmup", [0.3, 0.1, 0.01])
def test_onecycle_warms_up_for_two_steps_at_least_and_peaks_at_the_learning_rate(warmup: float) -> None:
    found = rates("scheduler=onecycle", f"scheduler.warmup={warmup}")
    peak = found.index(max(found))
    assert (found[0], found[-1]) == pytest.approx((0.1 / 25, 0.1 / 25 / 1e4))
    assert found[peak] == pytest.approx(0.1, rel=0.02)
    assert peak == (4 if warmup == 0.3 else 1)
    assert found == [*sorted(found[:peak]), *sorted(found[peak:], reverse=True)]


def test_too_few_steps_for_onecycle_are_made_at_the_peak() -> None:
    assert rates("scheduler=onecycle", steps=2) == [0.1, 0.1]


def test_the_network_that_a_config_builds_has_the_parameters_of_its_table() -> None:
    model = CommandLine.of(["model.convolutions=[2,1]", "model.batch_norm=true", "model.hidden=[8]"]).config.model
    network = model.build(mean=0.13, deviation=0.31)
    assert sum(weights.numel() for weights in network.parameters()) == sum(row.parameters for row in model.layers())
    assert network(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


def test_the_table_of_a_network() -> None:
    rows = CommandLine.of(["model=lenet5"]).config.model.layers()
    assert [(row.name, row.output, row.parameters) for row in rows] == [
        ("block 1", (6, 14, 14), 6 * 26),
        ("block 2", (16, 7, 7), 16 * (6 * 25 + 1)),
        ("hidden 1", (120,), 120 * (16 * 49 + 1)),
        ("hidden 2", (84,), 84 * 121),
        ("output", (10,), 10 * 85),
    ]
    assert rows[0].multiply_adds == 6 * 25 * 28 * 28


def test_the_options_of_a_group() -> None:
    assert list(schema.options("optimizer")) == ["adam", "adamw", "sgd", "rmsprop"]
    assert "hyperband" in schema.options("sweep.pruner")
    assert schema.options("model") == schema.options("seed") == schema.options("nothing") == {}


@pytest.mark.parametrize(
    ("key", "value", "fault"),
    [
        ("optimizer.momentum", 0.5, None),  # of some option
        ("model.kernel_size", [3, 5], None),
        ("optimizer.lr", 0.0, "should be greater than 0"),
        ("data.name", "imagenet", "should be one of mnist, fashion_mnist, kmnist, mnist5k"),
        ("data.augmentation", 3, "should be a mapping"),
        ("optimizer.lrr", 0.1, "no such key"),
        ("seed.x", 0.1, "no such key"),
    ],
)
def test_what_is_wrong_with_a_value_by_itself(key: str, value: Any, fault: str | None) -> None:
    assert schema.fault(key, value) == fault


def test_what_a_sweep_may_draw() -> None:
    keys = {key for key in schema.known_keys() if schema.searchable(key)}
    assert {"optimizer.momentum", "model.filters", "data.augmentation.shift", "trainer.max_epochs"} <= keys
    assert not {"data.split_seed", "data.root", "trainer.threads", "seed", "output", "sweep.trials"} & keys
