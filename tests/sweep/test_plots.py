"""Optuna's plots of a study in which most trials are pruned."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState

from mnist_sweep.config.sweep_options import Objective
from mnist_sweep.result import Result
from mnist_sweep.sweep import error_analysis as insight
from mnist_sweep.sweep import plots
from mnist_sweep.sweep.study import Study


@pytest.fixture
def study() -> Study:
    """Twelve trials: one complete, one that learned nothing, one failed, the others pruned after their second epoch."""
    made = optuna.create_study(direction="maximize")
    space = {
        "optimizer.lr": FloatDistribution(1e-4, 0.3, log=True),
        "model.kernel_size[0]": CategoricalDistribution((3, 5)),
    }
    for number in range(12):
        first = 0.1 if number == 1 else 0.9 + 0.005 * number
        curve = {1: first, 2: first - 0.001}
        state = {0: TrialState.COMPLETE, 5: TrialState.FAIL}.get(number, TrialState.PRUNED)
        made.add_trial(
            optuna.trial.create_trial(
                state=state, value=curve[2] if state != TrialState.FAIL else None, distributions=space,
                params={"optimizer.lr": 10 ** (-4 + 0.2 * number), "model.kernel_size[0]": 3 + 2 * (number % 2)},
                intermediate_values=curve,
            )
        )  # fmt: skip
    return Study(made, cast(Any, None), [Objective(metric="val/accuracy", direction="maximize")], {})


def test_pruned_trials_count_with_the_best_value_that_they_reached(study: Study) -> None:
    seen = plots.with_pruned(study)
    assert [trial.number for trial in seen.trials] == list(range(12))
    assert [trial.state == TrialState.COMPLETE for trial in seen.trials] == [number != 5 for number in range(12)]
    assert seen.trials[11].value == 0.9 + 0.005 * 11  # of the first epoch, which was the better one
    assert seen.trials[0].value == study.trials()[0].value  # what a complete trial was judged by stays
    assert study.trials()[11].state == TrialState.PRUNED


def test_each_plot_is_drawn_and_has_whole_names(study: Study) -> None:
    names = {"history", "importances", "parallel_coordinates", "slices_1", "learning_curves", "timeline"}
    interactive, pictures = plots.interactive(study), plots.pictures(study)
    assert set(interactive) == set(pictures) == names
    assert all(content.startswith(b"\x89PNG") and len(content) > 5_000 for content in pictures.values())
    labels = interactive["parallel_coordinates"].layout.xaxis.ticktext
    assert list(labels) == ["val/accuracy", "model.kernel_size[0]", "optimizer.lr"]
    assert len(interactive["slices_1"].data[0].x) == 11
    low, high = interactive["learning_curves"].layout.yaxis.range
    assert 0.8 < low < 0.899  # the one that learned nothing is outside
    assert 0.955 < high < 1


def test_several_objectives_importance_is_for_being_good_in_the_first() -> None:
    """One key tells the best trials from the others, the other one the worst."""
    made = optuna.create_study(directions=["maximize", "minimize"])
    keys = ("decides_the_best", "decides_the_worst")
    space: dict[str, BaseDistribution] = dict.fromkeys(keys, FloatDistribution(0.0, 1.0))
    for number in range(60):
        place = {key: (number * step % 60) / 60 for key, step in zip(keys, (7, 13), strict=True)}
        value = 0.9 + 0.09 * place[keys[0]] ** 4 - 0.5 * (place[keys[1]] > 0.9)
        made.add_trial(optuna.trial.create_trial(values=[value, 1.0], distributions=space, params=place))
    goals = [
        Objective(metric="val/accuracy", direction="maximize"),
        Objective(metric="parameters", direction="minimize"),
    ]
    drawn = plots.interactive(Study(made, cast(Any, None), goals, {}))["importances"].data[0]
    found = dict(zip(drawn.y, drawn.x, strict=True))
    assert found["decides_the_best"] > 0.8


@given(st.floats(-6, 3), st.floats(0.05, 6))
def test_a_logarithmic_axis_has_few_round_marks(power: float, decades: float) -> None:
    low, high = 10**power, 10 ** (power + decades)
    ticks = plots.log_ticks(low, high)
    assert ticks == sorted(ticks)
    assert all(low <= tick <= high for tick in ticks)
    assert len(ticks) <= 7
    if decades >= 0.7:
        assert len(ticks) >= 2


def test_a_class_that_all_trials_recognise_alike_has_no_importances(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = iter(range(12))
    alike = [True]

    def found(_: Path) -> Any:
        confusion = np.diag([50] * 10)
        if not alike[0]:
            confusion[4, 4:6] = (50 - (missed := 3 * next(numbers)), missed)
        return SimpleNamespace(confusion=confusion.tolist())

    trials = [trial for trial in study.study.trials if trial.state != TrialState.FAIL]
    for trial in trials:
        trial.user_attrs["result"] = {"folder": f"runs/{trial.number}"}
    monkeypatch.setattr(study, "trials", lambda *_: trials)
    monkeypatch.setattr(Result, "found", found)
    assert insight.class_importances(study, Path("runs")) is None
    alike[0] = False
    shares, names = insight.class_importances(study, Path("runs")) or (np.zeros(0), [])
    assert sorted(names) == ["model.kernel_size[0]", "optimizer.lr"]
    assert shares.sum(axis=0) == pytest.approx([0, 0, 0, 0, 1, 0, 0, 0, 0, 0])
