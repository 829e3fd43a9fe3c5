"""Optuna's record of a sweep: opened or resumed, and only if it is still the same sweep; asked and told."""

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from mnist_sweep.config import metrics, schema
from mnist_sweep.config.sweep_options import Bound, Objective
from mnist_sweep.errors import uninterrupted
from mnist_sweep.result import Result, trial_of
from mnist_sweep.sweep.storage import Mirror

optuna.logging.set_verbosity(optuna.logging.ERROR)

#: What a trial keeps of its result; the rest is in its folder.
_KEPT = (
    "command", "mlflow_run_id", "folder", "metrics", "seconds", "epochs", "overrides", "attempts", "parameters",
    "multiply_adds",
)  # fmt: skip
#: Attribute of the trial that has the config's own values.
BASELINE = "baseline"
#: Attribute of a trial that was queued: what tells it from the others.
IDENTITY = "queued"
_ENDED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


def objectives(config: schema.Config) -> list[Objective]:
    """What a sweep judges its trials by: ``sweep.objectives``, or the config's objective."""
    assert config.sweep is not None
    return config.sweep.objectives or [Objective(metric=config.objective, direction=config.direction)]


def measured(metric: str, result: Result) -> float | None:
    """A trial's value of a metric: the best epoch's, or of the whole run; None where there is none."""
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


def kept(trial: FrozenTrial) -> bool:
    """Whether a trial kept the constraints of its study when it ended."""
    return all(violation <= 0 for violation in trial.constraints.values())


class Study:
    """A study that this process alone writes.

    Args:
        study: Optuna's, on `storage`.
        storage: holds it.
        goals: one objective or several.
        constraints: what a trial's metrics may be.

    Attributes:
        id: by which its runs are known in MLflow, where another study may have the same name.
        own: the identity of the config's own values, by `IDENTITY`; empty where the space does not hold them,
            None where nobody has said.
    """

    def __init__(
        self, study: optuna.Study, storage: Mirror, goals: Sequence[Objective], constraints: Mapping[str, Bound]
    ) -> None:
        self.study, self.storage, self.goals, self.constraints = study, storage, list(goals), constraints
        self.id = str(self.recall("id", study.study_name))
        self.own: str | None = None
        self._ended = 0
        self._counted = sum(reason(trial) != "infeasible" for trial in self.trials(*_ENDED))
        self._best: tuple[int, FrozenTrial | None] | None = None

    @property
    def several(self) -> bool:
        """Whether there is more than one objective, and so a front instead of a best."""
        return len(self.goals) > 1

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        """The trials in these states (all without one), by number; not to be changed."""
        return self.study.get_trials(deepcopy=False, states=states or None)

    def reopened(self, number: int) -> optuna.Trial:
        """A trial that an earlier sitting left running, to be told."""
        return optuna.Trial(self.study, self.trials()[number]._trial_id)

    def recall(self, key: str, default: Any = None) -> Any:
        """What `remember` kept."""
        return self.study.user_attrs.get(key, default)

    def remember(self, key: str, value: Any) -> None:
        """Keep plain data with the study."""
        self.study.set_user_attr(key, value)

    def begin(self, trial: optuna.Trial) -> None:
        """From now on the trial is in the database."""
        self.storage.commit(trial._trial_id)

    def tell(self, trial: optuna.Trial, result: Result) -> TrialState:
        """Record how a trial ended; one that was interrupted goes back into the queue, to be continued."""
        self._ended += 1
        with uninterrupted():
            if result.status == "interrupted":
                self.park(trial)
                return TrialState.WAITING
            trial.set_user_attr("result", {key: getattr(result, key) for key in _KEPT})
            if result.duplicate_of:
                trial.set_user_attr("duplicate_of", result.duplicate_of)
            judged = self._as_trained(result)
            for name, bound in self.constraints.items():
                if (value := measured(name, judged)) is not None:
                    trial.set_constraint(name, bound.violation(value))
            values = [measured(goal.metric, judged) for goal in self.goals]
            if result.status == "finished" and all(value is not None and math.isfinite(value) for value in values):
                self._counted += 1
                self.study.tell(trial, [value for value in values if value is not None])
                return TrialState.COMPLETE
            if result.status == "pruned":
                self._counted += 1
                self.study.tell(trial, state=TrialState.PRUNED)
                return TrialState.PRUNED
            self.fail(trial, result.reason or "error", result.detail or f"no {self.goals[0].metric}")
            return TrialState.FAIL

    def _as_trained(self, result: Result) -> Result:
        """The result; of a repeated one with the time that the original took, which an objective may ask for."""
        if not result.duplicate_of:
            return result
        original = self._original(result.duplicate_of)
        return dataclasses.replace(result, seconds=original.user_attrs["result"]["seconds"])

    def _original(self, name: str) -> FrozenTrial:
        """The trial whose run has this name."""
        return self.trials()[trial_of(name)]

    def keeps(self, trial: FrozenTrial) -> bool:
        """Whether a trial that ended keeps the constraints, which may be others than when it ended."""
        return all(self._within(trial, name, bound) for name, bound in self.constraints.items())

    def _within(self, trial: FrozenTrial, name: str, bound: Bound) -> bool:
        """Whether a trial is within a bound; one without a value is."""
        repeated = trial.user_attrs.get("duplicate_of")
        result = (self._original(repeated) if repeated else trial).user_attrs["result"]
        value = result.get(name) if name in metrics.RUN_METRICS else result["metrics"].get(name)
        return value is None or bound.violation(value) <= 0

    def fail(self, trial: optuna.Trial, reason: str, detail: str) -> None:
        """Record that a trial failed, or was impossible, and why."""
        with uninterrupted():
            self._counted += reason != "infeasible"
            trial.set_user_attr("reason", reason)
            trial.set_user_attr("detail", detail)
            self.study.tell(trial, state=TrialState.FAIL)

    def park(self, trial: optuna.Trial) -> None:
        """Put a running trial back into the queue: the same number is asked for next time, and goes on."""
        with uninterrupted():
            self.storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)

    def counted(self) -> int:
        """The trials that ended and count towards the total: all but the impossible."""
        return self._counted

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
        """Trials that took over the value of an equal one."""
        return sum("duplicate_of" in trial.user_attrs for trial in self.trials(*_ENDED))

    def feasible(self) -> list[FrozenTrial]:
        """The complete trials that keep the constraints."""
        return [trial for trial in self.trials(TrialState.COMPLETE) if self.keeps(trial)]

    def ranking(self, metric: str | None = None) -> list[FrozenTrial]:
        """The feasible complete trials, the best first; of equal ones the earlier first; duplicates are left out.

        Args:
            metric: the objective to go by; None = the first.
        """
        names = [goal.metric for goal in self.goals]
        index = names.index(metric) if metric else 0
        sign = -self.goals[index].sign
        own = [trial for trial in self.feasible() if "duplicate_of" not in trial.user_attrs]
        return sorted(own, key=lambda trial: (sign * float(trial.values[index]), trial.number))

    def best(self) -> FrozenTrial | None:
        """The first of the `ranking`; looked up again only when a trial has ended meanwhile."""
        ended = self._ended
        if self._best is None or self._best[0] != ended:
            ranking = self.ranking()
            self._best = ended, ranking[0] if ranking else None
        return self._best[1]

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
        costs = {
            trial.number: tuple(-goal.sign * value for goal, value in zip(self.goals, trial.values, strict=True))
            for trial in self.ranking()
        }
        members: list[FrozenTrial] = []
        lowest: set[tuple[float, ...]] = set()
        # in this order nobody is dominated by a later one
        for trial in sorted(self.ranking(), key=lambda trial: (costs[trial.number], trial.number)):
            cost = costs[trial.number]
            if not any(all(a <= b for a, b in zip(other, cost, strict=True)) for other in lowest):
                members.append(trial)
                lowest.add(cost)
        return members


def reason(trial: FrozenTrial) -> str | None:
    """Why a trial failed, one word; None where it did not."""
    return trial.user_attrs.get("reason") if trial.state == TrialState.FAIL else None
