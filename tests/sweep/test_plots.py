"""Optuna's plots of a study in which most trials are pruned."""

from pathlib import Path
from unittest.mock import Mock

import pytest
from optuna import visualization
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState

from mnist_sweep.sweep import plots
from mnist_sweep.sweep.study import Study
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


def test_each_plot_is_drawn_and_has_whole_names(
    study: Study, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One that fails leaves the others."""
    monkeypatch.setattr(visualization, "plot_timeline", Mock(side_effect=ValueError("no\nplot")))
    drawn = plots.draw(study)
    assert list(drawn) == ["history", "importances", "parallel_coordinates", "slices_1", "learning_curves"]
    assert "the plot timeline could not be drawn (ValueError: no plot)" in caplog.text
    labels = drawn["parallel_coordinates"].layout.xaxis.ticktext
    assert list(labels) == ["val/accuracy", "model.kernel_size[0]", "optimizer.lr"]
    assert len(drawn["slices_1"].data[0].x) == 11
    assert drawn["learning_curves"].layout.yaxis.title.text == "val/accuracy"


def test_several_objectives_importance_is_for_being_good_in_the_first(tmp_path: Path) -> None:
    """One key tells the best trials from the others, the other one the worst."""
    keys = ("decides_the_best", "decides_the_worst")
    space = dict.fromkeys(keys, FloatDistribution(0.0, 1.0))
    trials = []
    for number in range(60):
        place = {key: (number * step % 60) / 60 for key, step in zip(keys, (7, 13), strict=True)}
        value = 0.9 + 0.09 * place[keys[0]] ** 4 - 0.5 * (place[keys[1]] > 0.9)
        trials.append(studies.trial_of(tmp_path, number, [value, 1.0], params=place, space=space))
    drawn = plots.draw(studies.study_of(trials, "val/accuracy", "parameters"))
    assert "pareto_front" in drawn
    importances = drawn["importances"].data[0]
    found = dict(zip(importances.y, importances.x, strict=True))
    assert found["decides_the_best"] > 0.8
