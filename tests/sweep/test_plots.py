"""Optuna's plots of a study in which most trials are pruned."""

from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState
from plotly.colors import unlabel_rgb

from mnist_sweep.config.sweep_options import Bound, Objective
from mnist_sweep.sweep import plots
from mnist_sweep.sweep.axes import ticks
from mnist_sweep.sweep.study import Study
from mnist_sweep.tracking.figures import ORANGE
from tests.sweep import studies

SPACE: dict[str, BaseDistribution] = {**studies.LR, "model.kernel_size[0]": CategoricalDistribution((3, 5))}


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """Twelve trials: one complete, one without a value, the others pruned."""
    trials = []
    for number in range(12):
        first = 0.9 + 0.005 * number
        curve = [] if number == 5 else [first, first - 0.001]
        params = {"optimizer.lr": 10 ** (-4 + 0.2 * number), "model.kernel_size[0]": 3 + 2 * (number % 2)}
        values = curve[1:] if number == 0 else []
        trials.append(studies.trial_of(tmp_path, number, values, curve, params=params, space=SPACE))
    return studies.study_of(trials)


def test_pruned_trials_count_with_the_best_value_that_they_reached(study: Study) -> None:
    seen = plots.with_pruned(study)
    assert [trial.number for trial in seen.trials] == list(range(12))
    assert [trial.state == TrialState.COMPLETE for trial in seen.trials] == [number != 5 for number in range(12)]
    assert seen.trials[11].value == 0.9 + 0.005 * 11  # of the first epoch, which was the better one
    assert seen.trials[0].value == study.trials()[0].value  # what a complete trial was judged by stays
    assert study.trials()[11].state == TrialState.PRUNED
    assert [trial.number for trial in plots.pruned(study)] == [11, 10, 9, 8, 7, 6, 4, 3, 2, 1]


def test_a_pruned_trial_is_drawn_with_the_best_value_that_it_reached(tmp_path: Path) -> None:
    """Optuna keeps the last one as the value of a trial that it is told to have pruned."""
    trial = studies.trial_of(tmp_path, 0, curve=[0.9, 0.5])
    trial.values = [0.5]
    (mark,) = plots.draw(studies.study_of([trial]))["slices_1"].data
    assert (mark.name, mark.y) == ("pruned", (0.9,))


def test_each_plot_is_drawn_and_has_whole_names(
    study: Study, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One that fails leaves the others; of twelve trials there are no importances."""
    monkeypatch.setattr(plots, "_durations", Mock(side_effect=ValueError("no\nplot")))
    drawn = plots.draw(study)
    assert list(drawn) == ["history", "parallel_coordinates", "slices_1", "slices_2", "learning_curves"]
    assert "the plot durations could not be drawn (ValueError: no plot)" in caplog.text
    labels = [label.split("  ")[0] for label in drawn["parallel_coordinates"].layout.xaxis.ticktext]
    assert labels == ["<b>val/accuracy</b>", "model.kernel_size[0]", "optimizer.lr"]
    assert drawn["learning_curves"].layout.yaxis.title.text == "val/accuracy"


def marks(figure: Any) -> dict[str, int]:
    """The number of marks by the name of what they stand for."""
    return {trace.name: len(trace.x) for trace in figure.data}


def test_pruned_and_complete_trials_the_winner_and_broken_constraints_are_told_apart(tmp_path: Path) -> None:
    trials = [studies.trial_of(tmp_path, number, [0.8 + number / 100], [0.5], parameters=size)
              for number, size in enumerate((1000, 1000, 90_000))]  # fmt: skip
    study = studies.study_of([*trials, studies.trial_of(tmp_path, 3, curve=[0.4, 0.3])])
    study.constraints = {"parameters": Bound(max=50_000)}
    drawn = plots.draw(study, winner=1)
    told = {"pruned": 1, "broke a constraint": 1, "complete": 1, "winner": 1}
    assert marks(drawn["slices_1"]) == told
    assert marks(drawn["history"]) == told | {"best so far": 2}
    assert marks(drawn["durations"]) == told
    lines = {trace.name: trace.line.color for trace in drawn["parallel_coordinates"].data}
    assert lines["trial 1"] == ORANGE
    shades = [sum(unlabel_rgb(lines[f"trial {number}"])) for number in (3, 0, 2)]
    assert shades == sorted(shades, reverse=True)  # the better, the darker
    assert shades[0] < 3 * 220  # the worst can be told from the white page
    study.goals = [Objective(metric="val/loss", direction="minimize")]
    lines = {trace.name: trace.line.color for trace in plots.draw(study)["parallel_coordinates"].data}
    assert sum(unlabel_rgb(lines["trial 2"])) > sum(unlabel_rgb(lines["trial 0"]))


@pytest.mark.parametrize(("values", "errors"), [((0.951, 0.99, 0.995), True), ((0.5, 0.9, 0.99), False)])
def test_what_is_above_95_percent_is_drawn_as_an_error(tmp_path: Path, values: list[float], errors: bool) -> None:
    study = studies.study_of([studies.trial_of(tmp_path, number, [value]) for number, value in enumerate(values)])
    for name in ("history", "slices_1"):
        figure = plots.draw(study)[name]
        assert figure.layout.yaxis.type == ("log" if errors else None)
        assert figure.layout.yaxis.title.text == ("error: 1 − val/accuracy" if errors else "val/accuracy")
        assert figure.data[0].y == pytest.approx([1 - value if errors else value for value in values])


@given(st.floats(1e-6, 1e6), st.floats(1.0, 1e6))
def test_a_logarithmic_axis_has_some_ticks_all_of_them_within_it(low: float, factor: float) -> None:
    found = ticks(low, low * factor)
    assert 2 <= len(found) <= 16
    assert found == sorted(found)
    assert all(low <= tick <= low * factor for tick in found)


def test_the_front_is_joined_and_dominated_trials_are_grey(tmp_path: Path) -> None:
    values = [(0.9, 5000.0), (0.8, 1000.0), (0.7, 2000.0), (0.95, 90_000.0)]
    trials = [studies.trial_of(tmp_path, number, each, parameters=int(each[1])) for number, each in enumerate(values)]
    study = studies.study_of(trials, "val/accuracy", "parameters")
    study.constraints = {"parameters": Bound(max=50_000)}
    front = plots.draw(study, winner=0)["pareto_front"]
    assert marks(front) == {"dominated": 1, "broke a constraint": 1, "Pareto-optimal": 2, "winner": 1}
    joined = front.data[2]
    assert (joined.mode, joined.x, joined.y) == ("lines+markers", (1000.0, 5000.0), (0.8, 0.9))
    assert joined.line.shape == "hv"  # until 5,000 parameters nothing is better than 0.8
    assert [note.text for note in front.layout.annotations] == ["max 50,000"]
    assert [(shape.x0, shape.line.dash) for shape in front.layout.shapes] == [(50_000, "dash")]


def test_of_three_objectives_the_first_is_drawn_against_each_other_one(tmp_path: Path) -> None:
    """Trial 1 is on the front by the third alone, so that no line joins the front."""
    values = [(0.9, 5000.0, 0.3), (0.8, 6000.0, 0.2), (0.7, 7000.0, 0.4)]
    trials = [studies.trial_of(tmp_path, number, each) for number, each in enumerate(values)]
    drawn = plots.draw(studies.study_of(trials, "val/accuracy", "parameters", "val/loss"))
    for name, index in {"pareto_front": 1, "pareto_front_2": 2}.items():
        front = drawn[name].data[1]
        assert (front.name, front.mode) == ("Pareto-optimal", "markers")
        assert sorted(zip(front.x, front.y, strict=True)) == sorted((each[index], each[0]) for each in values[:2])
    assert drawn["pareto_front_2"].layout.xaxis.title.text == "val/loss"


def test_an_axis_names_what_it_shows(tmp_path: Path) -> None:
    """A choice has its place among all choices, drawn or not; no tick is between integers; the winner is on top."""
    space = {"data.batch_size": CategoricalDistribution((32, 64, 128)), "model.depth": IntDistribution(1, 9)}
    params = [{"data.batch_size": 64, "model.depth": 2}, {"data.batch_size": 128, "model.depth": 2}]
    trials = [studies.trial_of(tmp_path, index, [0.9 - index / 10], params=each, space=space)
              for index, each in enumerate(params)]  # fmt: skip
    drawn = plots.draw(studies.study_of(trials), winner=1)
    parallel = drawn["parallel_coordinates"]
    assert [(line.name, line.y[1]) for line in parallel.data] == [("trial 0", 0.5), ("trial 1", 1.0)]
    assert [*parallel.layout.xaxis.ticktext][1:] == ["data.batch_size  32 64 128", "model.depth  2"]
    assert drawn["slices_2"].layout.xaxis.dtick == 1


def test_several_objectives_importance_is_for_being_good_in_the_first(tmp_path: Path) -> None:
    """One key tells the best trials from the others, the other one the worst."""
    keys = ("decides_the_best", "decides_the_worst")
    space = dict.fromkeys(keys, FloatDistribution(0.0, 1.0))
    trials = []
    for number in range(60):
        place = {key: (number * step % 60) / 60 for key, step in zip(keys, (7, 13), strict=True)}
        value = 0.9 + 0.09 * place[keys[0]] ** 4 - 0.5 * (place[keys[1]] > 0.9)
        also = {"rare": FloatDistribution(0.0, 1.0)} if number % 3 == 0 else {}
        place |= dict.fromkeys(also, number / 60)
        trials.append(studies.trial_of(tmp_path, number, [value, 1.0], params=place, space=space | also))
    drawn = plots.draw(studies.study_of(trials, "val/accuracy", "parameters"))
    assert "pareto_front" in drawn
    importances = drawn["importances"].data[0]
    assert drawn["importances"].layout.xaxis.title.text == "importance, from 60 trials"
    found = dict(zip(importances.y, importances.x, strict=True))
    assert [*found] == ["decides_the_worst (60)", "decides_the_best (60)"]  # not what 20 of 60 drew
    assert found["decides_the_best (60)"] > 0.8
