"""Spaces that cannot be searched: one line that names the key, the value and what is allowed."""

from typing import Any

import pytest

from mnist_sweep.errors import RequestError
from mnist_sweep.sweep.space import Space
from tests.sweep.test_space import BASE, default


@pytest.mark.parametrize(
    ("item", "refusal"),
    [
        ("sweep.space={}", "sweep.space={}: adds nothing to the space that is there; allowed: sweep/space=empty"),
        ("sweep.space.model.dropout.high=1.5", "sweep.space.model.dropout: 1.5 should be less than 1"),
        ("sweep.space.model.kernel_size.each.choices=[3,30]", "model.kernel_size: [30] should be less than or equal"),
        ("+sweep.space.data.augmentation={choices: [{rotation: 500}]}", "rotation=500 should be less than or equal"),
        ("+sweep.space.data.augmentation={choices: [{rotatio: 5}]}", "data.augmentation: rotatio=5 no such key"),
        ("+sweep.space.model.pool={choices: [max, min]}", "sweep.space.model.pool: min should be 'max' or 'avg'"),
        ("+sweep.space.model.dropout.when={optimizer: rms}", "optimizer=rms never occurs; allowed: adam, adamw, sgd"),
        ("+sweep.space.model.dropout.when={model.filters.length: 0.5}", "length=0.5 never occurs; allowed: whole numb"),
        ("+sweep.space.model.dropout.when={data.batch_size: [all]}", "data.batch_size=all never occurs; should be a"),
    ],
)
def test_what_no_network_can_have_is_refused_before_it_is_drawn(item: str, refusal: str) -> None:
    with pytest.raises(RequestError) as caught:
        default(item)
    assert refusal in str(caught.value)
    assert "\n" not in str(caught.value)


LEAF = {"low": 1, "high": 2}


@pytest.mark.parametrize(
    ("tree", "refusal"),
    [
        ({"model": {"filtres": LEAF}}, "space.model.filtres: unknown key; the nearest known one is model.filters"),
        ({"seed": LEAF}, "sweep.space.seed: the luckiest seed would win, and not do so again; allowed: sweep.seeds=N"),
        ({"model": {"dropout": 0.5}}, "sweep.space.model.dropout=0.5: allowed: a leaf"),
        ({"model": 3, "model.pool": {"choices": ["max"]}, "data": 3}, "sweep.space.data=3: allowed: a leaf"),
        ({"model": {"dropout": {"low": 0.5}}}, "sweep.space.model.dropout={low:0.5}: high: Field required; allowed:"),
        ({"model": {"dropout": {"low": 0.5, "high": 0.1}}}, "`low <= high` must hold, but got (low=0.5, high=0.1)"),
        ({"optimizer": {"lr": {"low": 0, "high": 1, "log": True}}}, "`low >= 1` must hold for `log=True`"),
        ({"optimizer": {"lr": {"low": 1, "high": 10**400}}}, "high: should be a valid number"),
        ({"optimizer": {"lr": {**LEAF, "mean": 1}}}, "mean: Extra inputs are not permitted"),
        ({"model": {"pool": {"choices": []}}}, "choices: List should have at least 1 item"),
        ({"model": {"pool": {"when": {"optimizer": "sgd"}}}}, "sweep.space.model.pool={}: low: Field required"),
        ({"model": {"pool": {**LEAF, "when": "sgd"}}}, "model.pool.when=sgd: allowed: {KEY: VALUE}"),
        ({"model": {"pool": {**LEAF, "when": {"optimiser": "sgd"}}}}, "optimiser: unknown key; the nearest"),
        ({"model": {"filters": {"length": -1, "each": LEAF}}}, "length=-1: allowed: a whole number from 0"),
        ({"model": {"filters": {"length": 2, "each": {**LEAF, "when": {}}}}}, "when: Extra inputs are not permitted"),
        ({"model": {"filters": {"length": "model.deep", "each": LEAF}}}, "model.deep: unknown key"),
        ({"model": {"hidden": {"length": "model.dropout", "each": LEAF}}}, "length=model.dropout: is no list"),
        (
            {"optimizer": {"_group_": ["adam", "sgd"], "momentum": {"low": 0.1, "high": 0.9}}},
            "sweep.space.optimizer.momentum: optimizer=adam has no momentum; allowed: when: {optimizer:[sgd]}",
        ),
        (
            {"optimizer": {"_group_": ["adam", "adagrad"]}},
            "sweep.space.optimizer._group_=[adam,adagrad]: no option adagrad; allowed: adam, adamw, sgd",
        ),
        ({"seed": {"_group_": ["mlp"]}}, "seed._group_=[mlp]: no option mlp; allowed: leaves of the keys of seed"),
        ({"data": {"_group_": ["mnist", "kmnist"]}}, "sweep.space.data: not searched, being no part of what is"),
        ({"model": {"depth": LEAF}}, "sweep.space.model.depth: model=convnet has no depth; allowed: leave it out"),
        (
            {"model": {"pool": {**LEAF, "when": {"model.padding": "same"}},
                       "padding": {**LEAF, "when": {"model.pool": "max"}}}},
            "a circle of conditions",
        ),
        ({}, "nothing is left to search"),
    ],
)  # fmt: skip
def test_a_space_that_cannot_be_read_is_refused_in_one_line(tree: dict[str, Any], refusal: str) -> None:
    with pytest.raises(RequestError) as caught:
        Space(tree, BASE)
    assert refusal in str(caught.value)
    assert "\n" not in str(caught.value)
