"""Optuna's study of a sweep: trials are asked for and told, counted and ranked."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.trial import FrozenTrial, TrialState

from mnist_sweep.config import metrics, schema
from mnist_sweep.config.sweep_options import Bound, Objective
from mnist_sweep.result import Result

optuna.logging.set_verbosity(optuna.logging.ERROR)

#: What a trial keeps of its result; the rest is in its folder.
_KEPT = (
    "command", "mlflow_run_id", "folder", "metrics", "seconds", "epochs", "overrides", "attempts", "parameters",
    "multiply_adds",
)  # fmt: skip
#: User attribute of the trial that has the config's own values.
BASELINE = "baseline"
#: User attribute of a trial that was queued: what tells it from the others.
IDENTITY = "queued"
_ENDED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


def objectives(config: schema.Config) -> list[Objective]:
    """What a sweep judges its trials by: ``sweep.objectives``, or the config's objective."""
    assert config.sweep is not None
    return config.sweep.objectives or [Objective(metric=config.objective, direction=config.direction)]


def measured(metric: str, result: Result) -> float | None:
    """A run's value of a metric: the best epoch's, or of the whole run; None where there is none."""
    value = getattr(result, metric) if metric in metrics.RUN_METRICS else result.metrics.get(metric)
    return None if value is None else float(value)


def value_of(goal: Objective, result: Result) -> float:
    """The value of a finished run, which has one."""
    value = measured(goal.metric, result)
    assert value is not None
    return value


def best_run(goal: Objective, results: Sequence[Result]) -> Result:
    """The best of a winner's runs on validation, since the best on the test set would be the luckiest there."""
    return max(results, key=lambda result: goal.sign * value_of(goal, result))


def reason(trial: FrozenTrial) -> str | None:
    """Why a trial failed, one word; None where it did not."""
    return trial.user_attrs.get("reason")


def state_of(trial: FrozenTrial) -> TrialState:
    """Optuna's state of a trial, except that an impossible candidate has failed.

    Optuna knows such a one as pruned without a value: its samplers then take it for the worst there is, whereas they
    ignore failed trials and would propose it again and again.
    """
    return TrialState.FAIL if reason(trial) == "infeasible" else trial.state


class Study:
    """A study that this process alone writes.

    Samplers and pruners read a copy in memory: reading the database for each of their questions would take more
    processor time than they do. Each change is written to the database at once, by `save`.

    Args:
        storage: where the study is.
        name: of the study.
        goals: one objective or several.
        constraints: what a trial's metrics may be.

    Attributes:
        study: Optuna's, in memory.
        id: by which its runs are known in MLflow, where another study may have the same name.
        own: the identity of the config's own values, by `IDENTITY`; empty where the space does not hold them, None
            before it is known.
    """

    def __init__(
        self, storage: BaseStorage, name: str, goals: Sequence[Objective], constraints: Mapping[str, Bound]
    ) -> None:
        self.goals, self.constraints = list(goals), constraints
        self.own: str | None = None
        self._storage, self._there = storage, storage.get_study_id_from_name(name)
        self._memory = InMemoryStorage()
        self.study = optuna.create_study(
            study_name=name, storage=self._memory, directions=storage.get_study_directions(self._there)
        )
        self._here = self._memory.get_study_id_from_name(name)
        for trial in storage.get_all_trials(self._there):
            self._memory.create_new_trial(self._here, trial)
        for key, value in storage.get_study_user_attrs(self._there).items():
            self._memory.set_study_user_attr(self._here, key, value)
        self._system_attrs = storage.get_study_system_attrs(self._there)
        for key, value in self._system_attrs.items():
            self._memory.set_study_system_attr(self._here, key, value)
        self._saved = self.trials()
        self.id = str(self.recall("id", name))

    @property
    def several(self) -> bool:
        """Whether there is more than one objective, and so a front instead of a best."""
        return len(self.goals) > 1

    def recall(self, key: str, default: Any = None) -> Any:
        """What `remember` kept."""
        return self._memory.get_study_user_attrs(self._here).get(key, default)

    def remember(self, key: str, value: Any) -> None:
        """Keep plain data with the study."""
        for storage, study_id in ((self._memory, self._here), (self._storage, self._there)):
            storage.set_study_user_attr(study_id, key, value)

    # Trials, asked for and told.

    def enqueue(self, parameters: Mapping[str, Any], attributes: Mapping[str, Any]) -> None:
        """Have a trial with these parameters tried next."""
        self.study.enqueue_trial(dict(parameters), user_attrs=dict(attributes))
        self.save(len(self._saved))

    def next_number(self) -> int:
        """The number of the trial that `ask` will give."""
        waiting = self.trials(TrialState.WAITING)
        return waiting[0].number if waiting else len(self._saved)

    def ask(self, sampler: BaseSampler) -> optuna.Trial:
        """The next trial: the first that waits, else a new one. A new one is in memory only until it is saved."""
        self.study.sampler = sampler
        number = self.next_number()
        if number == len(self._saved):
            return self.study.ask()
        self._memory.set_trial_state_values(self._id(number), TrialState.RUNNING)
        return self.reopen(number)

    def reopen(self, number: int) -> optuna.Trial:
        """A running trial, such as an earlier session left."""
        return optuna.Trial(self.study, self._id(number))

    def tell(self, trial: optuna.Trial, result: Result) -> TrialState:
        """Record how a trial ended; one that was interrupted waits, to be continued.

        Args:
            trial: that was asked for.
            result: its run's; with ``duplicate_of`` that of an equal one.
        """
        if result.status == "interrupted":
            return self.requeue(trial)
        trial.set_user_attr("result", {key: getattr(result, key) for key in _KEPT})
        if result.duplicate_of:
            trial.set_user_attr("duplicate_of", result.duplicate_of)
        for name, bound in self.constraints.items():
            if (value := measured(name, result)) is not None:
                trial.set_constraint(name, bound.violation(value))
        values = [measured(goal.metric, result) for goal in self.goals]
        if result.status == "finished" and all(value is not None and math.isfinite(value) for value in values):
            return self._end(trial, TrialState.COMPLETE, [value for value in values if value is not None])
        if result.status == "pruned":
            return self._end(trial, TrialState.PRUNED)
        return self.fail(trial, result.reason or "error", result.detail or f"no {self.goals[0].metric}")

    def fail(self, trial: optuna.Trial, why: str, detail: str) -> TrialState:
        """Record that a trial failed, or was impossible (``infeasible``), and why."""
        trial.set_user_attr("reason", why)
        trial.set_user_attr("detail", detail)
        return self._end(trial, TrialState.PRUNED if why == "infeasible" else TrialState.FAIL)

    def requeue(self, trial: optuna.Trial) -> TrialState:
        """Let a running trial wait: it is asked for again under its number, and goes on."""
        self._memory.set_trial_state_values(self._id(trial.number), TrialState.WAITING)
        self.save(trial.number)
        return TrialState.WAITING

    def save(self, number: int) -> None:
        """Write to the database what is new of a trial, and what its sampler noted. A new trial is one transaction."""
        trial = self.trials()[number]
        for key, value in self._memory.get_study_system_attrs(self._here).items():
            if self._system_attrs.get(key) != value:
                self._system_attrs[key] = value
                self._storage.set_study_system_attr(self._there, key, value)
        if number == len(self._saved):
            self._storage.create_new_trial(self._there, trial)
            self._saved.append(trial)
            return
        before, there = self._saved[number], self._storage.get_trial_id_from_study_id_trial_number(self._there, number)
        for name in trial.params.keys() - before.params.keys():
            distribution = trial.distributions[name]
            internal = distribution.to_internal_repr(trial.params[name])
            self._storage.set_trial_param(there, name, internal, distribution)
        for key, value in trial.user_attrs.items():
            if before.user_attrs.get(key) != value:
                self._storage.set_trial_user_attr(there, key, value)
        for key, value in trial.system_attrs.items():
            if before.system_attrs.get(key) != value:
                self._storage.set_trial_system_attr(there, key, value)
        for step in trial.intermediate_values.keys() - before.intermediate_values.keys():
            self._storage.set_trial_intermediate_value(there, step, trial.intermediate_values[step])
        if trial.state != before.state:
            self._storage.set_trial_state_values(there, trial.state, trial.values)
        self._saved[number] = trial

    def _end(self, trial: optuna.Trial, state: TrialState, values: Sequence[float] | None = None) -> TrialState:
        self.study.tell(trial, values, state)
        self.save(trial.number)
        return state

    def _id(self, number: int) -> int:
        """Of a trial, in memory."""
        return self._memory.get_trial_id_from_study_id_trial_number(self._here, number)

    # Trials, counted and ranked.

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        """The trials in these states (all without one) by number, not to be changed; see `state_of`."""
        trials = self.study.get_trials(deepcopy=False)
        return [trial for trial in trials if state_of(trial) in states] if states else trials

    def counted(self) -> int:
        """The trials that ended and count towards the total: all but the impossible."""
        return sum(reason(trial) != "infeasible" for trial in self.trials(*_ENDED))

    def counts(self) -> dict[str, int]:
        """Trials by Optuna's states, in small letters; the impossible, which do not count, on their own."""
        found = Counter(
            "infeasible" if reason(trial) == "infeasible" else trial.state.name.lower()
            for trial in self.trials()
            if trial.state != TrialState.WAITING
        )
        return {"complete": 0, "pruned": 0, "fail": 0} | dict(found)

    def failures(self) -> dict[str, int]:
        """Failed trials by reason, the impossible among them."""
        return dict(Counter(str(reason(trial)) for trial in self.trials(TrialState.FAIL)))

    def frequent_failure(self) -> str:
        """The most frequent failure, as a few words."""
        seen = Counter((reason(trial), trial.user_attrs.get("detail")) for trial in self.trials(TrialState.FAIL))
        if not seen:
            return "none failed"
        (word, detail), count = seen.most_common(1)[0]
        return f"{count} × {word}: {detail}"

    def duplicates(self) -> int:
        """Trials that took over the result of an equal one."""
        return sum("duplicate_of" in trial.user_attrs for trial in self.trials(*_ENDED))

    def keeps(self, trial: FrozenTrial) -> bool:
        """Whether a trial that ended keeps the constraints, which may be others than when it ended."""
        result = trial.user_attrs["result"]
        values = {
            name: (result if name in metrics.RUN_METRICS else result["metrics"]).get(name) for name in self.constraints
        }
        return all(value is None or self.constraints[name].violation(value) <= 0 for name, value in values.items())

    def feasible(self) -> list[FrozenTrial]:
        """The complete trials that keep the constraints."""
        return [trial for trial in self.trials(TrialState.COMPLETE) if self.keeps(trial)]

    def ranking(self, metric: str | None = None) -> list[FrozenTrial]:
        """The feasible complete trials, the best first; of equal ones the earlier first; duplicates are left out.

        Args:
            metric: the objective to go by; None = the first.
        """
        index = [goal.metric for goal in self.goals].index(metric) if metric else 0
        sign = -self.goals[index].sign
        own = [trial for trial in self.feasible() if "duplicate_of" not in trial.user_attrs]
        return sorted(own, key=lambda trial: (sign * float(trial.values[index]), trial.number))

    def best(self) -> FrozenTrial | None:
        """The first of the `ranking`; None where it is empty."""
        return next(iter(self.ranking()), None)

    def baseline(self) -> FrozenTrial | None:
        """The trial of the config's own values in the `ranking`; None where there is none that came to its end."""
        own = {
            trial.user_attrs["digest"]
            for trial in self.feasible()
            if BASELINE in trial.user_attrs and self.own in (None, trial.user_attrs.get(IDENTITY, self.own))
        }
        return next((trial for trial in self.ranking() if trial.user_attrs["digest"] in own), None)

    def front(self) -> list[FrozenTrial]:
        """The feasible complete trials that none dominates: none is as good in all objectives and better in one.

        Of trials with equal values the earliest stands for all.
        """
        members: dict[tuple[float, ...], FrozenTrial] = {}
        # in this order no trial is dominated by a later one
        for trial in sorted(self.ranking(), key=lambda trial: (self._costs(trial), trial.number)):
            cost = self._costs(trial)
            if not any(all(a <= b for a, b in zip(other, cost, strict=True)) for other in members):
                members[cost] = trial
        return [*members.values()]

    def _costs(self, trial: FrozenTrial) -> tuple[float, ...]:
        """Its values, with signs by which lower is better."""
        return tuple(-goal.sign * value for goal, value in zip(self.goals, trial.values, strict=True))
