"""The sampler of a sweep; which samplers and pruners go together with which space and which objectives."""

import functools
import warnings

from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, RandomSampler

from mnist_sweep.config import samplers, schema
from mnist_sweep.config.pruners import NoPruner, Threshold
from mnist_sweep.config.sweep_options import Sweep
from mnist_sweep.errors import RequestError
from mnist_sweep.sweep.space import Space

#: A grid is counted up to here; a larger one is taken for endless.
_MOST_POINTS = 20_000


def sampler(settings: Sweep, space: Space, seed: int, number: int, *, chance: bool = False) -> BaseSampler:
    """A sampler for the trials from this number on.

    Args:
        settings: of the sweep.
        space: what is searched.
        seed: of the sweep.
        number: of the next trial: a resumed sweep does not begin its draws again.
        chance: draw at random, since the last candidates all broke a constraint, of which most samplers learn nothing.
    """
    own = (seed * 1_000_003 + number) % 2**32
    if chance and not isinstance(settings.sampler, samplers.Grid | samplers.QMC):
        return RandomSampler(seed=own)
    conditional = bool(space.conditional)
    with warnings.catch_warnings():  # what Optuna marks as experimental is covered by our own tests
        warnings.simplefilter("ignore", ExperimentalWarning)
        prunes = not isinstance(settings.pruner, NoPruner)
        prior = space.prior()
        return settings.sampler.build(own, study_seed=seed, prior=prior, conditional=conditional, prunes=prunes)


def total(settings: Sweep, space: Space) -> float:
    """The trials that a sweep comes to: ``sweep.trials``, or a grid's points where there are fewer."""
    return min(settings.total, points(settings, space) or settings.total)


def points(settings: Sweep, space: Space) -> int | None:
    """The points of a grid; None where there are too many to count, or another sampler."""
    return _points(space) if isinstance(settings.sampler, samplers.Grid) else None


@functools.lru_cache(maxsize=4)
def _points(space: Space) -> int | None:
    return space.points(_MOST_POINTS)


def check(settings: Sweep, space: Space, objectives: int) -> list[str]:
    """Explain, in lines, what is worth knowing of a sampler and pruner with this space and so many objectives.

    Raises:
        RequestError: the sampler cannot search this space, or not for so many objectives.
    """
    longest = int(space.largest("trainer.max_epochs"))
    sampler, pruner, size = settings.sampler, settings.pruner, points(settings, space)
    name = f"sweep/sampler={sampler.name}"
    numbers = len(space.keys) - len(space.categorical)
    asks = (
        (space.conditional, f"{', '.join(space.conditional)} are not drawn in every trial", "conditions"),
        (objectives > 1, f"{objectives} objectives", "several_objectives"),
        (numbers < 2, "needs at least two keys that are numbers", "few_numbers"),
        (space.continuous, f"{', '.join(space.continuous)} need a step, or choices", "continuous"),
    )
    needed = [ability for asked, _, ability in asks if asked]
    for asked, why, ability in asks:
        if asked and not getattr(sampler, ability):
            options = schema.options("sweep.sampler").items()
            able = [option for option, each in options if all(getattr(each, need) for need in needed)]
            raise RequestError(f"{name}: {why}; allowed: {', '.join(able)}")
    if settings.constraints and not sampler.constraints:
        warnings.filterwarnings("ignore", message="Constraints have been set")  # which Optuna says at each trial
    startup, total = getattr(sampler, "startup_trials", 0), settings.total
    first = getattr(pruner, "min_epochs", 0)
    population = sampler.population if isinstance(sampler, samplers.NSGA2) else 0
    prunes = objectives == 1 and not isinstance(pruner, NoPruner)
    idle = isinstance(pruner, Threshold) and pruner.lower is pruner.upper is None
    many = f"{size:,}" if size else f"more than {_MOST_POINTS:,}"
    lines = {
        f"{name}: learns nothing from pruned trials; allowed: sweep/pruner=none, or another sampler": (
            prunes and not sampler.pruned
        ),
        f"{name}: {total} trials are one generation of sweep.sampler.population={population}, drawn at random": (
            population >= total
        ),
        f"{name}: draws all {total} trials at random, with sweep.sampler.startup_trials={startup}": (
            startup >= total and not isinstance(sampler, samplers.Prior)
        ),
        f"sweep.pruner.min_epochs={first}: nothing is pruned, the longest trial has {longest} epochs": first >= longest,
        f"{objectives} objectives: nothing is pruned, sweep/pruner={pruner.name} compares one": (
            objectives > 1 and not isinstance(pruner, NoPruner)
        ),
        "sweep/pruner=threshold: nothing is pruned without sweep.pruner.lower or sweep.pruner.upper": idle,
        f"{name}: drawn at random, being choices: {', '.join(space.categorical)}": (
            space.categorical and not sampler.choices
        ),
        f"{name}: learns nothing from sweep.constraints; they are kept all the same": (
            settings.constraints and not sampler.constraints
        ),
        f"the grid has {size} points: as many trials, not {settings.total}": size and size < settings.total,
        f"the grid has {many} points; {settings.total} of them are tried, at random": (
            isinstance(sampler, samplers.Grid) and not (size and size <= settings.total)
        ),
    }
    return [line for line, holds in lines.items() if holds]
