"""The loop of a sweep: ask → check → submit → report → tell."""

import itertools
import json
import logging
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from mnist_sweep import unperformed
from mnist_sweep.config import metrics, schema
from mnist_sweep.config.overrides import override
from mnist_sweep.errors import RequestError, RunFailure, uninterrupted
from mnist_sweep.result import Result, run_name
from mnist_sweep.run_record import differences
from mnist_sweep.sweep import samplers as methods
from mnist_sweep.sweep.candidates import Proposal, Proposals
from mnist_sweep.sweep.progress import View
from mnist_sweep.sweep.space import Space
from mnist_sweep.sweep.stopping import Budget
from mnist_sweep.sweep.study import BASELINE, Study, reason
from mnist_sweep.sweep.workers import Reported, Task
from mnist_sweep.sweep.workers.pool import Crew
from mnist_sweep.tracking import Account

log = logging.getLogger(__name__)

#: Attribute of a trial: after which epoch it was to end.
_PRUNED = "pruned_at"
#: So many impossible proposals in a row mean that the space holds hardly anything else.
MOST_IMPOSSIBLE = 200
#: After so many in a row, chance proposes until one is possible.
_LOST = 10
#: Seconds between two looks at the clock, while nothing happens.
_TICK = 0.5
#: Seconds of the search that are forgotten at most where its process dies.
_KEPT_EVERY = 10.0


class Search:
    """Trials until the total, the time or the target is reached.

    Args:
        config: of the sweep.
        study: where everything is recorded.
        space: what is drawn.
        proposals: makes configs of it.
        budget: when it is enough.
        account: the sweep's own, in MLflow.
    """

    def __init__(
        self,
        config: schema.Config,
        study: Study,
        space: Space,
        proposals: Proposals,
        budget: Budget,
        account: Account,
    ) -> None:
        assert config.sweep is not None
        self.config, self.settings = config, config.sweep
        self.study, self.space, self.proposals, self.budget, self.account = study, space, proposals, budget, account
        self.runs = Path(config.output) / "runs"
        self.study.study.pruner = methods.pruner(self.settings, _most_epochs(config, space))
        goal = study.goals[0].metric
        self.pruned_by = goal if goal in metrics.EPOCH_METRICS and not study.several else None
        self.points = methods.points(self.settings, space)
        #: The points of a grid that have been proposed, each as JSON.
        self.visited = {_point(each) for each in study.trials() if self.points and each.state != TrialState.WAITING}
        self.repeated = study.duplicates()
        if not study.several and (best := study.best()):
            budget.value(best.values[0])
        self.done = study.counted()
        self.asked: dict[int, tuple[optuna.Trial, Proposal]] = {}
        self.trained = self._known()  # trials by the digest of what they train or have trained
        self.followers: dict[int, list[int]] = {}  # trials that wait for the end of an equal one
        self.impossible = self._lately_impossible()
        self.kept = budget.seconds()  # of the time that is spent, what the study knows

    def perform(self, crew: Crew, view: View) -> None:
        """Begin and end trials until there are enough.

        Raises:
            RunFailure: the same failure came again and again, or the space holds nothing that is possible.
            Interrupted: after every trial has been recorded.
        """

        def decide(reported: Reported) -> bool:
            return self._decide(reported, crew, view)

        try:
            while self._more() or crew.running:
                if self._spent():
                    break
                if ready := self._more() and crew.free() > 0:
                    with uninterrupted():  # no trial is asked for that nobody knows of
                        self._propose(crew, view)
                for task, result in crew.wait(0 if ready else _TICK, decide):
                    self._told(task.id, result, view)
                view.tick()
                self._remember()
        finally:
            with uninterrupted():  # nothing is left running, whatever ended the loop
                for task, result in crew.stop():
                    self._record(task.id, result)
                for number in [*self.asked]:
                    self._record(number, self._left(number))
        if why := self.budget.over():
            log.info("%s: %d trials are done", why, self.study.counted())

    def name(self, number: int) -> str:
        """Of a trial's run and its folder."""
        return run_name(self.settings.name, number)

    def _spent(self) -> bool:
        """Whether it is enough, and what runs is to be stopped."""
        return self.settings.on_budget == "stop" and self.budget.over() is not None

    def _more(self) -> bool:
        """Whether another trial is to be begun."""
        done = self.done
        if self.points:  # a point is tried once, however many trials propose it
            done -= self.repeated
            if len(self.visited) >= self.points and not self.study.trials(TrialState.WAITING):
                return False
        return done + len(self.asked) < self.settings.trials and self.budget.over() is None

    def _propose(self, crew: Crew, view: View) -> None:
        """Ask for one proposal and train it, unless it is impossible or known."""
        waiting = self.study.trials(TrialState.WAITING)
        number = waiting[0].number if waiting else len(self.study.trials())
        before = self.study.study.sampler
        self.study.study.sampler = methods.sampler(
            self.settings, self.space, self.config.seed, number, before, lost=self.impossible >= _LOST
        )
        trial = self.study.study.ask()
        values = self.space.suggest(trial)
        if self.points:
            self.visited.add(_point(trial))
        try:
            proposal = self.proposals.make(values)
        except RequestError as error:
            self._impossible(trial, str(error))
            return
        self.impossible = 0
        folder = self.runs / self.name(number)
        earlier = trial.user_attrs.get("digest")  # of a trial that goes on
        attributes = {"proposed": proposal.drawn, "values": proposal.values, "digest": proposal.digest}
        for key, value in attributes.items() if earlier is None else []:
            trial.set_user_attr(key, value)
        if earlier is None and folder.exists():
            self._lost(trial, f"{folder} is there already, of another run")
            return
        self.study.begin(trial)
        if earlier is not None and (earlier != proposal.digest or differences(self._config(number, proposal))):
            self._superseded(trial, folder)
            return
        self.asked[number] = trial, proposal
        equal = self.trained.setdefault(proposal.digest, number)
        if equal in self.asked and equal != number:
            self.followers.setdefault(equal, []).append(number)
        elif equal != number and (original := Result.found(self.runs / self.name(equal))):
            self._told(number, self._repeat(number, original), view)
        else:
            self.trained[proposal.digest] = number
            crew.submit(
                Task(
                    id=number,
                    overrides=[*proposal.overrides, override("name", folder.name)],
                    config_dir=self.proposals.config_dir,
                    parent=self.account.run_id,
                    tags=self._tags(number),
                    resume=folder.exists(),
                    limit_seconds=self.settings.trial_seconds,
                )
            )
            view.began(number, proposal)

    def _remember(self) -> None:
        """Keep the time that is spent, in case this process dies."""
        if (spent := self.budget.seconds()) > self.kept + _KEPT_EVERY:
            self.study.remember("search_seconds", spent)
            self.kept = spent

    def _config(self, number: int, proposal: Proposal) -> schema.Config:
        return self.proposals.config(proposal.values).model_copy(update={"name": self.name(number)})

    def _tags(self, number: int) -> dict[str, Any]:
        return {"study": self.settings.name, "study.id": self.study.id, "trial": number}

    def _lost(self, trial: optuna.Trial, detail: str) -> None:
        """Fail a trial that cannot be performed, and go on with another."""
        log.warning("trial %d is not performed: %s", trial.number, detail)
        self.study.fail(trial, "error", detail)
        self.done += 1

    def _superseded(self, trial: optuna.Trial, folder: Path) -> None:
        """Give up a trial that was interrupted, and that the changed settings would go on with otherwise."""
        detail = "it was begun with settings that have changed since"
        unperformed.give_up(
            folder,
            self.config.tracking,
            config_dir=self.proposals.config_dir,
            parent=self.account.run_id,
            tags=self._tags(trial.number),
            detail=detail,
        )
        self._lost(trial, detail)

    def _impossible(self, trial: optuna.Trial, detail: str) -> None:
        self.study.fail(trial, "infeasible", detail)
        self.impossible += 1
        if self.impossible >= MOST_IMPOSSIBLE:
            raise RunFailure("infeasible", f"{self.impossible} impossible proposals in a row, the last: {detail}")

    def _lately_impossible(self) -> int:
        """How many of the last proposals of an earlier sitting were impossible in a row, at most `_LOST`."""
        newest = reversed(self.study.trials())
        row = itertools.takewhile(lambda trial: reason(trial) == "infeasible", newest)
        return min(_LOST, sum(1 for _ in row))

    def _repeat(self, number: int, original: Result) -> Result:
        """The result of a trial that is not trained, because an equal one was."""
        _, proposal = self.asked[number]
        return unperformed.repeat(
            self._config(number, proposal),
            [*proposal.overrides, override("name", self.name(number))],
            original,
            config_dir=self.proposals.config_dir,
            parent=self.account.run_id,
            tags=self._tags(number),
        )

    def _decide(self, reported: Reported, crew: Crew, view: View) -> bool:
        """Hear of an epoch; whether the trial goes on."""
        number, epoch = reported.task, reported.epoch
        if self._spent():  # where runs are performed within `wait`, nobody else looks at the clock
            crew.launcher.stop(number)
        trial, proposal = self.asked[number]
        go_on = True
        if self.pruned_by:
            value = reported.values[self.pruned_by]
            if epoch not in self.study.trials()[number].intermediate_values:
                trial.report(value, epoch)
            pruned = trial.should_prune()  # asked of all: a pruner may note here what others are held against
            pruned |= trial.user_attrs.get(_PRUNED, epoch + 1) <= epoch
            go_on = epoch >= proposal.epochs or not pruned or self._is_reference(trial)
            if not go_on:  # a pruner may answer otherwise when it is asked again, after the run has died meanwhile
                trial.set_user_attr(_PRUNED, epoch)
        view.reported(number, epoch, reported.values)
        return go_on

    def _is_reference(self, trial: optuna.Trial) -> bool:
        return self.settings.winner.baseline and BASELINE in trial.user_attrs

    def _told(self, number: int, result: Result | None, view: View) -> None:
        """A trial has ended: into the study, and the same for those that wait for it."""
        waiting = self.followers.pop(number, [])
        state = self._record(number, result)
        if result is None or state == TrialState.WAITING:
            view.parked(number)
            for follower in waiting:
                self._record(follower, None)
            return
        view.ended(number, result)
        for follower in waiting:
            self._told(follower, self._repeat(follower, result), view)
        ended = self.study.trials()[number]
        if state == TrialState.COMPLETE and self.study.keeps(ended):
            self.budget.value(float(ended.values[0]))
            self._improved(number)
        if result.duplicate_of is None:
            self.budget.ended(result)

    def _improved(self, number: int) -> None:
        """The best value so far, in the account: only where it changes, for each write costs milliseconds."""
        best = self.study.best()
        if best and best.number == number:
            self.account.metrics({f"best/{self.study.goals[0].metric}": best.values[0]}, self.done)

    def _record(self, number: int, result: Result | None) -> TrialState:
        """Tell the study; what could not record itself, or was interrupted, goes back into the queue."""
        trial, proposal = self.asked.pop(number)
        if result is None or result.status == "interrupted":
            self.study.park(trial)
            self.visited.discard(_point(trial))
            return TrialState.WAITING
        if result.status == "failed" and result.reason != "diverged" and self.trained.get(proposal.digest) == number:
            del self.trained[proposal.digest]  # the same config may do better another time
        self.done += 1
        self.repeated += result.duplicate_of is not None
        return self.study.tell(trial, result)

    def _left(self, number: int) -> Result | None:
        """What a trial recorded whose end was not heard of, since a signal came just then; None where nothing."""
        return Result.found(self.runs / self.name(number))

    def _known(self) -> dict[str, int]:
        """The trials of earlier sittings that need not be trained again, by digest."""
        ended = self.study.trials(TrialState.COMPLETE, TrialState.PRUNED)
        return {trial.user_attrs["digest"]: trial.number for trial in ended if "duplicate_of" not in trial.user_attrs}


def _point(trial: optuna.Trial | FrozenTrial) -> str:
    """What was drawn, as JSON."""
    return json.dumps(trial.params, sort_keys=True)


def _most_epochs(config: schema.Config, space: Space) -> int:
    """The most epochs that a trial can have."""
    own = config.trainer.max_epochs
    drawn = next((dimension for dimension in space.dimensions if dimension.key == "trainer.max_epochs"), None)
    if drawn is None:
        return own
    return max(map(int, [*drawn.leaf.ends(), *([own] if drawn.when else [])]))
