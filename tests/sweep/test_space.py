"""The search space: what it proposes, that every proposal composes, and that encoding undoes suggesting."""

import functools
import warnings
from collections.abc import Mapping
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import FixedTrial

from mnist_sweep.config.command import CommandLine
from mnist_sweep.sweep.space import Space

optuna.logging.set_verbosity(optuna.logging.ERROR)
BASE = CommandLine().config.parameters()
UNPOOLED = CommandLine.of(["model.pool_size=1"])  # networks of any depth are possible


def draws(space: Space, count: int, seed: int = 0) -> list[dict[str, Any]]:
    """The values of so many random trials."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    return [space.suggest(study.ask()) for _ in range(count)]


@functools.cache
def default(*overrides: str) -> Space:
    """The default space with further overrides."""
    return Space.of(CommandLine.of(["+sweep=optuna", *overrides]))


def composes(values: Mapping[str, Any], command: CommandLine) -> bool:
    parameters = command.with_(values).config.parameters()
    return {key: parameters[key] for key in values} == values


def test_the_default_space_draws_within_its_bounds_and_composes_as_it_was_drawn() -> None:
    drawn = draws(default(), 60)
    assert all(composes(values, CommandLine()) for values in drawn[:10])
    assert {len(values["model.filters"]) for values in drawn} == {1, 2, 3}
    assert {values["optimizer"] for values in drawn} == {"adam", "adamw", "sgd"}
    for values in drawn:
        assert len(values["model.filters"]) == len(values["model.kernel_size"]) == len(values["model.pool_size"])
        assert all(8 <= filters <= 64 for filters in values["model.filters"])
        assert isinstance(values["trainer.max_epochs"], int)
        assert 1e-4 <= values["optimizer.lr"] <= 0.3
        assert ("optimizer.momentum" in values) == (values["optimizer"] == "sgd")
        assert ("optimizer.weight_decay" in values) == (values["optimizer"] == "adamw")
    assert default().continuous == ["model.dropout", "optimizer.lr", "optimizer.momentum", "optimizer.weight_decay"]
    assert default().points(10) is None  # there is no end of them
    assert drawn == draws(default(), 60)
    assert drawn != draws(default(), 60, seed=1)


def test_what_the_user_sets_is_not_searched() -> None:
    space = default("optimizer=sgd", "optimizer.lr=0.05", "model.filters=[8,16]")
    assert space.fixed == ["model.filters", "optimizer", "optimizer.lr"]
    for values in draws(space, 10):
        assert not {"optimizer", "optimizer.lr", "model.filters"} & set(values)
        assert 0.5 <= values["optimizer.momentum"] <= 0.99  # its condition holds: sgd was set
        assert len(values["model.kernel_size"]) == 2  # follows the filters that were set
    assert all("optimizer.momentum" not in values for values in draws(default("optimizer=adam"), 10))


@pytest.mark.parametrize(
    ("mapping", "fixed"),
    [("optimizer={lr: 0.1}", "optimizer.lr"), ("data.augmentation={rotation: 1.0}", "data.augmentation")],
)
def test_what_is_set_as_a_mapping_is_not_searched(mapping: str, fixed: str) -> None:
    optimizer = "optimizer: {_group_: [adam, sgd], lr: {low: 0.1, high: 0.2}}"
    space = f"++sweep.space={{{optimizer}, data.augmentation: {{choices: [{{rotation: 5}}]}}}}"
    assert default("sweep/space=empty", space, mapping).fixed == [fixed]


def test_null_and_a_part_of_a_mapping_may_be_drawn() -> None:
    space = default(
        "+sweep.space.data.limit={choices: [null, 500]}", "+sweep.space.data.augmentation={choices: [{shift: 0.1}]}"
    )
    assert {values["data.limit"] for values in draws(space, 20)} == {None, 500}
    assert draws(space, 1)[0]["data.augmentation"] == {"shift": 0.1}


def test_the_configs_own_values_are_a_point_of_a_space_that_holds_them() -> None:
    parameters = default().encode({})
    assert parameters is not None
    values = default().suggest(FixedTrial(parameters))
    lists = {"model.kernel_size": [3, 3], "model.pool_size": [2, 2]}  # one number stands for both blocks
    assert values == {key: BASE[key] for key in values} | lists
    for override in ("sweep.space.optimizer.lr.high=0.0005", "sweep.space.data.batch_size.choices=[32,64]"):
        assert default(override).encode({}) is None
    # of another study's values those are taken that fit
    values = {"optimizer.lr": 0.001, "data.batch_size": 64, "model.filters": [16, 32], "gone": 1}
    taken = default("sweep.space.optimizer.lr.high=0.0005", "data.batch_size=32").partial(values)
    assert taken == {"model.filters.length": 2, "model.filters[0]": 16, "model.filters[1]": 32}


ranges = st.builds(
    lambda low, width, log: {"low": low, "high": low + width, "log": log},
    st.integers(1, 50), st.integers(0, 50), st.booleans(),
)  # fmt: skip
steps = st.builds(
    lambda low, count, step, rest: {"low": low, "high": low + count * step + rest, "step": step},
    st.integers(1, 50), st.integers(0, 10), st.integers(1, 3), st.integers(0, 2),
)  # fmt: skip
choices = st.lists(st.integers(1, 100), min_size=1, max_size=4, unique=True).map(lambda items: {"choices": items})
leaves = st.one_of(ranges, steps, choices)
lists = st.lists(st.lists(st.integers(1, 9), max_size=3), min_size=1, max_size=3, unique_by=str)


@settings(max_examples=40)
@given(
    st.one_of(
        st.builds(lambda count, each: {"length": count, "each": each}, st.integers(0, 3), leaves),
        leaves.map(lambda each: {"length": {"low": 1, "high": 3}, "each": each}),
        lists.map(lambda items: {"choices": items}),
    ),
    leaves,
    st.integers(1, 50),
    st.integers(0, 2**16),
)
def test_any_space_composes_and_encodes_back(filters: Any, hidden: Any, percent: int, seed: int) -> None:
    widths = {"filters": filters, "hidden": {"length": "model.filters", "each": hidden}}
    dropout = {"low": 0.01, "high": 0.01 + percent / 100, "step": 0.03}
    space = Space({"model": {**widths, "dropout": dropout}}, BASE)
    drawn = draws(space, 3, seed)
    assert composes(drawn[0], UNPOOLED)
    for values in drawn:
        encoded = space.encode(values)
        assert encoded is not None
        assert space.suggest(FixedTrial(encoded)) == values
        assert all(space.distribution(name) for name in encoded)


discrete = st.one_of(
    st.builds(lambda low, width: {"low": low, "high": low + width}, st.integers(1, 9), st.integers(0, 2)),
    st.integers(1, 3).map(lambda n: {"choices": [1, "two words", [3, None], {"four": "it's"}][:n]}),
    st.integers(0, 2).map(lambda n: {"low": 0.1, "high": 0.1 + 0.2 * n, "step": 0.2}),
)
KEYS = ("model.dropout", "trainer.patience", "data.limit", "loss.label_smoothing")


@st.composite
def conditional_trees(draw: st.DrawFn) -> dict[str, Any]:
    """Trees of at most five keys, each under a condition on the one before, or under none."""
    tree: dict[str, Any] = {
        "model.filters": {"length": {"low": 0, "high": draw(st.integers(0, 2))}, "each": draw(discrete)},
        "model.kernel_size": {"length": "model.filters", "each": {"choices": [3, 5]}},
    }
    before = "model.kernel_size"
    for key in draw(st.lists(st.sampled_from(KEYS), unique=True, max_size=3)):
        condition = {before: draw(st.sampled_from([1, "two words", [[3, 3], 1, 2], [[]], 0.1]))}
        tree[key] = draw(discrete) | draw(st.sampled_from([{}, {"when": condition}]))
        before = key
    return tree


def tried(space: Space) -> list[dict[str, Any]]:
    """Every point, as Optuna finds them."""
    with warnings.catch_warnings(action="ignore"):  # it is experimental
        study = optuna.create_study(sampler=optuna.samplers.BruteForceSampler(seed=0))
    found: list[dict[str, Any]] = []

    def objective(trial: optuna.Trial) -> float:
        found.append(space.suggest(trial))
        return 0.0

    study.optimize(objective)
    return found


@settings(max_examples=50)
@given(conditional_trees(), st.integers(0, 2**16))
def test_all_points_are_counted_and_each_is_encoded(tree: Mapping[str, Any], seed: int) -> None:
    space = Space(tree, BASE)
    found = list(space.grid(1000))
    if len(found) < 30:
        assert sorted(map(repr, found)) == sorted(map(repr, tried(space)))
    assert space.points(len(found)) == len(found)
    assert space.points(len(found) - 1) is None
    assert all(values in found for values in draws(space, 5, seed))
    for values in found[:20]:
        encoded = space.encode(values)
        assert encoded is not None
        assert space.suggest(FixedTrial(encoded)) == values
        assert space.partial(values) == encoded
        for key, leaf in tree.items():
            for on, allowed in leaf.get("when", {}).items():
                allowed = allowed if isinstance(allowed, list) else [allowed]
                assert (key in values) == (values.get(on, BASE[on]) in allowed)


def test_dotted_names_and_trees_are_one_tree() -> None:
    leaf = {"low": 0.1, "high": 0.2}
    tree = {"data.augmentation.shift": leaf, "data": {"augmentation": {"rotation": leaf}}, "model.dropout": leaf}
    assert set(Space(tree, BASE).keys) == {"data.augmentation.shift", "data.augmentation.rotation", "model.dropout"}


@pytest.mark.parametrize("first", ["optimizer", "optimizer.weight_decay"])
def test_the_order_of_the_leaves_does_not_matter(first: str) -> None:
    """A condition on a key of a group that is drawn, too, below it or above it."""
    leaves: dict[str, Any] = {
        "optimizer.weight_decay": {"choices": [0.0, 0.001]},
        "optimizer": {"_group_": ["adam", "sgd"]},
        "model.dropout": {"low": 0.0, "high": 0.5, "when": {"optimizer.weight_decay": 0.0}},
    }
    space = Space({first: leaves.pop(first), **leaves}, BASE)
    assert space.keys == ["optimizer", "optimizer.weight_decay", "model.dropout"]
    for option in ("adam", "sgd"):
        wanted = {"optimizer": option, "optimizer.weight_decay": 0.0, "model.dropout": 0.25}
        assert space.suggest(FixedTrial(wanted)) == wanted


@pytest.mark.parametrize(
    ("override", "largest"),
    [
        ("~sweep.space.trainer", 10),
        ("sweep.space.trainer.max_epochs.high=11", 11),
        ("+sweep.space.trainer.max_epochs.choices=[2,4]", 4),
        ("+sweep.space.trainer.max_epochs={choices: [2,4], when: {optimizer: sgd}}", 10),
    ],
)
def test_the_largest_value_that_a_trial_can_have(override: str, largest: int) -> None:
    assert default(override).largest("trainer.max_epochs") == largest
