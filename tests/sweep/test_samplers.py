"""Optuna's samplers and pruners, as this project builds them, and what goes together with what."""

import functools
from typing import Any

import numpy as np
import optuna
import pytest

from mnist_sweep.config.command import CommandLine
from mnist_sweep.config.sweep_options import Sweep
from mnist_sweep.errors import RequestError
from mnist_sweep.sweep import samplers
from mnist_sweep.sweep.samplers_view import SamplersView
from mnist_sweep.sweep.space import Space

optuna.logging.set_verbosity(optuna.logging.ERROR)
PLAIN = [
    "sweep/space=empty",
    "++sweep.space={model: {dropout: {low: 0.0, high: 0.6}, batch_norm: {choices: [true, false]}}, "
    "optimizer: {lr: {low: 0.0001, high: 0.3, log: true}}, trainer: {max_epochs: {low: 1, high: 4}}}",
]
GRID = [
    "sweep/space=empty",
    "++sweep.space={model: {pool: {choices: [max, avg]}}, trainer: {max_epochs: {low: 1, high: 3}}}",
]
SPACES = {"prior": [], "tpe": [], "random": [], "nsga2": [], "gp": PLAIN, "cmaes": PLAIN, "qmc": PLAIN, "grid": GRID}


@functools.cache
def parts(*overrides: str) -> tuple[Sweep, Space]:
    command = CommandLine.of(["+sweep=optuna", *overrides])
    assert command.config.sweep is not None
    return command.config.sweep, Space.of(command)


def told(settings: Sweep, space: Space, count: int, seed: int = 0, **options: Any) -> list[dict[str, Any]]:
    """The parameters of so many trials, each told a value that follows from them: best at a rate of 0.003."""
    study = optuna.create_study(direction="maximize")
    for number in range(count):
        study.sampler = samplers.sampler(settings, space, seed, number, **options)
        trial = study.ask()
        values = space.suggest(trial)
        study.tell(trial, -abs(np.log10(values.get("optimizer.lr", 0.003)) + 2.5))
    return [trial.params for trial in study.trials]


@pytest.mark.parametrize("name", SPACES)
def test_what_is_drawn_follows_from_seed_number_and_history(name: str) -> None:
    settings, space = parts(*SPACES[name], f"sweep/sampler={name}")
    samplers.check(settings, space, 1)
    drawn = told(settings, space, 10)
    assert drawn == told(settings, space, 10)
    assert name == "grid" or drawn[:2] != told(settings, space, 2, seed=1)


@pytest.mark.parametrize("name", ["prior", "tpe", "gp", "cmaes"])
def test_samplers_that_learn_come_closer(name: str) -> None:
    settings, space = parts(*PLAIN, f"sweep/sampler={name}")
    distance = [abs(np.log10(params["optimizer.lr"]) + 2.5) for params in told(settings, space, 24)]
    assert np.median(distance[-8:]) < np.median(distance[:8])


def test_a_range_that_has_grown_is_searched_where_it_is_new() -> None:
    settings, narrow = parts("sweep.space.optimizer.lr.high=0.0002", "sweep/sampler=tpe")
    _, wide = parts("sweep/sampler=tpe")
    view = SamplersView({}, wide)
    study = optuna.create_study(direction="maximize", storage=view)
    for number in range(30):
        space = narrow if number < 12 else wide
        study.sampler = samplers.sampler(settings, space, 0, number)
        trial = study.ask()
        values = space.suggest(trial)
        trial.set_user_attr("values", values)
        study.tell(trial, values["optimizer.lr"])
    assert max(trial.params["optimizer.lr"] for trial in study.trials) > 0.01


def test_impossible_candidates_are_left_to_chance() -> None:
    assert isinstance(samplers.sampler(*parts(), 0, 9, chance=True), optuna.samplers.RandomSampler)
    settings, space = parts(*GRID, "sweep/sampler=grid")
    assert not isinstance(samplers.sampler(settings, space, 0, 9, chance=True), optuna.samplers.RandomSampler)


def test_a_grid_visits_every_point_once() -> None:
    settings, space = parts(*GRID, "sweep/sampler=grid")
    assert space.points(100) == samplers.total(settings, space) == samplers.points(settings, space) == 6
    assert len({tuple(params.items()) for params in told(settings, space, 6)}) == 6


def test_a_sequence_is_more_even_than_chance() -> None:
    settings, space = parts(*PLAIN, "sweep/sampler=qmc")
    drops = sorted(params["model.dropout"] / 0.6 for params in told(settings, space, 65)[1:])
    assert max(abs(drop - (index + 0.5) / 64) for index, drop in enumerate(drops)) < 1 / 32


@pytest.mark.parametrize(
    ("overrides", "objectives", "refusal"),
    [
        (
            ["sweep/sampler=gp"],
            1,
            "pool_size, optimizer.momentum, optimizer.weight_decay are not drawn in every trial; allowed: prior, tpe",
        ),
        ([*PLAIN, "sweep/sampler=cmaes"], 2, "2 objectives; allowed: prior, tpe, random, gp, nsga2, qmc"),
        (
            [*GRID, "sweep/sampler=cmaes"],
            1,
            "sweep/sampler=cmaes: needs at least two keys that are numbers; allowed: prior, tpe",
        ),
        (
            [*PLAIN, "sweep/sampler=grid"],
            1,
            "model.dropout, optimizer.lr need a step, or choices; allowed: prior, tpe, random",
        ),
    ],
)
def test_a_sampler_that_cannot_search_a_space_is_refused(overrides: list[str], objectives: int, refusal: str) -> None:
    with pytest.raises(RequestError) as caught:
        samplers.check(*parts(*overrides), objectives)
    assert refusal in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "objectives", "explained"),
    [
        ([], 2, "2 objectives: nothing is pruned, sweep/pruner=asha compares one"),
        (["sweep/pruner=threshold"], 1, "sweep/pruner=threshold: nothing is pruned without sweep.pruner.lower or"),
        ([*PLAIN, "sweep/sampler=qmc"], 1, "sweep/sampler=qmc: drawn at random, being choices: model.batch_norm"),
        ([*PLAIN, "sweep/sampler=cmaes", "sweep.constraints={parameters: {max: 9}}"], 1, "learns nothing from"),
        ([*GRID, "sweep/sampler=grid"], 1, "the grid has 6 points: as many trials, not 20"),
        ([*GRID, "sweep/sampler=grid", "sweep.trials=4"], 1, "the grid has 6 points; 4 of them are tried, at random"),
        ([*PLAIN, "sweep/sampler=gp"], 1, "sweep/sampler=gp: learns nothing from pruned trials"),
        (["sweep/sampler=nsga2"], 1, "sweep/sampler=nsga2: learns nothing from pruned trials"),
        (
            ["sweep/sampler=nsga2", "sweep/pruner=none"],
            1,
            "20 trials are one generation of sweep.sampler.population=20",
        ),
        (
            ["sweep/sampler=tpe", "sweep.trials=8"],
            1,
            "draws all 8 trials at random, with sweep.sampler.startup_trials=8",
        ),
        (["sweep.pruner.min_epochs=12"], 1, "min_epochs=12: nothing is pruned, the longest trial has 12 epochs"),
    ],
)
def test_what_is_worth_knowing_is_explained(overrides: list[str], objectives: int, explained: str) -> None:
    assert explained in "; ".join(samplers.check(*parts(*overrides), objectives))


@pytest.mark.parametrize(
    ("overrides", "poor", "good"),
    [
        (["median", "sweep.pruner.startup_trials=2"], 0.2, 0.8),
        (["percentile", "sweep.pruner.startup_trials=2"], 0.45, 0.8),
        (["hyperband"], 0.1, 0.8),
        (["threshold", "sweep.pruner.lower=0.5"], 0.3, 0.8),
    ],
)
def test_a_pruner_stops_the_poor_and_keeps_the_good(overrides: list[str], poor: float, good: float) -> None:
    settings, _ = parts(f"sweep/pruner={overrides[0]}", *overrides[1:])
    study = optuna.create_study(direction="maximize", pruner=settings.pruner.build(9))
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


@pytest.mark.parametrize(
    ("overrides", "pruned"),
    [
        (["patient", "sweep.pruner.patience=2"], [False, False, False, False, True, True]),
        (["threshold"], [False] * 6),  # without bounds
        (["none"], [False] * 6),
    ],
)
def test_pruners_that_look_at_one_trial_alone(overrides: list[str], pruned: list[bool]) -> None:
    settings, _ = parts(f"sweep/pruner={overrides[0]}", *overrides[1:])
    trial = optuna.create_study(direction="maximize", pruner=settings.pruner.build(9)).ask()
    for epoch, (value, stops) in enumerate(zip([0.5, 0.6, 0.55, 0.58, 0.59, 0.57], pruned, strict=True), start=1):
        trial.report(value, epoch)
        assert trial.should_prune() == stops
