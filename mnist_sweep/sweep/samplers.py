"""Optuna's samplers and pruners, and which of them go together with which space and which objectives."""

import functools
import warnings
from collections.abc import Sequence

import optuna
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from mnist_sweep.config import sweep_options as sweep_schema
from mnist_sweep.config.sweep_options import Sweep
from mnist_sweep.errors import RequestError
from mnist_sweep.sweep.space import Space
from mnist_sweep.sweep.speedups import QuickTPE
from mnist_sweep.sweep.study import reason

_CONDITIONS_ALLOWED = "tpe, random, nsga2, grid"
#: A grid is counted up to here; a larger one is taken for endless.
_MOST_POINTS = 20_000


class _BruteForce(optuna.samplers.BruteForceSampler):
    """Every point once. The search itself knows when there is none left."""

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        pass  # Optuna's stops `Study.optimize`, which is not used here


def sampler(
    settings: Sweep, space: Space, seed: int, number: int, before: BaseSampler | None = None, *, lost: bool = False
) -> BaseSampler:
    """The sampler that proposes trial `number`.

    What it draws at random follows from the seed and the number alone, so that a resumed sweep proposes what an
    uninterrupted one would have, and does not begin its draws again. A sequence (qmc) has one seed for the whole study.

    Args:
        settings: of the sweep.
        space: what is searched.
        seed: of the sweep.
        number: of the trial.
        before: the one that proposed the trial before, in the same study.
        lost: the last proposals were all impossible: draw at random until one is possible, since most samplers learn
            nothing from impossible ones.
    """
    mixed = (seed * 1_000_003 + number) % 2**32
    if lost and not isinstance(settings.sampler, sweep_schema.Grid | sweep_schema.QMC):
        return optuna.samplers.RandomSampler(seed=mixed)
    with warnings.catch_warnings():  # what Optuna marks as experimental is covered by our own tests
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        match settings.sampler:
            case sweep_schema.TPE(startup_trials=startup):
                return QuickTPE(
                    before,
                    _is_impossible,
                    seed=mixed,
                    n_startup_trials=startup,
                    multivariate=True,
                    group=bool(space.conditional),
                    constant_liar=True,
                )
            case sweep_schema.Random():
                return optuna.samplers.RandomSampler(seed=mixed)
            case sweep_schema.GP(startup_trials=startup):
                return optuna.samplers.GPSampler(seed=mixed, n_startup_trials=startup, warn_independent_sampling=False)
            case sweep_schema.CMAES(startup_trials=startup):
                return optuna.samplers.CmaEsSampler(
                    seed=mixed,
                    n_startup_trials=startup,
                    warn_independent_sampling=False,
                    consider_pruned_trials=settings.pruner.name != "none",
                )
            case sweep_schema.NSGA2(population=population):
                return optuna.samplers.NSGAIISampler(seed=mixed, population_size=population)
            case sweep_schema.QMC(sequence=sequence):
                return optuna.samplers.QMCSampler(
                    qmc_type=sequence,
                    scramble=True,
                    seed=seed,
                    independent_sampler=optuna.samplers.RandomSampler(seed=mixed),
                    warn_independent_sampling=False,
                    warn_asynchronous_seeding=False,
                )
            case sweep_schema.Grid():
                return _BruteForce(seed=mixed)


def _is_impossible(trial: FrozenTrial) -> bool:
    return reason(trial) == "infeasible"


def pruner(settings: Sweep, max_epochs: int) -> optuna.pruners.BasePruner:
    """The pruner. Its steps are epochs, counted from 1, so that a warm-up of n epochs ends with step n + 1.

    Args:
        settings: of the sweep.
        max_epochs: the most that a trial can have.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        match settings.pruner:
            case sweep_schema.NoPruner() | sweep_schema.Threshold(lower=None, upper=None):
                return optuna.pruners.NopPruner()
            case sweep_schema.Median(startup_trials=startup, warmup_epochs=warmup):
                return optuna.pruners.MedianPruner(n_startup_trials=startup, n_warmup_steps=warmup + 1)
            case sweep_schema.Percentile(percentile=percentile, startup_trials=startup, warmup_epochs=warmup):
                return optuna.pruners.PercentilePruner(percentile, n_startup_trials=startup, n_warmup_steps=warmup + 1)
            case sweep_schema.Hyperband(min_epochs=least, reduction_factor=factor):
                return optuna.pruners.HyperbandPruner(
                    min_resource=least, max_resource=max(max_epochs, least), reduction_factor=factor
                )
            case sweep_schema.ASHA(min_epochs=least, reduction_factor=factor):
                return optuna.pruners.SuccessiveHalvingPruner(min_resource=least, reduction_factor=factor)
            case sweep_schema.Patient(patience=patience, min_delta=delta):
                return optuna.pruners.PatientPruner(None, patience, delta)
            case sweep_schema.Threshold(lower=lower, upper=upper, warmup_epochs=warmup):
                return optuna.pruners.ThresholdPruner(lower=lower, upper=upper, n_warmup_steps=warmup + 1)


def total(settings: Sweep, space: Space) -> int:
    """The trials that a sweep comes to: ``sweep.trials``, or a grid's points where there are fewer."""
    size = points(settings, space)
    return min(settings.trials, size) if size else settings.trials


def points(settings: Sweep, space: Space) -> int | None:
    """The points of a grid; None where there are too many to count, or another sampler."""
    return _points(space) if isinstance(settings.sampler, sweep_schema.Grid) else None


def check(settings: Sweep, space: Space, objectives: int) -> list[str]:
    """What does not go together, and what is worth knowing; Optuna's own warning of the same is silenced.

    Args:
        settings: of the sweep.
        space: what is searched.
        objectives: how many there are.

    Returns:
        Lines of explanation.

    Raises:
        RequestError: the sampler cannot search this space, or not for so many objectives.
    """
    name = settings.sampler.name
    if name in ("gp", "cmaes", "qmc") and space.conditional:
        keys = ", ".join(space.conditional)
        raise RequestError(
            f"sweep/sampler={name}: {keys} are not drawn in every trial; allowed with such: {_CONDITIONS_ALLOWED}"
        )
    if name == "cmaes" and objectives > 1:
        raise RequestError(
            f"sweep/sampler=cmaes: {objectives} objectives; allowed with several: {_CONDITIONS_ALLOWED}, gp, qmc"
        )
    if name == "cmaes" and len(space.dimensions) - len(space.categorical) < 2:
        raise RequestError("sweep/sampler=cmaes: needs at least two keys that are numbers; allowed: tpe, random")
    if name == "grid" and space.continuous:
        raise RequestError(
            f"sweep/sampler=grid: {space.continuous[0]} has no end of values; allowed: a step, or choices"
        )
    explained = []
    if objectives > 1 and settings.pruner.name != "none":
        explained.append(
            f"{objectives} objectives: nothing is pruned, sweep/pruner={settings.pruner.name} compares one"
        )
    if isinstance(settings.pruner, sweep_schema.Threshold) and settings.pruner.lower is settings.pruner.upper is None:
        explained.append("sweep/pruner=threshold: nothing is pruned without sweep.pruner.lower or sweep.pruner.upper")
    if name in ("cmaes", "qmc") and space.categorical:
        explained.append(f"sweep/sampler={name}: drawn at random, being choices: {', '.join(space.categorical)}")
    if name == "cmaes" and settings.constraints:
        explained.append("sweep/sampler=cmaes: learns nothing from sweep.constraints; they are kept all the same")
        warnings.filterwarnings("ignore", message="Constraints have been set")  # which Optuna says at each trial
    if name == "grid":
        size = _points(space)
        if size is None or size > settings.trials:
            counted = f"more than {_MOST_POINTS:,}" if size is None else f"{size:,}"
            explained.append(f"the grid has {counted} points; {settings.trials} of them are tried, at random")
        elif size < settings.trials:
            explained.append(f"the grid has {size} points: as many trials, not {settings.trials}")
    return explained


@functools.lru_cache(maxsize=4)
def _points(space: Space) -> int | None:
    return space.points(_MOST_POINTS)
