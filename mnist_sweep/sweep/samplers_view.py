"""A study as its sampler and its pruner see it."""

import copy
from collections.abc import Container, Mapping, Sequence
from typing import Any

from optuna.storages import InMemoryStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from mnist_sweep.config import metrics
from mnist_sweep.config.sweep_options import Bound
from mnist_sweep.sweep.parameters import contains
from mnist_sweep.sweep.promotion import paused
from mnist_sweep.sweep.space import Space


class SamplersView(InMemoryStorage):
    """Optuna's storage in memory, which tells a sampler of each trial what it can learn from it.

    A paused trial is a pruned one. One that diverged, or broke a constraint before it was trained, is the worst there
    is, whereas Optuna's samplers ignore failed trials, and would propose the same again: it was pruned without a value,
    or is complete with the worst value seen, for a sampler that learns nothing from pruned trials. Trials of an earlier
    space or of other constraints are told in terms of the present ones.

    Args:
        constraints: what a trial's metrics may be.
        space: what is searched.

    Attributes:
        learns_from_pruned: whether the present sampler does.
        kinds: of the trials by number: Optuna's word for the state, in small letters, or ``paused``, ``infeasible`` or
            ``foreign``. Kept, since to find them out anew for thousands of trials keeps the workers waiting.
    """

    def __init__(self, constraints: Mapping[str, Bound], space: Space) -> None:
        super().__init__()
        self.constraints, self.space, self.learns_from_pruned = constraints, space, True
        self.kinds: list[str] = []
        # trials at rest, finished or paused, by number, kind and epochs
        self._translated: dict[tuple[int, str, int], FrozenTrial | None] = {}

    def recorded(self, study_id: int) -> list[FrozenTrial]:
        """The trials as they are; not to be changed."""
        return super().get_all_trials(study_id, deepcopy=False)

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """Optuna's, which takes note of the kind of trial."""
        made = super().create_new_trial(study_id, template_trial)
        self.kinds.append(_kind(self.get_trial(made)))
        return made

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """Optuna's, which takes note of the kind of trial."""
        done = super().set_trial_state_values(trial_id, state, values)
        trial = self.get_trial(trial_id)
        self.kinds[trial.number] = _kind(trial)
        return done

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """The trials as a sampler sees them; Optuna's samplers and pruners ask for them by this."""
        trials = self.recorded(study_id)
        complete = [trial.values for trial in trials if trial.state == TrialState.COMPLETE]
        worse = [max if d == StudyDirection.MINIMIZE else min for d in self.get_study_directions(study_id)]
        worst = [of(values) for of, values in zip(worse, zip(*complete, strict=True), strict=False)]
        shown = [self._shown(trial, kind, worst) for trial, kind in zip(trials, self.kinds, strict=True)]
        found = [trial for trial in shown if trial and (states is None or trial.state in states)]
        return copy.deepcopy(found) if deepcopy else found

    def _shown(self, trial: FrozenTrial, kind: str, worst: list[float]) -> FrozenTrial | None:
        if kind in ("running", "waiting"):
            return trial
        at = trial.number, kind, len(trial.intermediate_values)
        if at not in self._translated:
            self._translated[at] = self._translate(trial)
        known = self._translated[at]
        if known and kind in ("infeasible", "fail") and reason(trial) in ("infeasible", "diverged"):
            known = copied(known)
            known.state, known.values, known.intermediate_values = TrialState.PRUNED, None, {}
            if worst and not self.learns_from_pruned:
                known.state, known.values = TrialState.COMPLETE, worst
                broken = create_trial(value=0, constraints=dict.fromkeys(self.constraints, 1.0)).system_attrs
                known.system_attrs = broken | known.system_attrs
        return known

    def _translate(self, trial: FrozenTrial) -> FrozenTrial | None:
        """A trial at rest by the present space and constraints; None where the space does not hold it any more."""
        if not trial.state.is_finished():
            trial = copied(trial)
            trial.state = TrialState.PRUNED
            return trial
        result, values = trial.user_attrs.get("result"), trial.user_attrs.get("values")
        params = trial.params if values is None else self.space.encode(values)
        drawn: dict[str, Any] = {name: self.space.distribution(name) for name in params or {}}
        if params is None or not all(now and contains(now, params[name]) for name, now in drawn.items()):
            return None
        measures = {name: measured(name, result) for name in self.constraints} if result else {}
        broken = {
            name: self.constraints[name].violation(value) for name, value in measures.items() if value is not None
        }
        if drawn == trial.distributions and broken == trial.constraints:
            return trial
        before, now = (create_trial(value=0, constraints=known).system_attrs for known in (trial.constraints, broken))
        trial = copied(trial)
        trial.params, trial.distributions = params, drawn
        trial.system_attrs = {key: value for key, value in trial.system_attrs.items() if key not in before} | now
        return trial


def measured(metric: str, result: Mapping[str, Any]) -> float | None:
    """A run's value of a metric: the best epoch's, or of the whole run; None where there is none.

    Args:
        metric: its name.
        result: the fields of a `Result`.
    """
    value = (result if metric in metrics.RUN_METRICS else result["metrics"]).get(metric)
    return None if value is None else float(value)


def epochs_of(trial: FrozenTrial) -> int:
    """That a trial has trained, with all its seeds; one that took over a result has trained none."""
    result = {} if "duplicate_of" in trial.user_attrs else trial.user_attrs.get("result", {})
    return int(max(len(trial.intermediate_values), result.get("epochs", 0)) * result.get("seeds", 1))


def reason(trial: FrozenTrial) -> str | None:
    """Why a trial failed, one word; None where it did not. One that somebody else added and told is ``foreign``."""
    added = trial.state.is_finished() and not trial.user_attrs.keys() & {"reason", "result"}
    return "foreign" if added else trial.user_attrs.get("reason")


def _kind(trial: FrozenTrial) -> str:
    why = reason(trial)
    if why in ("infeasible", "foreign"):
        return why
    return "paused" if paused(trial) else trial.state.name.lower()


def copied(trial: FrozenTrial) -> FrozenTrial:
    """The trial as it is now: Optuna changes its mappings where they are."""
    now = copy.copy(trial)
    for name in ("params", "user_attrs", "system_attrs", "intermediate_values"):
        setattr(now, name, dict(getattr(trial, name)))
    return now
