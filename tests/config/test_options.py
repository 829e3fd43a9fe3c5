"""What the options build, and what a network costs by arithmetic."""

import math
from typing import Any

import pytest
import torch

from mnist_sweep.config import schema
from mnist_sweep.config.command import CommandLine


def build(*items: str, steps: int = 16) -> tuple[torch.optim.Optimizer, Any]:
    """The optimizer of one weight, and its schedule over four epochs."""
    config = CommandLine.of(items).config
    optimizer = config.optimizer.build([torch.nn.Parameter(torch.zeros(1))])
    return optimizer, config.scheduler.build(optimizer, steps, 4)


def rates(*items: str, steps: int = 16) -> list[float]:
    """The learning rate of each step."""
    optimizer, schedule = build("optimizer=sgd", "optimizer.lr=0.1", *items, steps=steps)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if schedule:
            schedule.step()
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
    optimizer, schedule = build(*items)
    assert type(optimizer) is kind
    assert {key: optimizer.param_groups[0][key] for key in keys} == keys
    assert schedule is None


def test_the_step_schedule_moves_with_the_epochs_and_the_cosine_with_the_steps() -> None:
    wanted = [0.1] * 4 + [0.05] * 4 + [0.025] * 4 + [0.0125] * 4
    assert rates("scheduler=step", "scheduler.step_size=1", "scheduler.gamma=0.5") == pytest.approx(wanted)
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
    assert rates("scheduler=onecycle", steps=2) == [0.1, 0.1]  # too few for a cycle


def test_the_table_of_a_network() -> None:
    rows = CommandLine.of(["model=lenet5"]).config.layers()
    assert [(row.name, row.output, row.parameters) for row in rows] == [
        ("block 1", (6, 14, 14), 6 * 26),
        ("block 2", (16, 7, 7), 16 * (6 * 25 + 1)),
        ("hidden 1", (120,), 120 * (16 * 49 + 1)),
        ("hidden 2", (84,), 84 * 121),
        ("output", (10,), 10 * 85),
    ]
    assert rows[0].multiply_adds == 6 * 25 * 28 * 28


@pytest.mark.parametrize(
    ("key", "value", "fault"),
    [
        ("optimizer.momentum", 0.5, None),  # of some option
        ("optimizer.lr", 0.0, "should be greater than 0"),
        ("data.augmentation", 3, "should be a mapping"),
        ("seed.x", 0.1, "no such key"),
    ],
)
def test_what_is_wrong_with_a_value_by_itself(key: str, value: Any, fault: str | None) -> None:
    assert schema.fault(key, value) == fault


def test_what_a_sweep_may_draw() -> None:
    assert list(schema.options("optimizer")) == ["adam", "adamw", "sgd", "rmsprop"]
    assert list(schema.options("model")) == ["convnet", "mlp", "resnet", "custom"]
    assert schema.options("seed") == schema.options("nothing") == schema.options("data.augmentation") == {}
    keys = {key for key in schema.known_keys() if schema.searchable(key)}
    assert {"optimizer.momentum", "model.filters", "data.augmentation.shift", "trainer.max_epochs"} <= keys
    assert not {"data", "data.split_seed", "data.root", "data.path", "data.size", "data.contents.size"} & keys
    assert not {"data.fallback", "trainer.threads", "seed", "output", "sweep.trials"} & keys
