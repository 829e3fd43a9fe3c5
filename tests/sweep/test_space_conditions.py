"""What is drawn only under a condition, and what no trial can draw."""

from typing import Any

import pytest

from mnist_sweep.errors import RequestError
from mnist_sweep.sweep.space import Space
from tests.sweep.test_space import BASE, default, draws


def test_conditions_of_a_tree_hold_for_all_in_it() -> None:
    epochs = {"choices": [5, 6], "when": {"trainer.patience": [2, 3]}}
    space = Space(
        {
            "optimizer": {"_group_": ["adam", "sgd"], "when": {"model.batch_norm": True}},
            "trainer": {"when": {"optimizer": "sgd"}, "patience": {"low": 1, "high": 3}, "max_epochs": epochs},
            "model": {"batch_norm": {"choices": [True, False]}},
        },
        BASE,
    )
    assert ("trainer.max_epochs", "5 | 6", "optimizer=sgd, trainer.patience=2 or 3") in space.describe()
    assert sorted(space.conditional) == ["optimizer", "trainer.max_epochs", "trainer.patience"]
    seen = set()
    for values in draws(space, 100):
        keys = frozenset(values) - {"model.batch_norm"}
        assert ("optimizer" in keys) == values["model.batch_norm"]
        assert ("trainer.patience" in keys) == (values.get("optimizer") == "sgd")
        assert ("trainer.max_epochs" in keys) == (values.get("trainer.patience", 1) > 1)
        seen.add(keys)
    assert len(seen) == 4


def test_a_condition_on_the_length_of_a_list() -> None:
    space = default("+sweep.space.model.batch_norm={choices: [true, false], when: {model.filters.length: [2, 3]}}")
    assert "model.batch_norm" in space.conditional
    drawn = draws(space, 40)
    assert {len(values["model.filters"]) for values in drawn} == {1, 2, 3}
    assert all(("model.batch_norm" in values) == (len(values["model.filters"]) > 1) for values in drawn)


def test_a_condition_on_what_is_not_drawn_goes_by_the_configs_own_value() -> None:
    tree = {"model": {"dropout": {"choices": [0.1, 0.2], "when": {"model.pool": "max"}}, "pool": {"choices": ["avg"]}}}
    assert draws(Space(tree, BASE), 1) == [{"model.pool": "avg"}]
    assert set(*draws(Space(tree, BASE, fixed=["model.pool"]), 1)) == {"model.dropout"}
    of_another_option = {
        "optimizer": {"_group_": ["adam", "sgd"]},
        "model": {"dropout": {"choices": [0.1, 0.2], "when": {"optimizer.lr": BASE["optimizer.lr"]}}},
    }
    for values in draws(Space(of_another_option, BASE), 20):
        assert ("model.dropout" in values) == (values["optimizer"] == BASE["optimizer"])


def test_a_key_whose_condition_cannot_hold_is_not_searched() -> None:
    space = default("optimizer=adam", "model.filters=[8,8]")
    assert space.inactive == ["optimizer.momentum", "optimizer.weight_decay"]
    assert "optimizer.momentum" not in space.keys
    assert default("optimizer=sgd").inactive == ["optimizer.weight_decay"]
    assert default().inactive == []
    every = ["optimizer=adam", "optimizer.lr=0.01", "data.batch_size=32", "model.filters=[8]", "model.kernel_size=3"]
    every += ["model.pool_size=2", "model.batch_norm=false", "model.hidden=[8]", "scheduler=none"]
    with pytest.raises(RequestError, match="nothing is left to search"):
        default(*every, "model.dropout=0", "trainer.max_epochs=1")
    tree = {
        "optimizer.weight_decay": {"choices": [0.0, 0.001], "when": {"model.pool": "avg"}},
        "model.dropout": {"low": 0.1, "high": 0.2, "when": {"optimizer.weight_decay": 0.001}},
        "loss.label_smoothing": {"low": 0.1, "high": 0.2, "when": {"model.filters.length": 2}},
    }
    space = Space(tree, {**BASE, "model.pool": "max", "optimizer.weight_decay": 0.0, "model.filters": [8, 8]})
    assert space.inactive == ["model.dropout", "optimizer.weight_decay"]  # the former by the latter's own value
    assert space.keys == ["loss.label_smoothing"]


@pytest.mark.parametrize("when", [["adamw", "sgd"], "sgd", []])
def test_conditions_within_each_other_hold_both_or_never(when: Any) -> None:
    smoothing = {"choices": [0.1, 0.2], "when": {"optimizer": when}}
    loss = {"when": {"optimizer": ["adam", "adamw"]}, "label_smoothing": smoothing}
    space = Space({"optimizer": {"_group_": ["adam", "adamw", "sgd"]}, "loss": loss}, BASE)
    assert space.inactive == ([] if "adamw" in when else ["loss.label_smoothing"])
    for values in draws(space, 20):
        assert ("loss.label_smoothing" in values) == (values["optimizer"] == "adamw" and "adamw" in when)


@pytest.mark.parametrize(("choices", "conditional"), [([[2], [2, 2]], True), ([[2, 4], [4, 2]], False)])
def test_a_list_that_follows_choices_of_several_lengths_is_conditional(choices: Any, conditional: bool) -> None:
    leaf = {"length": "model.filters", "each": {"choices": [3, 5]}}
    space = Space({"model": {"filters": {"choices": choices}, "kernel_size": leaf}}, BASE)
    assert (space.conditional == ["model.kernel_size"]) == conditional
