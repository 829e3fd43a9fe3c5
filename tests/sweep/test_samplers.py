"""Optuna's samplers and pruners, as this project builds them."""

import inspect
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mnist_sweep.config.command import compose
from mnist_sweep.config.sweep_options import Sweep
from mnist_sweep.errors import RequestError
from mnist_sweep.sweep import samplers as methods
from mnist_sweep.sweep.space import Space

PLAIN = [
    "sweep/space=empty",
    "++sweep.space={model: {dropout: {low: 0.0, high: 0.6}, batch_norm: {choices: [true, false]}}, "
    "optimizer: {lr: {low: 0.0001, high: 0.3, log: true}}, trainer: {max_epochs: {low: 1, high: 4}}}",
]
GRID = [
    "sweep/space=empty",
    "++sweep.space={model: {pool: {choices: [max, avg]}}, trainer: {max_epochs: {low: 1, high: 3}}}",
]
SPACES = {"tpe": [], "random": [], "nsga2": [], "gp": PLAIN, "cmaes": PLAIN, "qmc": PLAIN, "grid": GRID}


def parts(*items: str) -> tuple[Sweep, Space]:
    given = ["+sweep=optuna", *items]
    config = compose(given)
    assert config.sweep is not None
    return config.sweep, Space.of(config, given)


def told(settings: Sweep, space: Space, count: int, seed: int = 0, handed_on: bool = False) -> list[dict[str, Any]]:
    """The parameters of so many trials, each told a value that follows from them."""
    study = optuna.create_study(direction="maximize")
    for number in range(count):
        study.sampler = methods.sampler(settings, space, seed, number, study.sampler if handed_on else None)
        trial = study.ask()
        values = space.suggest(trial)
        study.tell(trial, -abs(np.log10(values.get("optimizer.lr", 0.003)) + 2.5))
    return [trial.params for trial in study.trials]


@pytest.mark.untraced
@pytest.mark.parametrize("name", SPACES)
def test_proposals_follow_from_seed_number_and_history(name: str) -> None:
    settings, space = parts(*SPACES[name], f"sweep/sampler={name}")
    assert told(settings, space, 12) == told(settings, space, 12)
    if name != "grid":
        assert told(settings, space, 12) != told(settings, space, 12, seed=1)


def test_a_key_that_no_trial_draws_stands_in_no_samplers_way() -> None:
    momentum = "{low: 0.5, high: 0.9, when: {optimizer: sgd}}"
    leaves = f"{{_group_: [adam, sgd], lr: {{choices: [0.1, 0.01]}}, momentum: {momentum}}}"
    items = ["sweep/space=empty", f"+sweep.space.optimizer={leaves}", "optimizer=adam"]
    settings, space = parts("sweep/sampler=grid", *items)
    assert methods.total(settings, space) == 2
    settings, space = parts("sweep/sampler=cmaes", *items)
    with pytest.raises(RequestError, match="at least two keys that are numbers"):
        methods.check(settings, space, 1)


@pytest.mark.untraced
@pytest.mark.parametrize("items", [[], PLAIN], ids=["conditional", "plain"])
def test_proposals_are_those_of_optunas_own_estimator(items: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from optuna.samplers._tpe import _erf, _truncnorm
    from optuna.samplers._tpe import sampler as tpe

    settings, space = parts(*items)
    quick = told(settings, space, 60, handed_on=True)
    assert quick == told(settings, space, 60)
    # from here on all is as Optuna has it
    slow = np.frompyfunc(_truncnorm._log_ndtr_single, 1, 1)
    monkeypatch.setattr(methods, "QuickTPE", lambda *_, **options: optuna.samplers.TPESampler(**options))
    monkeypatch.setattr(tpe, "_split_trials", inspect.getclosurevars(tpe._split_trials).nonlocals["split"])
    monkeypatch.setattr(_truncnorm, "_log_ndtr", lambda points: np.asarray(slow(points), dtype=float))
    monkeypatch.setattr(_truncnorm, "erf", _erf.erf)
    for ours, theirs in zip(quick, told(settings, space, 60), strict=True):
        assert list(ours) == list(theirs)
        for key, value in theirs.items():
            assert ours[key] == (pytest.approx(value, rel=1e-9) if isinstance(value, float) else value)


@pytest.mark.untraced
@pytest.mark.parametrize("name", ["tpe", "gp", "cmaes"])
def test_samplers_that_learn_come_closer(name: str) -> None:
    settings, space = parts(*PLAIN, f"sweep/sampler={name}", "sweep.sampler.startup_trials=8")
    rates = [params["optimizer.lr"] for params in told(settings, space, 40)]
    distance = [abs(np.log10(rate) + 2.5) for rate in rates]
    assert np.median(distance[-15:]) < np.median(distance[:8])


def test_a_grid_visits_every_point_once() -> None:
    settings, space = parts(*GRID, "sweep/sampler=grid")
    assert space.points(100) == methods.total(settings, space) == 6
    assert len({tuple(params.items()) for params in told(settings, space, 6)}) == 6


def test_a_sequence_is_more_even_than_chance() -> None:
    settings, space = parts(*PLAIN, "sweep/sampler=qmc")
    drops = sorted(params["model.dropout"] / 0.6 for params in told(settings, space, 65)[1:])
    assert max(abs(drop - (index + 0.5) / 64) for index, drop in enumerate(drops)) < 1 / 32


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(-500, 500), min_size=1, max_size=20))
def test_the_quicker_normal_distribution_is_the_same(points: list[float]) -> None:
    from optuna.samplers._tpe import _truncnorm
    from scipy.special import log_ndtr

    quick = log_ndtr(np.array(points))
    slow = np.array([_truncnorm._log_ndtr_single(point) for point in points])
    assert np.allclose(quick, slow, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("items", "poor", "good"),
    [
        (["median", "sweep.pruner.startup_trials=2"], 0.2, 0.8),
        (["percentile", "sweep.pruner.startup_trials=2"], 0.45, 0.8),
        (["asha"], 0.3, 0.8),
        (["hyperband"], 0.1, 0.8),
        (["threshold", "sweep.pruner.lower=0.5"], 0.3, 0.8),
    ],
)
def test_a_pruner_stops_the_poor_and_keeps_the_good(items: list[str], poor: float, good: float) -> None:
    settings, _ = parts(f"sweep/pruner={items[0]}", *items[1:])
    study = optuna.create_study(direction="maximize", pruner=methods.pruner(settings, 9))
    stopped: dict[float, list[bool]] = {poor: [], good: []}
    for level in [0.4, 0.5, 0.6, 0.7, 0.75] * 3 + [poor, good] * 6:
        trial, pruned = study.ask(), False
        for epoch in range(1, 10):
            trial.report(level + epoch / 1000 + trial.number / 1e6, epoch)
            if pruned := trial.should_prune():
                break
        study.tell(trial, None if pruned else level, state=optuna.trial.TrialState.PRUNED if pruned else None)
        stopped.setdefault(level, []).append(pruned)
    assert sum(stopped[poor]) > 3
    assert sum(stopped[good]) < 3


def test_patience_counts_epochs_without_an_improvement() -> None:
    settings, _ = parts("sweep/pruner=patient", "sweep.pruner.patience=2")
    study = optuna.create_study(direction="maximize", pruner=methods.pruner(settings, 9))
    trial = study.ask()
    heard = []
    for epoch, value in enumerate([0.5, 0.6, 0.55, 0.58, 0.59, 0.57], start=1):
        trial.report(value, epoch)
        heard.append(trial.should_prune())
    assert heard == [False, False, False, False, True, True]
