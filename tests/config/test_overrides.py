"""Values written as overrides come back from Hydra as they were."""

import math
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from mnist_sweep.config import overrides
from mnist_sweep.config.overrides import with_path_quoted

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
@example(math.nan)
def test_a_value_is_read_back_as_written(value: Any) -> None:
    parsed = OverridesParser.create().parse_override(overrides.override("model.key", value))
    assert parsed.key_or_group == "model.key"
    found = OmegaConf.to_object(OmegaConf.create({"key": parsed.value()}))
    assert repr(found) == repr({"key": value})  # so that types are compared as well


@pytest.mark.parametrize(
    ("item", "key"), [("a.b=1", "a.b"), ("+a.b=1", "a.b"), ("~a.b", "a.b"), ("++a=x=y", "a"), ("opt@a.b=c", "opt")]
)
def test_the_key_of_an_override(item: str, key: str) -> None:
    assert overrides.key_of(item) == key


def test_what_overrides_set_is_known_by_every_dotted_name() -> None:
    found = overrides.assigned(["a.b=1", "+c={d: [1, 2], e: {f: x}}", "~g"])
    assert found == {
        "a.b": 1, "c": {"d": [1, 2], "e": {"f": "x"}}, "c.d": [1, 2], "c.e": {"f": "x"}, "c.e.f": "x", "g": None
    }  # fmt: skip


@pytest.mark.parametrize(
    ("item", "written"),
    [
        ("output=~/x", "output='~/x'"), ("tracking.uri=sqlite:///~/m.db", "tracking.uri='sqlite:///~/m.db'"),
        ("tracking.uri=sqlite:///m.db?timeout=60", "tracking.uri='sqlite:///m.db?timeout=60'"),
        ("sweep.storage=sqlite:///${output}/o.db?timeout=60", "sweep.storage=sqlite:///${output}/o.db?timeout=60"),
        ("tracking.uri=http://127.0.0.1:5000", "tracking.uri=http://127.0.0.1:5000"), ("~experiment", "~experiment"),
        ("output='~/x'", "output='~/x'"), ("seed=0,1", "seed=0,1"), ("--config-dir=~/x", "--config-dir=~/x"),
    ],
)  # fmt: skip
def test_a_path_gets_the_quotes_that_hydra_asks_for(item: str, written: str) -> None:
    assert with_path_quoted(item) == written
