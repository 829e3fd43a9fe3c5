"""Values written as overrides come back from Hydra as they were."""

import math
import shlex
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from mnist_sweep.config import overrides

texts = st.text(st.characters(exclude_categories=["C"]), max_size=12).filter(lambda text: text != "???")  # no value
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3), max_leaves=6)


@given(values)
@example("a 'quoted' word\\")
@example("\\'")
@example("null")
@example("TRUE")
@example("1e-3")
@example("${seed}")
@example("a\\${seed}")
@example("\\'\\\\${seed}\\")
@example("")
@example(1e-7)
@example(float("-inf"))
def test_read_back_as_written(value: Any) -> None:
    parsed = OverridesParser.create().parse_override(overrides.override("model.key", value))
    assert parsed.key_or_group == "model.key"
    found = OmegaConf.to_object(OmegaConf.create({"key": parsed.value()}))
    assert repr(found) == repr({"key": value})  # so that types are compared as well


def test_not_a_number_is_written_too() -> None:
    found: Any = OverridesParser.create().parse_override(overrides.override("x", math.nan)).value()
    assert math.isnan(found)


@pytest.mark.parametrize(
    ("item", "key"), [("a.b=1", "a.b"), ("+a.b=1", "a.b"), ("~a.b", "a.b"), ("++a=x=y", "a"), ("opt@a.b=c", "opt")]
)
def test_key(item: str, key: str) -> None:
    assert overrides.key_of(item) == key


def test_a_new_override_takes_the_place_of_the_old() -> None:
    assert overrides.replaced(["a=1", "b=2", "+a=3"], ["a=4"]) == ["b=2", "a=4"]


def test_without_takes_what_lies_below_too() -> None:
    given_ = ["+sweep=optuna", "sweep.trials=3", "sweep/sampler=random", "seed=1", "name=x"]
    assert overrides.without(given_, "sweep", "name") == ["seed=1"]


def test_command_survives_a_shell() -> None:
    items = ["model.filters=[16,32]", "data.root='/a b/c'"]
    words = shlex.split(overrides.command(items, "/my conf"))
    assert words == ["python", "-m", "mnist_sweep", "--config-dir", "/my conf", *items]


def test_an_option_of_a_group_leaves_the_values_within_the_group() -> None:
    given = ["optimizer={lr: 0.02}", "data={limit: 300}", "optimizer=adam", "model.filters=[8]"]
    assert overrides.replaced(given, ["optimizer=sgd", "data=mnist5k", "model.filters=[4]"]) == [
        "optimizer={lr: 0.02}", "data={limit: 300}", "optimizer=sgd", "data=mnist5k", "model.filters=[4]"
    ]  # fmt: skip
    assert overrides.replaced(given, ["optimizer={lr: 0.1}"])[-2:] == ["model.filters=[8]", "optimizer={lr: 0.1}"]
