"""The loop of a sweep: ask for a trial, have it trained, decide after each epoch whether it goes on, tell the study."""

import dataclasses
import itertools
import logging
import warnings
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.trial import TrialState

from mnist_sweep import run_record
from mnist_sweep.config import metrics, schema
from mnist_sweep.errors import RequestError, RunFailure, check_interrupted
from mnist_sweep.result import Result, run_name
from mnist_sweep.run_folder import RunFolder
from mnist_sweep.sweep import samplers
from mnist_sweep.sweep.candidates import Candidate, Candidates
from mnist_sweep.sweep.progress import Progress
from mnist_sweep.sweep.space import Space
from mnist_sweep.sweep.stopping import Stopping
from mnist_sweep.sweep.study import BASELINE, Study, reason
from mnist_sweep.sweep.workers import Finished, Report, Task, Workers
from mnist_sweep.tracking import MLflowRun

log = logging.getLogger(__name__)

#: User attribute of a trial: after which epoch it was to end.
_PRUNED = "pruned_at"
#: So many impossible candidates in a row mean that the space holds hardly anything else.
MOST_IMPOSSIBLE = 200
#: After so many in a row, chance proposes until one is possible.
_LOST = 10
#: Seconds of the search that are forgotten at most when its process is killed.
_KEPT_EVERY = 10.0
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
            self.study.study.pruner = self.settings.pruner.build(int(self.space.largest("trainer.max_epochs")))
        goal = self.study.goals[0].metric
        self._pruned_by = goal if goal in metrics.EPOCH_METRICS and not self.study.several else None
        self._points = samplers.points(self.settings, self.space)
        self._open: dict[int, tuple[optuna.Trial, Candidate]] = {}  # asked for and not ended, by number
        self._waiting: dict[int, list[int]] = {}  # for the end of an equal trial, by its number
        if not self.study.several and (best := self.study.best()):
            self.stopping.value(best.values[0])

    def run(self) -> None:
        """Begin and end trials until there are enough.

        Raises:
            RunFailure: the same failure came again and again, or the space holds hardly anything that is possible.
            Interrupted: a signal came.
        """
        try:
            while self.wants_more():
                check_interrupted()
                ready = self.workers.free() > 0 and self.wants_trial()
                if ready and (task := self.ask()):
                    self.workers.submit(task)
                    self.study.save(task.id)  # meanwhile the worker begins
                for event in self.workers.events(timeout=0 if ready else _TICK):
                    match event:
                        case Report():
                            event.answer(self.report(event))
                        case Finished():
                            self.tell(event.task.id, event.result)
                self.progress.tick()
        finally:  # nothing is left running, whatever ended the loop
            for finished in self.workers.stop():
                self._record(finished.task.id, finished.result)
            for number in [*self._open]:
                self._record(number, Result.found(self.runs / self.name(number)))
        if why := self.stopping.over():
            log.info("%s: %d trials are done", why, self.study.counted())

    def wants_more(self) -> bool:
        """Whether the loop goes on."""
        if self.settings.on_budget == "stop" and self.stopping.over():
            return False
        return bool(self._open) or self.wants_trial()

    def wants_trial(self) -> bool:
        """Whether another trial is to be begun."""
        done = self.study.counted() + len(self._open)
        if self._points:  # a point of a grid is tried once, however many of them train the same
            done -= self.study.duplicates()
            begun = [trial for trial in self.study.trials() if trial.state != TrialState.WAITING]
            tried = len({frozenset(trial.params.items()) for trial in begun})
            if tried >= self._points and not self.study.trials(TrialState.WAITING):
                return False
        return done < self.settings.trials and self.stopping.over() is None

    def ask(self) -> Task | None:
        """The next trial, to be trained; None where it is impossible, or equal to another one."""
        number = self.study.next_number()
        newest = itertools.takewhile(lambda trial: reason(trial) == "infeasible", reversed(self.study.trials()))
        impossible = len([*newest])  # in a row
        # a sampler for each trial: what it draws follows from the seed and the number, in whichever session
        sampler = samplers.sampler(
            self.settings, self.space, self.config.seed, number,
            chance=impossible >= _LOST, changed=self.study.recall("space changed", False),
        )  # fmt: skip
        trial = self.study.ask(sampler)
        try:
            candidate = self.candidates.make(self.space.suggest(trial))
        except RequestError as error:
            self.study.fail(trial, "infeasible", str(error))
            if (impossible + 1) % MOST_IMPOSSIBLE == 0:
                detail = f"{impossible + 1} impossible proposals in a row, the last: {error}"
                raise RunFailure("infeasible", detail) from error
            return None
        folder = RunFolder(self.runs / self.name(number))
        task = Task(
            number,
            candidate.command.with_(name=self.name(number)),
            parent=self.mlflow.run_id,
            tags={"study": self.settings.name, "study.id": self.study.id, "trial": number},
            resume=folder.path.exists(),
            limit_seconds=self.settings.trial_seconds,
        )
        changed = task.resume and folder.differences(task.command.config)
        if "digest" in trial.user_attrs:  # it was interrupted
            changed = changed or trial.user_attrs["digest"] != candidate.digest
            detail = "it was begun with settings that have changed since"
            if changed:
                run_record.abandon(task.command, parent=task.parent, tags=task.tags, reason="error", detail=detail)
        else:
            detail = f"{folder.path} is there already, of another run"
            trial.set_user_attr("proposed", candidate.drawn)
            trial.set_user_attr("values", candidate.values)
            trial.set_user_attr("digest", candidate.digest)
        if changed:
            log.warning("trial %d is not performed: %s", number, detail)
            self.study.fail(trial, "error", detail)
            return None
        self._open[number] = trial, candidate
        if self._equals_another(number):
            return None
        self.progress.began(number, candidate)
        return task

    def report(self, event: Report) -> bool:
        """Record an epoch of a trial; whether the trial goes on."""
        number, epoch = event.task, event.epoch
        trial, candidate = self._open[number]
        self.progress.reported(number, epoch, event.values)
        if self._pruned_by is None:
            return True
        if epoch not in self.study.trials()[number].intermediate_values:  # else a resumed run has trained it again
            trial.report(event.values[self._pruned_by], epoch)
        pruned = trial.should_prune()  # asked of all: a pruner may note here what others are compared with
        pruned |= trial.user_attrs.get(_PRUNED, epoch + 1) <= epoch
        reference = self.settings.winner.baseline and BASELINE in trial.user_attrs
        go_on = not pruned or reference or epoch >= candidate.epochs
        if not go_on:  # the pruner may answer otherwise when the run dies now and reports again
            trial.set_user_attr(_PRUNED, epoch)
        self.study.save(number)
        return go_on

    def tell(self, number: int, result: Result | None) -> None:
        """Record the end of a trial, and of those that wait for it.

        Raises:
            RunFailure: the same failure came again and again.
        """
        state = self._record(number, result)
        waiting = self._waiting.pop(number, [])
        if result is None or state == TrialState.WAITING:
            self.progress.requeued(number)
            for other in waiting:
                self.tell(other, None)
            return
        self.progress.ended(number, result)
        for other in waiting:
            self.tell(other, dataclasses.replace(result, duplicate_of=result.duplicate_of or self.name(number)))
        if result.duplicate_of:
            return
        if (spent := self.stopping.seconds()) > self.study.recall("search_seconds", 0.0) + _KEPT_EVERY:
            self.study.remember("search_seconds", spent)
        trial = self.study.trials()[number]
        if state == TrialState.COMPLETE and self.study.keeps(trial):
            self.stopping.value(trial.values[0])
            if (best := self.study.best()) and best.number == number:
                self.mlflow.metrics({f"best/{self.study.goals[0].metric}": best.values[0]}, self.study.counted())
        self.stopping.ended(result)

    def name(self, number: int) -> str:
        """Of a trial's run and its folder."""
        return run_name(self.settings.name, number)

    def _equals_another(self, number: int) -> bool:
        """Whether another trial trains or has trained the same; its result is this one's, too."""
        digest = self._open[number][1].digest
        for other in self.study.trials():
            if other.number == number or other.user_attrs.get("digest") != digest:
                continue
            if other.number in self._open:
                self._waiting.setdefault(other.number, []).append(number)
                self.study.save(number)
                return True
            name = self.name(other.number)
            failed = reason(other) not in (None, "diverged")  # which may do better another time
            if other.state.is_finished() and not failed and (result := Result.found(self.runs / name)):
                self.tell(number, dataclasses.replace(result, duplicate_of=name))
                return True
        return False

    def _record(self, number: int, result: Result | None) -> TrialState:
        """Tell the study. A trial that was interrupted, or recorded nothing, waits to be asked for again."""
        trial, _ = self._open.pop(number)
        return self.study.tell(trial, result) if result else self.study.requeue(trial)
