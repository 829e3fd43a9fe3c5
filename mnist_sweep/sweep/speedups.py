"""Optuna's TPE in half of its time, which is most of what the driver spends on a long sweep: the same proposals.

With one difference: impossible proposals count as bad trials. Optuna ignores failed trials, and would go on proposing
what cannot exist.

What Optuna computes in plain Python through all trials, again for each proposal and for each group of parameters, is
computed once. This reaches into Optuna, hence the bound on its version in pyproject.toml; `tests/test_methods.py`
compares the proposals with those of Optuna's own sampler.
"""

import functools
from collections.abc import Callable
from operator import is_
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import TPESampler
from optuna.samplers._tpe import _truncnorm
from optuna.samplers._tpe import sampler as _tpe
from optuna.search_space.group_decomposed import _SearchSpaceGroup
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from scipy.special import erf, log_ndtr

#: The good trials and the others.
_Split = tuple[list[FrozenTrial], list[FrozenTrial]]
_Splitter = Callable[[Study, list[FrozenTrial], int], _Split]


class QuickTPE(TPESampler):
    """Optuna's TPE. What it learns of the trials serves the sampler of the next trial, too.

    Args:
        before: the sampler of the trial before, in the same study.
        impossible: whether a failed trial was; these count among the bad ones.
        options: of Optuna's.
    """

    def __init__(self, before: Any, impossible: Callable[[FrozenTrial], bool], **options: Any) -> None:
        super().__init__(**options)
        _quicken(impossible)
        #: By the names of parameters and a trial's number: the values, None where the trial does not have them all.
        self._rows: dict[tuple[str, ...], dict[int, tuple[float, ...] | None]] = {}
        if self._group_decomposed_search_space is not None:
            self._group_decomposed_search_space._search_space = _Groups()
        if isinstance(before, QuickTPE):
            self._rows = before._rows
            self._search_space = before._search_space
            self._group_decomposed_search_space = before._group_decomposed_search_space

    def _get_internal_repr(
        self, trials: list[FrozenTrial], search_space: dict[str, BaseDistribution], study: Study
    ) -> dict[str, Any]:
        """The values of these parameters in the trials that have them all, an array of each."""
        known = self._rows.setdefault(tuple(search_space), {})
        found: list[tuple[float, ...]] = []
        for trial in trials:
            number = trial.number
            if number in known:
                row = known[number]
            else:
                alone = super()._get_internal_repr([trial], search_space, study).values()
                row = tuple(values[0] for values in alone) if all(map(len, alone)) else None
                if trial.state.is_finished():
                    known[number] = row
            if row is not None:
                found.append(row)
        columns = zip(*found, strict=True) if found else [()] * len(search_space)
        return dict(zip(search_space, map(np.asarray, columns), strict=True))


@functools.cache
def _quicken(impossible: Callable[[FrozenTrial], bool]) -> None:
    """Exchange what belongs to Optuna's modules, for every TPE sampler of this process."""
    _truncnorm._log_ndtr = log_ndtr  # Optuna's go number by number, so as not to depend on SciPy
    _truncnorm.erf = erf  # type: ignore[attr-defined]
    _tpe._split_trials = _remembered(_tpe._split_trials, impossible)  # type: ignore[assignment]


def _remembered(split: _Splitter, impossible: Callable[[FrozenTrial], bool]) -> _Splitter:
    """The division into good trials and others, which is the same for all groups of parameters of a proposal.

    Optuna does not look at failed trials. Of a choice with which nothing is possible it would know nothing, take it for
    promising, and propose it for ever.
    """
    last: list[Any] = [None, 0, [], ([], [])]

    def remembered(study: Study, trials: list[FrozenTrial], n_below: int) -> _Split:
        same = study is last[0] and n_below == last[1] and len(trials) == len(last[2])
        if not (same and all(map(is_, trials, last[2]))):
            last[:] = study, n_below, trials, split(study, trials, n_below)
        good, others = last[3]
        failed = study._get_trials(deepcopy=False, states=(TrialState.FAIL,))
        return list(good), [*others, *filter(impossible, failed)]

    return remembered


class _Groups(_SearchSpaceGroup):
    """Parameters that are drawn together. A trial with the same ones as an earlier one divides them no further.

    Of ranges that were changed between two sittings the latest count; Optuna would keep to the first.
    """

    def __init__(self) -> None:
        super().__init__()
        self._seen: set[frozenset[str]] = set()

    def add_distributions(self, distributions: dict[str, BaseDistribution]) -> None:
        drawn = frozenset(distributions)
        if drawn not in self._seen:
            self._seen.add(drawn)
            super().add_distributions(distributions)
        for space in self._search_spaces:
            space.update({name: distributions[name] for name in space.keys() & drawn})
