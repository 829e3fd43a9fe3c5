"""The search space: what it proposes, what it refuses, and that every proposal composes."""

import re
from collections.abc import Mapping
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mnist_sweep.composition import compose
from mnist_sweep.errors import RequestError
from mnist_sweep.overrides import override
from mnist_sweep.sweep.space import Space

ONE_LINE = re.compile(r"^[^\n]*$")
BASE = compose([]).parameters()


def proposals(space: Space, count: int, seed: int = 0) -> list[dict[str, Any]]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    drawn = []
    for _ in range(count):
        trial = study.ask()
        drawn.append(space.suggest(trial))
        study.tell(trial, 0.0)
    return drawn


def default(*items: str) -> Space:
    return Space.of(compose(["+sweep=optuna", *items]), ["+sweep=optuna", *items])


def test_every_proposal_of_the_default_space_composes_as_proposed() -> None:
    for values in proposals(default(), 60):
        config = compose([override(key, value) for key, value in values.items()])
        assert {key: config.parameters()[key] for key in values} == values


def test_lists_have_the_length_that_was_drawn() -> None:
    drawn = proposals(default(), 60)
    assert {len(values["model.filters"]) for values in drawn} == {1, 2, 3}
    for values in drawn:
        assert len(values["model.filters"]) == len(values["model.kernel_size"]) == len(values["model.pool_size"])
        assert all(8 <= filters <= 64 for filters in values["model.filters"])
        assert isinstance(values["trainer.max_epochs"], int)
        assert 1e-4 <= values["optimizer.lr"] <= 0.3


def test_a_conditional_key_is_drawn_where_its_condition_holds() -> None:
    drawn = proposals(default(), 60)
    assert {values["optimizer"] for values in drawn} == {"adam", "adamw", "sgd"}
    assert all(("optimizer.momentum" in values) == (values["optimizer"] == "sgd") for values in drawn)


def test_what_the_user_sets_is_not_searched() -> None:
    space = default("optimizer=sgd", "optimizer.lr=0.05", "model.filters=[8,16]")
    assert space.fixed == ["model.filters", "optimizer", "optimizer.lr"]
    for values in proposals(space, 10):
        assert not {"optimizer", "optimizer.lr", "model.filters"} & set(values)
        assert 0.5 <= values["optimizer.momentum"] <= 0.99  # its condition holds: sgd was set
        assert len(values["model.kernel_size"]) == 2  # follows the filters that were set
    assert all("optimizer.momentum" not in values for values in proposals(default("optimizer=adam"), 10))


def test_one_more_key_and_a_narrower_range() -> None:
    space = default("+sweep.space.model.activation={choices: [relu, tanh]}", "sweep.space.optimizer.lr.high=0.001")
    drawn = proposals(space, 30)
    assert {values["model.activation"] for values in drawn} == {"relu", "tanh"}
    assert max(values["optimizer.lr"] for values in drawn) <= 0.001


def test_the_defaults_are_a_proposal() -> None:
    space = default()
    parameters = space.encode({})
    assert parameters is not None
    values = space.suggest(optuna.trial.FixedTrial(parameters))
    kept = {key: BASE[key] for key in values if key not in ("model.kernel_size", "model.pool_size")}
    assert values == kept | {"model.kernel_size": [3, 3], "model.pool_size": [2, 2]}


def test_defaults_outside_the_space_are_none() -> None:
    assert default("sweep.space.optimizer.lr.high=0.0005").encode({}) is None
    assert default("sweep.space.data.batch_size.choices=[32,64]").encode({}) is None


leaf = st.one_of(
    st.tuples(st.integers(1, 50), st.integers(0, 50), st.booleans()).map(
        lambda t: {"low": t[0], "high": t[0] + t[1], "log": t[2]}
    ),
    st.tuples(st.integers(1, 50), st.integers(1, 10), st.integers(1, 3)).map(
        lambda t: {"low": t[0], "high": t[0] + t[1] * t[2], "step": t[2]}
    ),
    st.lists(st.integers(1, 100), min_size=1, max_size=4, unique=True).map(lambda items: {"choices": items}),
)


@settings(deadline=None, max_examples=50)
@given(
    st.fixed_dictionaries(
        {
            "filters": st.one_of(
                st.builds(lambda n, each: {"length": n, "each": each}, st.integers(0, 3), leaf),
                st.builds(lambda each: {"length": {"low": 1, "high": 3}, "each": each}, leaf),
                st.lists(st.lists(st.integers(1, 9), max_size=3), min_size=1, max_size=3, unique_by=str).map(
                    lambda items: {"choices": items}
                ),
            ),
            "hidden": st.builds(lambda each: {"length": "model.filters", "each": each}, leaf),
        }
    ),
    st.integers(0, 2**16),
)
def test_any_space_composes_and_encodes_back(model: Mapping[str, Any], seed: int) -> None:
    space = Space({"model": model}, BASE)
    for values in proposals(space, 3, seed):
        config = compose([override("model.pool_size", 1), *(override(key, item) for key, item in values.items())])
        assert {key: config.parameters()[key] for key in values} == values
        parameters = space.encode(values)
        assert parameters is not None
        assert space.suggest(optuna.trial.FixedTrial(parameters)) == values


def test_the_same_seed_proposes_the_same() -> None:
    assert proposals(default(), 5) == proposals(default(), 5)
    assert proposals(default(), 5) != proposals(default(), 5, seed=1)


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ({"model": {"filtres": {"low": 1, "high": 2}}}, "sweep.space.model.filtres: no such key in the config"),
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
        ({"model": {"filters": {"each": {"low": 1, "high": 2}}}}, "a list needs both length and each"),
        ({"model": {"filters": {"length": "model.depth", "each": {"low": 1, "high": 2}}}}, "model.depth is no key"),
        ({"model": {"pool": {"choices": ["max"], "when": {"optimiser": "sgd"}}}}, "optimiser is no key"),
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
        ({}, "nothing is left to search"),
    ],
)
def test_a_space_that_cannot_be_read_is_refused_in_one_line(tree: Mapping[str, Any], said: str) -> None:
    with pytest.raises(RequestError, match=ONE_LINE) as caught:
        Space(tree, BASE)
    assert said in str(caught.value)
