"""A sampler that knows the config: it draws around the config's own values, around the best so far, and everywhere."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from optuna import Study
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from mnist_sweep.sweep.parameters import contains

#: User attribute of a trial: where its candidate came from, one of `SHARES`.
SOURCE = "source"
#: Of so many candidates in all each source proposes before anything has paid off.
SHARES = {"config": 0.30, "best": 0.40, "model": 0.15, "random": 0.15}
#: The best so far, around which candidates are drawn.
_CENTRES = 3
#: One trial in so many counts as good.
_GOOD = 3
#: Draws for the only change of a candidate, which may round to the same whole number again.
_TRIES = 20


class PriorSampler(BaseSampler):
    """Draws candidates from four sources, in shares that follow what has paid off.

    ``config`` changes the config's own values, ``best`` one of the best trials, ``model`` asks Optuna's TPE, ``random``
    draws from the whole space. A change takes about half of the keys: numbers move by a normal step, on the logarithm
    where the distribution says so, choices become another one. A source whose trials are among the best third more
    often gets more of the next ones, so that a bad config is left behind.

    After PriorBand (Mallik et al. 2023, arXiv 2306.12370), which mixes the same first, second and fourth.

    Args:
        prior: the config's own values by the names of Optuna's parameters, as far as they are within the space.
        seed: of this sampler's draws.
        random: the least share of random candidates, 0 … 1.
        step: the standard deviation of a change, as a part of the range.
        model: proposes as soon as `startup_trials` trials have a result.
        startup_trials: see `model`.
    """

    def __init__(
        self,
        prior: Mapping[str, Any],
        seed: int,
        *,
        random: float,
        step: float,
        model: BaseSampler,
        startup_trials: int,
    ) -> None:
        self._prior, self._least, self._step = prior, random, step
        self._model, self._startup = model, startup_trials
        self._rng, self._chance = np.random.default_rng(seed), RandomSampler(seed=seed)
        self._centre: Mapping[str, Any] = {}
        self._changed: set[str] = set()
        self.source = "random"

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Choose the source of the candidate, and what is changed."""
        trials = ranked(study)
        shares = self._shares(trials)
        self.source = str(self._rng.choice([*shares], p=[*shares.values()]))
        if self.source == "best":
            centres = [each.params for each in trials[:_CENTRES]]
            self._centre = centres[self._rng.integers(len(centres))]
        elif self.source == "config":
            self._centre = self._prior
        names = sorted(self._centre)
        drawn = self._rng.random(len(names)) < 0.5
        self._changed = {name for name, change in zip(names, drawn, strict=True) if change}
        if names and not self._changed:
            self._changed = {names[self._rng.integers(len(names))]}
        self._model.before_trial(study, trial)

    def _shares(self, trials: Sequence[FrozenTrial]) -> dict[str, float]:
        """The share of each source, in all 1."""
        good = trials[: math.ceil(len(trials) / _GOOD)]
        tried, hits = (Counter(each.user_attrs.get(SOURCE) for each in group) for group in (trials, good))
        shares = {name: share * (1 + hits[name]) / (1 + tried[name] / _GOOD) for name, share in SHARES.items()}
        if not self._prior:
            shares["config"] = 0.0
        if len(trials) < _GOOD:
            shares["best"] = 0.0
        if len(trials) < self._startup:
            shares["model"] = 0.0
        rest = sum(shares.values()) - shares["random"]
        if rest * self._least > shares["random"] * (1 - self._least):
            shares["random"] = rest * self._least / (1 - self._least)
        return {source: share / sum(shares.values()) for source, share in shares.items()}

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """What the model draws at once; nothing for the other sources."""
        return self._model.infer_relative_search_space(study, trial) if self.source == "model" else {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """See `infer_relative_search_space`."""
        return self._model.sample_relative(study, trial, search_space) if search_space else {}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A value for one parameter, which may be one that earlier trials do not have."""
        if self.source == "model":
            return self._model.sample_independent(study, trial, param_name, param_distribution)
        for values in (self._centre, self._prior) if self._centre else ():
            assert isinstance(param_distribution, FloatDistribution | IntDistribution | CategoricalDistribution)
            if param_name in values and contains(param_distribution, values[param_name]):
                changes = param_name in self._changed or values is not self._centre
                return self._moved(param_distribution, values[param_name]) if changes else values[param_name]
        return self._chance.sample_independent(study, trial, param_name, param_distribution)

    def _moved(self, distribution: BaseDistribution, value: Any) -> Any:
        """Another choice, or a number nearby."""
        if isinstance(distribution, CategoricalDistribution):
            others = [choice for choice in distribution.choices if choice != value]
            return others[self._rng.integers(len(others))] if others else value
        assert isinstance(distribution, FloatDistribution | IntDistribution)
        low, high, step = distribution.low, distribution.high, distribution.step
        scale = math.log if distribution.log else float
        span = scale(high) - scale(low)
        for _ in range(_TRIES):
            moved = scale(value) + self._rng.normal() * self._step * span
            moved = min(max(math.exp(moved) if distribution.log else moved, low), high)
            if step:
                moved = min(low + step * round((moved - low) / step), high)
            if moved != value or len(self._changed) > 1:
                break
        return int(moved) if isinstance(distribution, IntDistribution) else float(moved)


def ranked(study: Study) -> list[FrozenTrial]:
    """The trials that have a result, the best first.

    Those that break a constraint come last, before them those that were stopped: the later, the better. Of several
    objectives, those that fewer others dominate come first.
    """
    signs = [1 if direction == StudyDirection.MINIMIZE else -1 for direction in study.directions]
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))

    def costs(trial: FrozenTrial) -> list[float]:
        return [sign * value for sign, value in zip(signs, trial.values or [], strict=False)]

    def dominated(trial: FrozenTrial) -> int:
        own = costs(trial)
        return sum(all(a <= b for a, b in zip(costs(other), own, strict=True)) for other in trials if other.values) - 1

    def key(trial: FrozenTrial) -> tuple[float, ...]:
        broken = sum(max(0.0, violation) for violation in trial.constraints.values())
        if trial.state == TrialState.COMPLETE:
            cost = costs(trial)[0] if len(signs) == 1 else dominated(trial)
            return broken, 0, 0, cost, trial.number
        steps = trial.intermediate_values
        if not steps:
            return math.inf, 0, 0, 0, trial.number
        return broken, 1, -max(steps), signs[0] * steps[max(steps)], trial.number

    return sorted(trials, key=key)
