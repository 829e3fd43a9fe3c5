"""What a study tries first: entries in each form, each point once, and what makes them recognisable later."""

from typing import Any

import pytest

from mnist_sweep.config.command import CommandLine
from mnist_sweep.errors import RequestError
from mnist_sweep.sweep import initial_trials
from mnist_sweep.sweep.space import Space
from mnist_sweep.sweep.study import BASELINE, IDENTITY

SPACE = "++sweep.space={model: {pool: {choices: [max, avg]}, dropout: {low: 0.0, high: 0.5}}}"
SWEEP = CommandLine.of(["+sweep=optuna", "sweep/space=empty", SPACE])


def first(values: dict[str, Any] | None = None, precision: int | str = 32) -> list[initial_trials.Initial]:
    """What the study of a small space tries first."""
    command = SWEEP.with_(values or {})
    assert command.config.sweep is not None
    common = command.without("sweep").with_({"trainer.precision": precision})
    return initial_trials.first(command.config.sweep, Space.of(command), common)


def test_without_entries_the_configs_own_values_are_tried() -> None:
    [(own, attributes)] = first()
    assert own == {"model.pool": "max", "model.dropout": 0.25}
    assert attributes == {BASELINE: True, IDENTITY: attributes[IDENTITY]}


def test_an_entry_is_a_text_a_list_or_a_mapping_and_a_point_is_tried_once() -> None:
    texts = ["model.pool=avg model.dropout=0.1", "model.pool='avg'", "seed=0"]
    found = first({"sweep.enqueue": [*texts, ["model.dropout=0.2"], {"model.dropout": 0.3}, "model.pool='avg'"]})
    assert [(drawn["model.pool"], drawn["model.dropout"], attributes["enqueued"]) for drawn, attributes in found] == [
        ("avg", 0.1, 0), ("avg", 0.25, 1), ("max", 0.25, 2), ("max", 0.2, 3), ("max", 0.3, 4),
    ]  # fmt: skip
    assert [BASELINE in attributes for _, attributes in found] == [False, False, True, False, False]


@pytest.mark.parametrize(("bound", "tried"), [(9, 0), (1e6, 1)])
def test_own_values_that_break_a_constraint_are_not_tried(bound: float, tried: int) -> None:
    assert len(first({"sweep.constraints": {"parameters": {"max": bound}}})) == tried


def test_the_identity_is_what_would_be_trained_on_every_machine() -> None:
    def identity(*arguments: Any) -> str:
        return str(first(*arguments)[0][1][IDENTITY])

    assert identity() == identity({}, "bf16")
    assert identity() != identity({"model.hidden": [32]})


@pytest.mark.parametrize(
    ("entry", "refusal"),
    [
        ("model.dropout=0.7", "not within sweep.space; allowed: values that it can propose for model.dropout, model.p"),
        ("model.activation=tanh", "model.activation is not searched; allowed: model.dropout, model.pool"),
        ("model.dropuot=0.1", "sweep.enqueue[0]='model.dropuot=0.1': model.dropuot=0.1: unknown key; the nearest"),
        ('model.pool="max', "allowed: overrides such as optimizer.lr=0.1"),
    ],
)
def test_an_entry_that_does_not_fit_is_refused_in_one_line(entry: str, refusal: str) -> None:
    with pytest.raises(RequestError) as caught:
        first({"sweep.enqueue": [entry]})
    assert refusal in str(caught.value)
    assert "\n" not in str(caught.value)
