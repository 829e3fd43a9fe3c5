"""Spaces that cannot be searched: one line that names the key, the value and what is allowed."""

import math
import re
from collections.abc import Mapping
from typing import Any

import pytest

from mnist_sweep.errors import RequestError
from mnist_sweep.sweep.space import Space
from tests.test_space import BASE, default

ONE_LINE = re.compile(r"^[^\n]*$")


@pytest.mark.parametrize(
    ("item", "said"),
    [
        ("sweep.space.model.dropout.high=1.5", "sweep.space.model.dropout: 1.5 should be less than 1"),
        ("sweep.space.trainer.max_epochs.low=1.5", "sweep.space.trainer.max_epochs: 1.5 should be a valid integer"),
        ("sweep.space.model.kernel_size.each.choices=[3,30]", "model.kernel_size: [30] should be less than or equal"),
        ("sweep.space.data.batch_size.choices=[0,32]", "sweep.space.data.batch_size: 0 should be greater than"),
        ("+sweep.space.data.augmentation={choices: [{rotation: 500}]}", "rotation=500 should be less than or equal"),
        ("+sweep.space.data.augmentation={choices: [{rotatio: 5}]}", "data.augmentation: rotatio=5 no such key"),
        ("+sweep.space.data.augmentation={low: 0.0, high: 1.0}", "data.augmentation: 0.0 should be a mapping"),
        ("+sweep.space.model.pool={choices: [max, min]}", "sweep.space.model.pool: min should be 'max' or 'avg'"),
    ],
)
def test_what_no_network_can_have_is_refused_before_it_is_drawn(item: str, said: str) -> None:
    with pytest.raises(RequestError, match=ONE_LINE) as caught:
        default(item)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        (
            {"model": {"filtres": {"low": 1, "high": 2}}},
            "sweep.space.model.filtres: unknown key; the nearest known one is model.filters",
        ),
        ({"model": {"dropout": 0.5}}, "sweep.space.model.dropout=0.5: allowed: a leaf"),
        ({"model": {"dropout": {"low": 0.5}}}, "sweep.space.model.dropout: high is missing"),
        ({"model": {"dropout": {"low": 0.5, "high": "x"}}}, "sweep.space.model.dropout.high=x: allowed: a number"),
        ({"model": {"dropout": {"low": 0.5, "high": 0.1}}}, "low=0.5 is above high=0.1"),
        ({"optimizer": {"lr": {"low": 0, "high": 1, "log": True}}}, "low=0: with log=true allowed: above 0"),
        ({"optimizer": {"lr": {"low": 1, "high": 2, "log": 1}}}, "log=1: allowed: true, false"),
        ({"optimizer": {"lr": {"low": 1, "high": 2, "step": 0}}}, "step=0: allowed: a number above 0"),
        ({"model": {"pool": {"choices": []}}}, "choices=[]: allowed: a list of at least one value"),
        ({"model": {"pool": {"choices": "max"}}}, "choices=max: allowed: a list"),
        ({"model": {"pool": {"choice": ["max"], "when": {}}}}, "pool.choice: no part of a leaf"),
        (
            {"model": {"filters": {"each": {"low": 1, "high": 2}}}},
            "sweep.space.model.filters: a list needs both; allowed: {length: …, each: …}",
        ),
        (
            {"model": {"filters": {"length": "model.depth", "each": {"low": 1, "high": 2}}}},
            "model.depth: unknown key; the nearest known one is ",
        ),
        (
            {"model": {"pool": {"choices": ["max"], "when": {"optimiser": "sgd"}}}},
            "optimiser: unknown key; the nearest known one is optimizer",
        ),
        ({"model": {"pool": {"choices": ["max"], "when": "sgd"}}}, "when=sgd: allowed: {KEY: VALUE}"),
        (
            {"optimizer": {"_group_": ["adam", "sgd"], "momentum": {"low": 0.1, "high": 0.9}}},
            "sweep.space.optimizer.momentum: optimizer=adam has no momentum; allowed: when: {optimizer:[sgd]}",
        ),
        (
            {
                "model": {
                    "pool": {"choices": ["max"], "when": {"model.activation": "relu"}},
                    "activation": {"choices": ["relu"], "when": {"model.pool": "max"}},
                }
            },
            "a circle of conditions",
        ),
        (
            {"optimizer": {"_group_": ["adam", "adagrad"]}},
            "sweep.space.optimizer._group_=[adam,adagrad]: no option adagrad; allowed: adam, adamw, sgd",
        ),
        ({"model": {"pool": {"choices": ["max"], "when": {"optimizer": ["rms"]}}}}, "optimizer=rms never occurs"),
        (
            {"model": {"filters": {"length": 2, "each": {"low": 1, "high": 2, "when": {"optimizer": "sgd"}}}}},
            "sweep.space.model.filters.each.when: a condition holds for a whole list",
        ),
        (
            {"model": {"when": {"optimizer": "adam"}, "pool": {"choices": ["max"], "when": {"optimizer": "sgd"}}}},
            "sweep.space.model.pool.when: optimizer cannot be sgd there; allowed: adam",
        ),
        ({"model": {"filters": {"length": -1, "each": {"low": 1, "high": 2}}}}, "length=-1: allowed: a whole number"),
        (
            {"model": {"filters": {"length": {"choices": [1, "x"]}, "each": {"low": 1, "high": 2}}}},
            "allowed: whole numbers from 0",
        ),
        ({"model": {"pool": {"choices": ["max", "max"]}}}, "max is there twice"),
        ({"optimizer": {"lr": {"low": 1, "high": 2, "step": math.inf}}}, "step=inf: allowed: a number above 0"),
        ({"optimizer": {"_group_": ["adam", ["sgd"]]}}, "no option [sgd]; allowed: adam"),
        ({"model": {"pool": {"choices": ["max"], "when": {"optimizer": []}}}}, "optimizer=[] never occurs"),
        (
            {"model": {"pool": {"choices": ["max"], "when": {"model.filters.length": 0.5}}}},
            "model.filters.length=0.5 never occurs; allowed: whole numbers from 0",
        ),
        (
            {"model": {"hidden": {"length": "model.dropout", "each": {"low": 1, "high": 2}}}},
            "hidden.length=model.dropout: is no list; allowed: the key of another list",
        ),
        (
            {
                "optimizer": {"_group_": ["adam", "sgd"]},
                "model": {"hidden": {"length": "optimizer.betas", "each": {"low": 1, "high": 2}}},
            },
            "length=optimizer.betas: optimizer is drawn, and may have none",
        ),
        ({}, "nothing is left to search"),
    ],
)
def test_a_space_that_cannot_be_read_is_refused_in_one_line(tree: Mapping[str, Any], said: str) -> None:
    with pytest.raises(RequestError, match=ONE_LINE) as caught:
        Space(tree, BASE)
    assert said in str(caught.value)
