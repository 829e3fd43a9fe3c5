"""Optuna's study of a sweep: trials are asked for and told, counted and ranked."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from mnist_sweep.config import schema
from mnist_sweep.config.command import CommandLine
from mnist_sweep.config.sweep_options import Bound, Objective
from mnist_sweep.result import Result
from mnist_sweep.sweep.lease import Lease
from mnist_sweep.sweep.samplers_view import SamplersView, epochs_of, measured, reason
from mnist_sweep.sweep.space import Space
from mnist_sweep.sweep.writing import write_new, write_trial, written

optuna.logging.set_verbosity(optuna.logging.ERROR)

#: What a trial keeps of its result, as the user attribute ``result``; the rest is in its folder.
_KEPT = (
    "command", "mlflow_run_id", "folder", "metrics", "seconds", "epochs", "overrides", "attempts", "parameters",
    "multiply_adds", "seeds",
)  # fmt: skip
#: User attribute of the trial that has the config's own values.
BASELINE = "baseline"
#: User attribute of a trial that was queued: what tells it from the others.
IDENTITY = "queued"
#: User attribute of a trial that was queued since another one failed: the number of that.
RETRY = "retry of"
#: Study attribute: the epochs spent, the value and the trial whenever an epoch was better than all before.
CURVE = "curve"


def objectives(config: schema.Config) -> list[Objective]:
    """What a sweep judges its trials by: ``sweep.objectives``, or the config's objective."""
    assert config.sweep is not None
    return config.sweep.objectives or [Objective(metric=config.objective, direction=config.direction)]


def value_of(goal: Objective, result: Result) -> float:
    """The value of a finished run, which has one."""
    value = measured(goal.metric, vars(result))
    assert value is not None
    return value


def has_score(goal: Objective, trial: FrozenTrial) -> bool:
    """Whether a trial has a `first_score`: one may have failed before it had read how far it had come."""
    return "result" in trial.user_attrs and measured(goal.metric, trial.user_attrs["result"]) is not None


def first_score(goal: Objective, trial: FrozenTrial) -> float:
    """What a trial that has a result reached when it was searched."""
    value = measured(goal.metric, trial.user_attrs["result"])
    assert value is not None
    return value


def best_run(goal: Objective, results: Sequence[Result]) -> Result:
    """The best of a winner's runs on validation, since the best on the test set would be the luckiest there."""
    return max(results, key=lambda result: goal.sign * value_of(goal, result))


class Study:
    """A study that this process alone writes.

    Samplers and pruners read it in memory: to read the database at each of their questions takes more processor time
    than all else. `save` writes what has changed to the database. Optuna is told that a candidate that broke a
    constraint was pruned; here it counts as failed. `common` is what the trials have in common in this session: those
    of earlier ones are found below its output. With a `lease` it is on a server, which may be away for a while.
    """

    def __init__(
        self,
        storage: BaseStorage,
        name: str,
        goals: Sequence[Objective],
        constraints: Mapping[str, Bound],
        space: Space,
        seed: int = 0,
        common: CommandLine | None = None,
        lease: Lease | None = None,
    ) -> None:
        self.name, self.goals, self.constraints, self.space = name, list(goals), constraints, space
        self.own: str | None = None  # the `IDENTITY` of the config's own values; None where the space lacks them
        self._lease = lease
        self._storage, self._stored = storage, storage.get_study_id_from_name(name)
        self._memory = SamplersView(constraints, space)
        directions = storage.get_study_directions(self._stored)
        # named by the seed, since Hyperband draws its brackets from the name
        self.study = optuna.create_study(study_name=str(seed), storage=self._memory, directions=directions)
        self._here = self._memory.get_study_id_from_name(str(seed))
        for trial in storage.get_all_trials(self._stored):
            if common and (result := trial.user_attrs.get("result")):
                trial.set_user_attr("result", _placed(result, common))
            self._memory.create_new_trial(self._here, trial)
        self._again = {trial.user_attrs.get(RETRY) for trial in self.trials()}  # numbers that were tried again
        self._known = len(self.trials())  # so many trials of the database are known here
        for key, value in storage.get_study_user_attrs(self._stored).items():
            self.study.set_user_attr(key, value)
        for key, value in storage.get_study_system_attrs(self._stored).items():
            self._memory.set_study_system_attr(self._here, key, value)

    @property
    def id(self) -> str:
        """By which its runs are known in MLflow, where another study may have the same name."""
        return str(self.recall("id"))

    @property
    def several(self) -> bool:
        """Whether there is more than one objective, and so a front instead of a best."""
        return len(self.goals) > 1

    def recall(self, key: str, default: Any = None) -> Any:
        """What `remember` kept."""
        return self.study.user_attrs.get(key, default)

    def remember(self, key: str, value: Any) -> None:
        """Keep plain data with the study."""
        self.study.set_user_attr(key, value)
        written(self._lease, partial(self._storage.set_study_user_attr, self._stored, key, value))

    def enqueue(self, parameters: Mapping[str, Any], attributes: Mapping[str, Any]) -> None:
        """Have a trial with these parameters tried next."""
        self.study.enqueue_trial(dict(parameters), user_attrs=dict(attributes))
        self._again.add(attributes.get(RETRY))
        self.save(len(self.trials()) - 1)

    def ask(self, number: int, sampler: BaseSampler, *, learns_from_pruned: bool = True) -> optuna.Trial:
        """The trial of this number. A new one is in memory only until it is saved."""
        self.study.sampler, self._memory.learns_from_pruned = sampler, learns_from_pruned
        if number == len(self.trials()):
            return self.study.ask()
        self._memory.set_trial_state_values(self._id(number), TrialState.RUNNING)
        return self.reopen(number)

    def reopen(self, number: int) -> optuna.Trial:
        """A running trial, such as a session that died has left."""
        return optuna.Trial(self.study, self._id(number))

    def tell(self, trial: optuna.Trial, result: Result) -> TrialState:
        """Record how a trial ended; one that was interrupted waits, to be continued."""
        if result.status == "interrupted":
            return self.requeue(trial)
        trial.set_user_attr("result", {key: getattr(result, key) for key in _KEPT})
        if result.duplicate_of:
            trial.set_user_attr("duplicate_of", result.duplicate_of)
        for name, bound in self.constraints.items():
            if (value := measured(name, vars(result))) is not None:
                trial.set_constraint(name, bound.violation(value))
        if result.status == "pruned":
            return self._end(trial, TrialState.PRUNED)
        found = (measured(goal.metric, vars(result)) for goal in self.goals)
        values = [value for value in found if value is not None and math.isfinite(value)]
        if result.status == "finished" and len(values) == len(self.goals):
            return self._end(trial, TrialState.COMPLETE, values)
        return self.fail(trial, result.reason or "error", result.detail or f"no {self.goals[0].metric}")

    def fail(self, trial: optuna.Trial, why: str, detail: str) -> TrialState:
        """Record that a trial failed, or broke a constraint before it was trained (``infeasible``), and why."""
        trial.set_user_attr("reason", why)
        trial.set_user_attr("detail", detail)
        return self._end(trial, TrialState.PRUNED if why == "infeasible" else TrialState.FAIL)

    def prune(self, number: int, result: Result | None) -> None:
        """Record that a paused trial does not go on; the result of its run is that until now."""
        self._memory.set_trial_state_values(self._id(number), TrialState.RUNNING)
        trial = self.reopen(number)
        if result:
            self.tell(trial, result)
        else:
            self.fail(trial, "error", "the folder of its run is gone")

    def requeue(self, trial: optuna.Trial) -> TrialState:
        """Let a running trial wait: it is asked for again under its number, and goes on."""
        self._memory.set_trial_state_values(self._id(trial.number), TrialState.WAITING)
        self.save(trial.number)
        return TrialState.WAITING

    def save(self, number: int) -> None:
        """Write to the database what is new of a trial, and what its sampler noted of the study.

        A RunFailure says that it cannot be written, as on a full disk; that a server did not answer for minutes; or
        that another driver has taken over.
        """
        written(self._lease, partial(self._save, number))

    def _save(self, number: int) -> None:
        storage = self._storage
        noted = self._memory.get_study_system_attrs(self._here), storage.get_study_system_attrs(self._stored)
        write_new(*noted, partial(storage.set_study_system_attr, self._stored))
        write_trial(storage, self._stored, self.trials()[number], new=number >= self._known)
        self._known = max(self._known, number + 1)

    def look(self) -> list[int]:
        """Take in what another program has added to the study since; the numbers of these trials. All others are saved.

        It raises as `save` does.
        """
        before = len(self.trials())
        written(self._lease, self._look)
        return [*range(before, len(self.trials()))]

    def _look(self) -> None:
        try:
            self._storage.get_trial_id_from_study_id_trial_number(self._stored, len(self.trials()))
        except KeyError:  # there is none
            return
        for trial in self._storage.get_all_trials(self._stored)[len(self.trials()) :]:
            self._memory.create_new_trial(self._here, trial)
        self._known = len(self.trials())

    def _end(self, trial: optuna.Trial, state: TrialState, values: Sequence[float] | None = None) -> TrialState:
        self.study.tell(trial, values, state)
        self.save(trial.number)
        return state

    def _id(self, number: int) -> int:
        return self._memory.get_trial_id_from_study_id_trial_number(self._here, number)

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        """The trials in these states by number, not to be changed: the infeasible have failed, the paused do not wait.

        Without a state all, the foreign ones included, too.
        """
        trials = self._memory.recorded(self._here)
        if not states:
            return trials
        kinds = {state.name.lower() for state in states} | ({"infeasible"} if TrialState.FAIL in states else set())
        return [trial for trial, kind in zip(trials, self._memory.kinds, strict=True) if kind in kinds]

    def foreign(self) -> list[int]:
        """The numbers of the trials that another program added: samplers learn from them, and that is all."""
        return [number for number, kind in enumerate(self._memory.kinds) if kind == "foreign"]

    def paused(self) -> list[FrozenTrial]:
        """The trials that wait at a rung."""
        return [trial for trial, kind in zip(self.trials(), self._memory.kinds, strict=True) if kind == "paused"]

    def reached(self, number: int, value: float) -> None:
        """Keep the best value so far, of any trial after any epoch, with the epochs that were spent until then."""
        curve, sign = self.recall(CURVE, []), self.goals[0].sign
        if not curve or sign * value > sign * curve[-1][1]:
            self.remember(CURVE, [*curve, [self.epochs(), value, number]])

    def counted(self) -> int:
        """The trials that ended and count: all but the infeasible, the foreign and those that are tried again."""
        ended = ("complete", "pruned", "fail")
        return sum(kind in ended and number not in self._again for number, kind in enumerate(self._memory.kinds))

    def retryable(self) -> list[FrozenTrial]:
        """The failed trials that may do better another time, and have not been tried again."""
        failed = [trial for trial in self.trials(TrialState.FAIL) if trial.number not in self._again]
        return [trial for trial in failed if reason(trial) not in ("infeasible", "diverged")]

    def retry(self) -> None:
        """Queue what failed, and may do better another time."""
        for trial in self.retryable():
            same = {key: trial.user_attrs[key] for key in (IDENTITY, BASELINE) if key in trial.user_attrs}
            self.enqueue(trial.params, {**same, RETRY: trial.number})

    def counts(self) -> dict[str, int]:
        """Trials by Optuna's states, in small letters; the infeasible and the paused on their own."""
        found = Counter(complete=0, pruned=0, fail=0)
        found.update(self._memory.kinds)
        return {kind: count for kind, count in found.items() if kind not in ("foreign", "waiting")}

    def epochs(self) -> int:
        """That all trials have trained together, with all seeds. What is not judged by epochs counts at its end."""
        return sum(map(epochs_of, self.trials()))

    def failures(self) -> dict[str, int]:
        """Failed trials by reason, the infeasible among them."""
        return dict(Counter(str(reason(trial)) for trial in self.trials(TrialState.FAIL)))

    def duplicates(self) -> int:
        """Trials that took over the result of an equal one."""
        return sum("duplicate_of" in trial.user_attrs for trial in self.trials())

    def keeps(self, trial: FrozenTrial) -> bool:
        """Whether a trial that ended keeps the constraints, which may be others than when it ended."""
        values = {name: measured(name, trial.user_attrs["result"]) for name in self.constraints}
        return all(value is None or self.constraints[name].violation(value) <= 0 for name, value in values.items())

    def feasible(self) -> list[FrozenTrial]:
        """The complete trials that keep the constraints."""
        return [trial for trial in self.trials(TrialState.COMPLETE) if self.keeps(trial)]

    def ranking(self, metric: str | None = None) -> list[FrozenTrial]:
        """The feasible trials, the best by this or the first objective first, equal ones by number; no duplicates."""
        index = [goal.metric for goal in self.goals].index(metric) if metric else 0
        own = [trial for trial in self.feasible() if "duplicate_of" not in trial.user_attrs]
        return sorted(own, key=lambda trial: self._costs(trial)[index])

    def best(self) -> FrozenTrial | None:
        """The first of the `ranking`; None where it is empty."""
        return next(iter(self.ranking()), None)

    def contenders(self) -> list[FrozenTrial]:
        """The trials that may win, the best first: the `ranking`, and those that ended otherwise but came as far.

        Where no trial is complete, those that came furthest.
        """
        complete, goal = {trial.number for trial in self.ranking()}, self.goals[0]
        known = [t for t in self.trials() if t.intermediate_values and has_score(goal, t) and self.keeps(t)]
        came = {trial.number: max(trial.intermediate_values) for trial in known}
        enough = min((came[number] for number in came.keys() & complete), default=max(came.values(), default=0))
        known = [trial for trial in known if came[trial.number] >= enough or trial.number in complete]
        known += [trial for trial in self.ranking() if not trial.intermediate_values]
        known.sort(key=lambda trial: (trial.number in complete, trial.number))
        # what failed and did better when it was tried again has one place: the later takes that of the earlier
        once = {trial.user_attrs.get("digest", trial.number): trial for trial in known}.values()
        return sorted(once, key=lambda trial: (-goal.sign * first_score(goal, trial), trial.number))

    def baseline(self) -> FrozenTrial | None:
        """The trial of the config's own values, however far it came; None where there is none."""
        own = [t for t in self.trials() if self.own and t.user_attrs.get(IDENTITY) == self.own]
        return next((trial for trial in reversed(own) if "result" in trial.user_attrs), None)  # the last of the tries

    def front(self) -> list[FrozenTrial]:
        """The feasible trials that none dominates: none is as good in all objectives and better in one.

        Of trials with equal values the earliest stands for all.
        """
        members: dict[tuple[float, ...], FrozenTrial] = {}
        # in this order no trial is dominated by a later one
        for trial in sorted(self.ranking(), key=self._costs):
            costs = self._costs(trial)
            if not any(all(a <= b for a, b in zip(member, costs, strict=True)) for member in members):
                members[costs] = trial
        return [*members.values()]

    def _costs(self, trial: FrozenTrial) -> tuple[float, ...]:
        """Its values, with signs by which lower is better."""
        return tuple(-goal.sign * value for goal, value in zip(self.goals, trial.values, strict=True))


def _placed(result: Mapping[str, Any], common: CommandLine) -> dict[str, Any]:
    """A result as this session of the sweep, which may be elsewhere, would find it below its own output."""
    before = CommandLine.of(result["overrides"], common.config_dir)
    command, folder = before.placed_as(common, "output", "tracking"), Path(result["folder"]).name
    found = {**result, "folder": str(Path(common.config.output) / "runs" / folder)}
    return found if command == before else {**found, "overrides": [*command.overrides], "command": command.shell()}
