"""The sampler of a sweep; which samplers and pruners go together with which space and which objectives."""

import functools
import warnings
from collections.abc import Callable
from typing import Any

from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, RandomSampler

from mnist_sweep.config import samplers, schema
from mnist_sweep.config.pruners import NoPruner, Threshold
from mnist_sweep.config.sweep_options import Sweep
from mnist_sweep.errors import RequestError
from mnist_sweep.sweep.space import Space

#: A grid is counted up to here; a larger one is taken for endless.
_MOST_POINTS = 20_000


def sampler(
    settings: Sweep, space: Space, seed: int, number: int, *, chance: bool = False, changed: bool = False
) -> BaseSampler:
    """A sampler for the trials from this number on.

    Args:
        settings: of the sweep.
        space: what is searched.
        seed: of the sweep.
        number: of the next trial: a resumed sweep does not begin its draws again.
        chance: draw at random, since the last candidates were all impossible and most samplers learn nothing of that.
        changed: earlier trials were drawn from another space.
    """
    own = (seed * 1_000_003 + number) % 2**32
    if chance and not isinstance(settings.sampler, samplers.Grid | samplers.QMC):
        return RandomSampler(seed=own)
    # where ranges have changed, Optuna would draw the groups of conditional keys from the first ones
    conditional = bool(space.conditional) and not changed
    with warnings.catch_warnings():  # what Optuna marks as experimental is covered by our own tests
        warnings.simplefilter("ignore", ExperimentalWarning)
        prunes = not isinstance(settings.pruner, NoPruner)
        return settings.sampler.build(own, study_seed=seed, conditional=conditional, prunes=prunes)


def total(settings: Sweep, space: Space) -> int:
    """The trials that a sweep comes to: ``sweep.trials``, or a grid's points where there are fewer."""
    size = points(settings, space)
    return min(settings.trials, size) if size else settings.trials


def points(settings: Sweep, space: Space) -> int | None:
    """The points of a grid; None where there are too many to count, or another sampler."""
    return _points(space) if isinstance(settings.sampler, samplers.Grid) else None


@functools.lru_cache(maxsize=4)
def _points(space: Space) -> int | None:
    return space.points(_MOST_POINTS)


def check(settings: Sweep, space: Space, objectives: int) -> list[str]:
    """What does not go together, and what is worth knowing.

    Args:
        settings: of the sweep.
        space: what is searched.
        objectives: how many there are.

    Returns:
        Lines of explanation.

    Raises:
        RequestError: the sampler cannot search this space, or not for so many objectives.
    """
    sampler, pruner = settings.sampler, settings.pruner
    name = f"sweep/sampler={sampler.name}"

    def others(able: Callable[[Any], bool]) -> str:
        return ", ".join(name for name, each in schema.options("sweep.sampler").items() if able(each))

    if space.conditional and not sampler.conditions:
        keys, allowed = ", ".join(space.conditional), others(lambda each: each.conditions)
        raise RequestError(f"{name}: {keys} are not drawn in every trial; allowed with such: {allowed}")
    if objectives > 1 and not sampler.several_objectives:
        allowed = others(lambda each: each.several_objectives)
        raise RequestError(f"{name}: {objectives} objectives; allowed with several: {allowed}")
    if len(space.keys) - len(space.categorical) < sampler.least_numbers:
        allowed = others(lambda each: not each.least_numbers)
        raise RequestError(f"{name}: needs at least {sampler.least_numbers} keys that are numbers; allowed: {allowed}")
    if space.continuous and not sampler.continuous:
        raise RequestError(f"{name}: {space.continuous[0]} has no end of values; allowed: a step, or choices")
    explained = []
    if objectives > 1 and not isinstance(pruner, NoPruner):
        explained.append(f"{objectives} objectives: nothing is pruned, sweep/pruner={pruner.name} compares one")
    if isinstance(pruner, Threshold) and pruner.lower is pruner.upper is None:
        explained.append("sweep/pruner=threshold: nothing is pruned without sweep.pruner.lower or sweep.pruner.upper")
    if space.categorical and not sampler.choices:
        explained.append(f"{name}: drawn at random, being choices: {', '.join(space.categorical)}")
    if settings.constraints and not sampler.constraints:
        explained.append(f"{name}: learns nothing from sweep.constraints; they are kept all the same")
        warnings.filterwarnings("ignore", message="Constraints have been set")  # which Optuna says at each trial
    if isinstance(sampler, samplers.Grid):
        size = _points(space)
        if size is None or size > settings.trials:
            counted = f"more than {_MOST_POINTS:,}" if size is None else f"{size:,}"
            explained.append(f"the grid has {counted} points; {settings.trials} of them are tried, at random")
        elif size < settings.trials:
            explained.append(f"the grid has {size} points: as many trials, not {settings.trials}")
    return explained
