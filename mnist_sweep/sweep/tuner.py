"""The loop of a sweep: ask for a trial, have it trained, decide after each epoch whether it goes on, tell the study."""

import dataclasses
import itertools
import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from mnist_sweep import run_record
from mnist_sweep.config import schema
from mnist_sweep.config.pruners import ASHA
from mnist_sweep.errors import RequestError, RunFailure, check_interrupted
from mnist_sweep.result import Result, run_name
from mnist_sweep.run_folder import RunFolder
from mnist_sweep.sweep import samplers
from mnist_sweep.sweep.candidates import Candidate, Candidates
from mnist_sweep.sweep.prior_sampler import SOURCE, PriorSampler
from mnist_sweep.sweep.progress import Progress
from mnist_sweep.sweep.promotion import PAUSED, PROMOTED, SCHEDULE, Promotion, paused
from mnist_sweep.sweep.samplers_view import reason
from mnist_sweep.sweep.space import Space
from mnist_sweep.sweep.stopping import Stopping
from mnist_sweep.sweep.study import BASELINE, IDENTITY, Study
from mnist_sweep.sweep.workers import Decision, Finished, Report, Task, Workers
from mnist_sweep.tracking import MLflowRun

log = logging.getLogger(__name__)

#: User attribute of a trial: after which epoch it was to end.
_PRUNED = "pruned_at"
#: So many candidates in a row that break a constraint mean that the space holds hardly anything else.
MOST_IMPOSSIBLE = 200
#: After so many in a row, chance proposes until one is possible.
_LOST = 10
#: Seconds of the search that are forgotten at most when its process is killed.
_KEPT_EVERY = 5.0
#: Seconds between two looks at the clock while nothing happens.
_TICK = 0.5


@dataclass
class Tuner:
    """Runs trials until the total, the time or the target is reached.

    Attributes:
        config: of the sweep.
        study: where everything is recorded.
        space: what is drawn.
        candidates: checks what is drawn.
        stopping: when it is enough.
        workers: train the trials.
        progress: shows them.
        mlflow: the sweep's own MLflow run.
    """

    config: schema.Config
    study: Study
    space: Space
    candidates: Candidates
    stopping: Stopping
    workers: Workers
    progress: Progress
    mlflow: MLflowRun

    def __post_init__(self) -> None:
        assert self.config.sweep is not None
        self.settings, self.runs = self.config.sweep, Path(self.config.output) / "runs"
        with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):
            self._longest, pruner = int(self.space.largest("trainer.max_epochs")), self.settings.pruner
            self.study.study.pruner = pruner.build(self._longest)
        goal = self.study.goals[0].metric
        self._pruned_by = goal if goal in self.config.epoch_metrics and not self.study.several else None
        self._promotion: Promotion | None = None
        if self._pruned_by and isinstance(pruner, ASHA):
            sign = self.study.goals[0].sign
            self._promotion = Promotion(pruner.min_epochs, pruner.reduction_factor, self._longest, sign)
        self._points = samplers.points(self.settings, self.space)
        self._open: dict[int, tuple[optuna.Trial, Candidate]] = {}  # asked for and not ended, by number
        self._waiting: dict[int, list[int]] = {}  # for the end of an equal trial, by its number
        if not self.study.several and (best := self.study.best()):
            self.stopping.value(best.values[0])

    def run(self) -> None:
        """Begin and end trials until there are enough.

        Raises:
            RunFailure: the same failure came again and again, or hardly anything in the space keeps the constraints.
            Interrupted: a signal came.
        """
        try:
            while True:
                check_interrupted()
                number = self.next() if not self._open or self.workers.free() else None
                if number is None and not self._goes_on():
                    break
                ready = number is not None and self.workers.free() > 0
                if ready and number is not None and (task := self.ask(number)):
                    self.workers.submit(task)
                    self.study.save(task.id)  # meanwhile the worker begins
                for event in self.workers.events(timeout=0 if ready else _TICK):
                    match event:
                        case Report():
                            event.answer(self.report(event))
                        case Finished():
                            self.tell(event.task.id, event.result)
                if (spent := self.stopping.seconds()) > self.study.recall("search_seconds", 0.0) + _KEPT_EVERY:
                    self.study.remember("search_seconds", spent)
                self.progress.tick()
        finally:  # nothing is left running, whatever ended the loop
            for finished in self.workers.stop():
                self._record(finished.task.id, finished.result)
            for number in [*self._open]:
                left = Result.found(self.runs / self.name(number))
                whole = left and (self.settings.seeds == 1 or left.status != "finished")
                self._record(number, left if whole else None)
        for trial in self.study.paused():  # these have lost
            self.study.prune(trial.number, self._pruned(trial.number))
        ended = [t for t in self.study.trials() if t.state.is_finished() and "result" in t.user_attrs]
        self._drop_checkpoints(*(t.number for t in ended if "duplicate_of" not in t.user_attrs))
        if why := self.stopping.over(self._epochs()):
            log.info("stopping: %s; %d trials are done", why, self.study.counted())

    def _goes_on(self) -> bool:
        """Whether the trials that run are waited for."""
        return bool(self._open) and not (self.settings.on_budget == "stop" and self.stopping.over(self._epochs()))

    def next(self) -> int | None:
        """The number of the trial that is begun or goes on now; None where none is.

        One that was interrupted goes first, then the best of the paused, then what waits to be tried, then a new one.
        """
        trials, epochs = self.study.trials(), self._epochs()
        if self.stopping.over(epochs):
            return None
        waiting = self.study.trials(TrialState.WAITING)
        if interrupted := [trial.number for trial in waiting if "digest" in trial.user_attrs]:
            return interrupted[0]
        another = self._wants_another(trials, waiting)
        if self._promotion:
            if self.stopping.left(epochs) < self._longest:  # it brings the best of the paused to their end
                another = another and self._promotion.next(trials, last=True) is None
            promoted = self._promotion.next(trials, last=not (another or self._open))
            if promoted is not None:
                return promoted
        if not another or waiting:
            return waiting[0].number if another else None
        if added := self.study.look():  # before a new trial takes the number
            log.warning("another program added to the study: trials %s", ", ".join(map(str, added)))
            return self.next()
        return len(trials)

    def _epochs(self) -> int:
        """The epochs that are spent, where they are limited."""
        return self.study.epochs() if self.settings.budget_epochs else 0

    def _wants_another(self, trials: Sequence[FrozenTrial], waiting: Sequence[FrozenTrial]) -> bool:
        """Whether the total is not reached."""
        done = self.study.counted() + len(self._open) + len(self.study.paused())
        if self._points:  # a point of a grid is tried once, however many of them train the same
            done -= self.study.duplicates()
            tried = len({frozenset(trial.params.items()) for trial in trials if trial not in waiting})
            if tried >= self._points and not waiting:
                return False
        return done < self.settings.total

    def ask(self, number: int) -> Task | None:
        """The trial of this number, to be trained; None where it breaks a constraint, or equals another one."""
        newest = itertools.takewhile(lambda trial: reason(trial) == "infeasible", reversed(self.study.trials()))
        impossible = len([*newest])  # in a row
        # a sampler for each trial: what it draws follows from the seed and the number, in whichever session. For one
        # that goes on nothing is drawn, so that it need not look at all other trials
        goes_on = number < len(self.study.trials()) and "digest" in self.study.trials()[number].user_attrs
        chance = impossible >= _LOST or goes_on
        sampler = samplers.sampler(self.settings, self.space, self.config.seed, number, chance=chance)
        trial = self.study.ask(number, sampler, learns_from_pruned=self.settings.sampler.pruned)
        if PAUSED in trial.user_attrs:
            trial.set_user_attr(PROMOTED, trial.user_attrs[PAUSED])
        try:
            candidate = self.candidates.make(self.space.suggest(trial))
        except RequestError as error:
            if goes_on and (left := self._pruned(number)):  # it was begun when the space was another one
                log.warning("trial %d ends as it is: %s", number, error)
                self.study.prune(number, left)
                return None
            self.study.fail(trial, "infeasible", str(error))
            if (impossible + 1) % MOST_IMPOSSIBLE == 0:
                detail = f"{impossible + 1} proposals in a row broke a constraint, the last: {error}"
                raise RunFailure("infeasible", detail) from error
            return None
        folder = RunFolder(self.runs / self.name(number))
        task = Task(
            number,
            candidate.command.with_(name=self.name(number)),
            parent=self.mlflow.run_id,
            tags={"study": self.settings.name, "study.id": self.study.id, "role": "trial", "trial": number},
            resume=folder.path.exists(),
            limit_seconds=self.settings.trial_seconds,
            seeds=self.settings.seeds,
        )
        changed = task.resume and folder.differences(task.command.config)
        if "digest" in trial.user_attrs:  # it was interrupted
            changed = changed or trial.user_attrs["digest"] != candidate.digest
            detail = "it was begun with settings that have changed since"
            if changed:
                run_record.abandon(task.command, parent=task.parent, tags=task.tags, reason="error", detail=detail)
        else:
            detail = f"{folder.path} is there already, of another run"
            self._note(trial, candidate, sampler)
        if changed:
            log.warning("trial %d is not performed: %s", number, detail)
            self.study.fail(trial, "error", detail)
            return None
        self._open[number] = trial, candidate
        if self._equals_another(number):
            return None
        self.progress.began(number, candidate)
        return task

    def _note(self, trial: optuna.Trial, candidate: Candidate, sampler: BaseSampler) -> None:
        """Keep with a trial what is known before it is trained."""
        known = {"proposed": candidate.drawn, "values": candidate.values, "digest": candidate.digest}
        if candidate.schedule:
            known[SCHEDULE] = candidate.schedule
        if isinstance(sampler, PriorSampler) and IDENTITY not in trial.user_attrs:
            known[SOURCE] = sampler.source
        for key, value in known.items():
            trial.set_user_attr(key, value)

    def report(self, event: Report) -> Decision:
        """Record an epoch of a trial; whether the trial goes on, or pauses."""
        number, epoch = event.task, event.epoch
        trial, candidate = self._open[number]
        self.progress.reported(number, epoch, event.values)
        if self._pruned_by is None:
            return True
        if epoch not in self.study.trials()[number].intermediate_values:  # else a resumed run has trained it again
            trial.report(event.values[self._pruned_by], epoch)
            self.study.reached(number, event.values[self._pruned_by])
        reference = self.settings.winner.baseline and BASELINE in trial.user_attrs
        if self._promotion:
            decision: Decision = reference or self._decide(trial, epoch, candidate.epochs)
            self.study.save(number)
            return decision
        pruned = trial.should_prune()  # asked of all: a pruner may note here what others are compared with
        pruned |= trial.user_attrs.get(_PRUNED, epoch + 1) <= epoch
        go_on = not pruned or reference or epoch >= candidate.epochs
        if not go_on:  # the pruner may answer otherwise when the run dies now and reports again
            trial.set_user_attr(_PRUNED, epoch)
        self.study.save(number)
        return go_on

    def _decide(self, trial: optuna.Trial, epoch: int, epochs: int) -> Decision:
        assert self._promotion
        if trial.user_attrs.get(_PRUNED, epoch + 1) <= epoch:
            return False
        if trial.user_attrs.get(PROMOTED, 0) >= epoch:  # a resumed run trains the epoch again
            return True
        decision = self._promotion.decide(trial.number, epoch, epochs, self.study.trials())
        if decision == "pause":
            trial.set_user_attr(PAUSED, epoch)
        elif not decision:
            trial.set_user_attr(_PRUNED, epoch)
        return decision

    def tell(self, number: int, result: Result | None) -> None:
        """Record the end of a trial, and of those that wait for it.

        Raises:
            RunFailure: the same failure came again and again.
        """
        state = self._record(number, result)
        waiting = self._waiting.pop(number, [])
        if result is None or state == TrialState.WAITING:
            self.progress.requeued(number, result)
            for other in waiting:
                self.tell(other, None)
            return
        self.progress.ended(number, result)
        for other in waiting:
            self.tell(other, dataclasses.replace(result, duplicate_of=result.duplicate_of or self.name(number)))
        if result.duplicate_of:
            return
        self._drop_checkpoints(number)
        trial = self.study.trials()[number]
        if state == TrialState.COMPLETE and self.study.keeps(trial):
            self.stopping.value(trial.values[0])
            if (best := self.study.best()) and best.number == number:
                self.mlflow.metrics({f"best/{self.study.goals[0].metric}": best.values[0]}, self.study.counted())
        self.stopping.ended(result)

    def _drop_checkpoints(self, *ended: int) -> None:
        """Remove those of these trials, and of all that are ranked, but for the best (``sweep.keep``)."""
        if not (keep := self.settings.keep):
            return
        ranked = [trial.number for trial in self.study.ranking()]
        more = [(self.config.seed + index) % 2**32 for index in range(1, self.settings.seeds)]
        for number in {*ended, *ranked[keep:]} - {*ranked[:keep]}:
            for name in [self.name(number), *(run_name(self.settings.name, number, seed) for seed in more)]:
                run_record.drop_checkpoint(RunFolder(self.runs / name), self.config.tracking)

    def _pruned(self, number: int) -> Result | None:
        """The result of a trial that was begun and does not go on; None where its run is gone."""
        folder = RunFolder(self.runs / self.name(number))
        return run_record.prune(folder, self.config, self.candidates.common.config_dir)

    def name(self, number: int) -> str:
        """Of a trial's run and its folder."""
        return run_name(self.settings.name, number)

    def _equals_another(self, number: int) -> bool:
        """Whether another trial trains or has trained the same; its result is this one's, too."""
        digest = self._open[number][1].digest
        for other in self.study.trials():
            if other.user_attrs.get("digest") != digest or other.number == number:
                continue
            if other.number in self._open:
                self._waiting.setdefault(other.number, []).append(number)
                self.study.save(number)
                return True
            name = self.name(other.number)
            failed = reason(other) not in (None, "diverged")  # which may do better another time
            ended = (other.state.is_finished() and not failed) or paused(other)
            if ended and (result := Result.found(self.runs / name)):
                known = other.user_attrs
                if "result" in known:  # the means over its seeds
                    result = dataclasses.replace(result, metrics=known["result"]["metrics"])
                if paused(other):
                    result = dataclasses.replace(result, status="pruned")
                elif other.state == TrialState.FAIL:  # also of a seed after that of its own run, which has finished
                    why: dict[str, Any] = {"reason": known.get("reason"), "detail": known.get("detail")}
                    result = dataclasses.replace(result, status="failed", **why)
                self.tell(number, dataclasses.replace(result, duplicate_of=name))
                return True
        return False

    def _record(self, number: int, result: Result | None) -> TrialState:
        """Tell the study. A trial that was interrupted, or recorded nothing, waits to be asked for again."""
        trial, _ = self._open.pop(number)
        return self.study.tell(trial, result) if result else self.study.requeue(trial)
