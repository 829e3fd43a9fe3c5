"""The search space: what it proposes, and that every proposal composes."""

from collections.abc import Mapping
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mnist_sweep.config.command import compose
from mnist_sweep.config.overrides import override
from mnist_sweep.errors import RequestError
from mnist_sweep.sweep.leaves import Walk
from mnist_sweep.sweep.space import Space

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


@pytest.mark.untraced
def test_every_proposal_of_the_default_space_composes_as_proposed() -> None:
    for values in proposals(default(), 40):
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


@pytest.mark.untraced
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
    drawn = proposals(space, 3, seed)
    config = compose([override("model.pool_size", 1), *(override(key, item) for key, item in drawn[0].items())])
    assert {key: config.parameters()[key] for key in drawn[0]} == drawn[0]
    for values in drawn:
        parameters = space.encode(values)
        assert parameters is not None
        assert space.suggest(optuna.trial.FixedTrial(parameters)) == values


def test_the_keys_of_another_option_are_not_the_bases() -> None:
    tree = {
        "optimizer": {"_group_": ["adam", "sgd"]},
        "model": {"dropout": {"choices": [0.1, 0.2], "when": {"optimizer.lr": BASE["optimizer.lr"]}}},
    }
    for values in proposals(Space(tree, BASE), 20):
        assert ("model.dropout" in values) == (values["optimizer"] == BASE["optimizer"])


discrete = st.one_of(
    st.tuples(st.integers(1, 9), st.integers(0, 2)).map(lambda t: {"low": t[0], "high": t[0] + t[1]}),
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


@pytest.mark.untraced
@settings(deadline=None, max_examples=60)
@given(conditional_trees(), st.integers(0, 2**16))
def test_all_points_are_counted_and_each_is_encoded(tree: dict[str, Any], seed: int) -> None:
    space = Space(tree, BASE)
    found, path = [], list[int]()
    while True:
        walk = Walk(path)
        found.append(space.suggest(walk))
        path = walk.next()
        if not path:
            break
    assert len({repr(sorted(values.items())) for values in found}) == len(found)
    assert space.points(1_000_000) == len(found)
    assert space.points(len(found)) in (None, len(found))
    assert all(values in found for values in proposals(space, 5, seed))
    for values in found[:20]:
        parameters = space.encode(values)
        assert parameters is not None
        assert space.suggest(optuna.trial.FixedTrial(parameters)) == values
        assert space.partial(values) == parameters
        for key, spec in tree.items():
            for on, allowed in spec.get("when", {}).items():
                known = values.get(on, BASE.get(on))
                assert (key in values) == (known in (allowed if isinstance(allowed, list) else [allowed]))


def test_part_of_another_studys_values() -> None:
    space = default("sweep.space.model.dropout.high=0.2", "optimizer=sgd")
    taken = space.partial({"model.dropout": 0.5, "optimizer.momentum": 0.6, "model.filters": [16, 32], "gone": 1})
    assert taken == {
        "model.filters.length": 2, "model.filters[0]": 16, "model.filters[1]": 32, "optimizer.momentum": 0.6,
    }  # fmt: skip


def test_null_and_parts_of_a_mapping_may_be_drawn() -> None:
    space = default(
        "+sweep.space.data.limit={choices: [null, 500]}", "+sweep.space.data.augmentation={choices: [{shift: 0.1}]}"
    )
    assert {values["data.limit"] for values in proposals(space, 20)} == {None, 500}


def test_a_space_without_end_is_not_counted() -> None:
    assert default().points(10) is None
    assert "optimizer.lr" in default().continuous


def test_the_same_seed_proposes_the_same() -> None:
    assert proposals(default(), 5) == proposals(default(), 5)
    assert proposals(default(), 5) != proposals(default(), 5, seed=1)


def test_what_is_set_as_a_mapping_is_not_searched() -> None:
    def fixed(space: str, *items: str) -> list[str]:
        request = ["+sweep=optuna", "sweep/space=empty", f"++sweep.space={space}", *items]
        return Space.of(compose(request), request).fixed

    rate = "{optimizer: {_group_: [adam, sgd], lr: {low: 0.1, high: 0.2}}, model.pool: {choices: [max, avg]}}"
    assert fixed(rate, "optimizer={lr: 0.1}") == ["optimizer.lr"]
    assert fixed(rate, "optimizer=sgd", "optimizer.lr=0.1") == ["optimizer", "optimizer.lr"]
    turned = "{data.augmentation: {choices: [{rotation: 5}, {rotation: 9}]}, model.pool: {choices: [max, avg]}}"
    assert fixed(turned, "data.augmentation={rotation: 1.0}") == ["data.augmentation"]


def test_an_empty_mapping_for_the_space_is_no_empty_space() -> None:
    with pytest.raises(RequestError, match=r"sweep\.space=\{\}: adds nothing .* allowed: sweep/space=empty"):
        default("sweep.space={}")


def test_dotted_names_and_trees_are_one_tree() -> None:
    leaf = {"low": 0.1, "high": 0.2}
    tree = {"data.augmentation.shift": leaf, "data": {"augmentation": {"rotation": leaf}}, "model.dropout": leaf}
    keys = {dimension.key for dimension in Space(tree, BASE).dimensions}
    assert keys == {"data.augmentation.shift", "data.augmentation.rotation", "model.dropout"}
    with pytest.raises(RequestError, match=r"sweep\.space\.model\.pool: model is there twice"):
        Space({"model": 3, "model.pool": {"choices": ["max", "avg"]}}, BASE)


@pytest.mark.parametrize("first", ["optimizer", "optimizer.weight_decay"])
def test_the_order_of_the_leaves_does_not_matter(first: str) -> None:
    """A condition on a key of a group that is drawn, too, below it or above it."""
    leaves: dict[str, Any] = {
        "optimizer.weight_decay": {"choices": [0.0, 0.001]},
        "optimizer": {"_group_": ["adam", "sgd"]},
        "model.dropout": {"low": 0.0, "high": 0.5, "when": {"optimizer.weight_decay": 0.0}},
    }
    space = Space({first: leaves.pop(first), **leaves}, BASE)
    keys = [dimension.key for dimension in space.dimensions]
    assert keys.index("optimizer") < keys.index("optimizer.weight_decay") < keys.index("model.dropout")
    for option in ("adam", "sgd"):
        wanted = {"optimizer": option, "optimizer.weight_decay": 0.0, "model.dropout": 0.25}
        drawn = space.suggest(optuna.trial.FixedTrial(wanted))
        assert drawn == wanted
