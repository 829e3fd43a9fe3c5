"""What a person sees of a sweep while it lasts: one live table on a terminal, one line a trial elsewhere."""

import contextlib
import logging
import math
import statistics
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import Self

import rich.live
from optuna.trial import TrialState
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from mnist_sweep.config import schema
from mnist_sweep.result import Result
from mnist_sweep.sweep.candidates import Candidate
from mnist_sweep.sweep.promotion import paused
from mnist_sweep.sweep.stopping import Stopping
from mnist_sweep.sweep.study import Study
from mnist_sweep.sweep.summary import in_digits, proposed
from mnist_sweep.sweep.workers import Finished, Report, Task

log = logging.getLogger(__name__)

#: The words of the view for the states of trials.
_WORDS = {
    "complete": "done",
    "pruned": "pruned",
    "paused": "paused",
    "fail": "failed",
    "infeasible": "broke a constraint",
    "running": "running",
}


class Live(ABC):
    """What a terminal shows as long as the context lasts; nothing where there is no terminal."""

    _live: rich.live.Live | None = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            console = Console(stderr=True)
            self._live = rich.live.Live(self.picture(), console=console, refresh_per_second=4, transient=True)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            with contextlib.suppress(OSError):  # the terminal has been closed
                self._live.stop()

    def tick(self) -> None:
        """Draw it again."""
        if self._live:
            self._live.update(self.picture())

    @abstractmethod
    def picture(self) -> Group:
        """What is shown now."""


class Progress(Live):
    """Shows each trial from its beginning to its end, of a sweep of so many in all."""

    def __init__(self, config: schema.Config, study: Study, stopping: Stopping, total: float, workers: int = 1) -> None:
        assert config.sweep is not None
        self.settings, self.study, self.stopping, self.total = config.sweep, study, stopping, total
        self.workers = workers
        self.metric = study.goals[0].metric
        self._better = max if study.goals[0].direction == "maximize" else min
        self._started = self._opened = time.monotonic()
        self._earlier, self._earlier_epochs = self._ended(), study.epochs()
        self._running: dict[int, tuple[Candidate, int, float | None]] = {}  # with the last epoch and its value

    def began(self, number: int, candidate: Candidate) -> None:
        """A trial has been given to a worker."""
        if not self._running and self._ended() == self._earlier:
            self._started = time.monotonic()  # the workers' start is not counted
        self._running[number] = candidate, 0, None

    def reported(self, number: int, epoch: int, values: Mapping[str, float]) -> None:
        """A trial has come to the end of an epoch, counted from 1."""
        self._running[number] = self._running[number][0], epoch, values.get(self.metric)

    def requeued(self, number: int, result: Result | None) -> None:
        """A trial has been interrupted, or has paused, and goes on later."""
        _, epoch, value = self._running.pop(number, (None, 0, None))
        if result and value is not None and paused(self.study.trials()[number]):
            self._say(f"trial {number} paused after epoch {epoch}  {self.metric} {in_digits(value)}  {self._best()}")

    def _say(self, what: str) -> None:
        """Say what became of a trial, after how much is done and how many trials wait at a rung."""
        waiting = self.study.counts().get("paused", 0)
        log.info("%s%s  %s", self._done(), f", {waiting} paused" if waiting else "", what)

    def _done(self) -> str:
        """How much of the sweep is done."""
        count, budget = self.study.counted(), self.settings.budget_epochs
        trials = f"{count:3d}" + ("" if math.isinf(self.total) else f" of {self.total:.0f}") + " trials"
        return trials + (f", {self.study.epochs()} of {budget} epochs" if budget else "")

    def ended(self, number: int, result: Result) -> None:
        """A trial has ended and is recorded."""
        self._running.pop(number, None)
        values = zip(self.study.goals, self.study.trials()[number].values or [], strict=False)
        measured = "  ".join(f"{goal.metric} {in_digits(value)}" for goal, value in values) or "no value"
        why = f" ({result.reason}: {result.detail})" if result.reason else ""
        same = f", equal to {result.duplicate_of}" if result.duplicate_of else ""
        self._say(f"trial {number} {result.status}{why}{same}  {measured}  {self._best()}  {_took(result)}")

    def _best(self, running: bool = False) -> str:
        """The best value so far, also of a trial that has paused, and its trial; of those that run, if asked for."""
        if self.study.several:
            return f"front of {len(self.study.front())}"
        best = self.study.best()
        found = [(best.values[0], f"trial {best.number}")] if best else []
        resting = ((self._better(trial.intermediate_values.values()), trial.number) for trial in self.study.paused())
        if first := self._better(resting, key=lambda each: each[0], default=None):
            found.append((first[0], f"trial {first[1]}, paused"))
        shown = self._running.items() if running else ()
        found += [(value, f"trial {number}, running") for number, (_, _, value) in shown if value is not None]
        value, which = self._better(found, key=lambda each: each[0], default=(None, ""))
        return "no best yet" if value is None else f"best {in_digits(value)} ({which})"

    def _ended(self) -> int:
        """The trials that have ended, or have paused."""
        return self.study.counted() + self.study.counts().get("paused", 0)

    def time_left(self) -> str:
        """The time left: what a trial took so far, pruned and paused ones included, for those that remain."""
        all_done = self._ended()
        done = all_done - self._earlier
        if not done:
            return "time left: known when the first has ended" if self._running else "starting the workers"
        took = time.monotonic() - self._started
        seconds = took / done * max(0.0, self.total - all_done)
        if (epochs := self.study.epochs() - self._earlier_epochs) and self.settings.budget_epochs:
            seconds = min(seconds, took / epochs * max(0.0, self.stopping.left(self.study.epochs())))
        if self.settings.budget_minutes is not None:
            seconds = min(seconds, max(0.0, 60 * self.settings.budget_minutes - self.stopping.seconds()))
        if math.isinf(seconds):  # an epoch has not ended yet
            return "time left: not known yet"
        return f"about {clock(seconds + self._winner_seconds())} left"

    def _winner_seconds(self) -> float:
        """That the runs of the winner will take, each as long as a complete trial; 0 where no winner is chosen."""
        if self.study.several and self.settings.winner.rule is None:
            return 0.0
        own = [trial for trial in self.study.trials(TrialState.COMPLETE) if "duplicate_of" not in trial.user_attrs]
        seconds = [trial.user_attrs["result"]["seconds"] for trial in own]
        count = self.settings.winner.runs
        return count * statistics.fmean(seconds) / min(count, self.workers) if seconds else 0.0

    def picture(self) -> Group:
        """What the terminal shows now."""
        counts = {word: self.study.counts().get(state, 0) for state, word in _WORDS.items()}
        states = ", ".join(f"{count} {word}" for word, count in counts.items() if count or word == "running")
        took = clock(time.monotonic() - self._opened)
        head = Text(f"{self._done().strip()}: {states}; {took} so far, {self.time_left()}")
        table = Table(box=None, pad_edge=False, expand=True)
        for column in ("trial", "epoch", self.metric, "best at that epoch"):
            table.add_column(column, no_wrap=True, min_width=len(column))
        table.add_column("proposed", overflow="ellipsis", no_wrap=True, ratio=1)
        for number, (candidate, epoch, value) in sorted(self._running.items()):
            reported = [trial.intermediate_values.get(epoch) for trial in self.study.trials()]
            best_there = self._better((each for each in [value, *reported] if each is not None), default=None)
            scores = ["" if each is None else in_digits(each) for each in (value, best_there)]
            table.add_row(str(number), f"{epoch} of {candidate.epochs}", *scores, proposed(candidate.drawn))
        return Group(head, Text(self._best(running=True), style="bold"), table)


class Runs(Live):
    """Shows the runs that train the best trials again, and a line for each that ends.

    Args:
        what: they are for, in a few words.
        tasks: all of them.
        metric: that is shown.
        seconds: that all are expected to take, until the first has ended.
    """

    def __init__(self, what: str, tasks: Sequence[Task], metric: str, seconds: float) -> None:
        self.what, self.total, self.metric, self._expected = what, len(tasks), metric, seconds
        self._started, self._done = time.monotonic(), 0
        self._running: Collection[Task] = ()
        self._epochs: dict[int, tuple[int, float | None]] = {}  # the last one and its value, by the task's id

    def show(self, running: Collection[Task], events: Sequence[Report | Finished]) -> None:
        """Take note of what has happened, and of what runs now."""
        self._running = running
        for event in events:
            if isinstance(event, Report):
                self._epochs[event.task] = event.epoch, event.values.get(self.metric)
            elif (result := event.result) and result.status != "interrupted":
                self._done += 1
                value = result.metrics.get(self.metric)
                words = _run(event.task), result.status, *([self.metric, in_digits(value)] if value is not None else [])
                done = f"{self.what}: {self._done} of {self.total} runs"
                log.info("%s  %s  %s", done, " ".join(words), _took(result))
        self.tick()

    def picture(self) -> Group:
        took = time.monotonic() - self._started
        left = took / self._done * (self.total - self._done) if self._done else max(0.0, self._expected - took)
        head = Text(f"{self.what}: {self._done} of {self.total} runs; {clock(took)} so far, about {clock(left)} left")
        table = Table("run", "epoch", self.metric, box=None, pad_edge=False)
        for task in self._running:
            epoch, value = self._epochs.get(task.id, (0, None))
            epochs = f"{epoch} of {task.command.config.trainer.max_epochs}"
            table.add_row(_run(task), epochs, "" if value is None else in_digits(value))
        return Group(head, table)


def _run(task: Task) -> str:
    trial, seed = task.tags["trial"], task.command.config.seed
    return f"{'the config' if trial is None else f'trial {trial}'} with seed {seed}"


def _took(result: Result) -> str:
    """The epochs and seconds of a run, in words."""
    return f"{result.epochs} epoch{'s' * (result.epochs != 1)}, {result.seconds:.1f} s"


def clock(seconds: float) -> str:
    """Minutes and seconds, as ``2:05``."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
