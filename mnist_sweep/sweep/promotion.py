"""Asynchronous successive halving: a trial pauses at a rung, and goes on when it is among the best there.

A worker that becomes free goes on with the best paused trial, or begins another one (Li et al. 2020, arXiv 1810.05934).
Nobody waits for anybody. What is compared is what the trials reported, so that other rungs, another number of workers
or a resumed session mix nothing.

A schedule that is stretched over the whole run, such as one-cycle, has a high learning rate still at a rung, and low
values there. So trials are compared with those of the same schedule only.
"""

import bisect
from collections import defaultdict
from collections.abc import Sequence

from optuna.trial import FrozenTrial, TrialState

from mnist_sweep.sweep.workers.messages import Decision

#: User attributes of a trial: the epoch after which it paused last, and the one from which it went on.
PAUSED, PROMOTED = "paused", "promoted"
#: User attribute of a trial whose schedule is stretched over the whole run: the schedule's name.
SCHEDULE = "schedule"


def paused(trial: FrozenTrial) -> bool:
    """Whether a trial waits at a rung."""
    if trial.state != TrialState.WAITING:  # of most that are asked about
        return False
    return bool(trial.user_attrs.get(PAUSED, 0) > trial.user_attrs.get(PROMOTED, 0))


class Promotion:
    """Decides which trials of one study pause, and which go on.

    Args:
        min_epochs: the first rung.
        reduction_factor: one trial in so many goes on at each rung; the next rung is so many times as many epochs.
        max_epochs: of the longest trial; all rungs are below.
        sign: 1 where higher values are better, else −1.
    """

    def __init__(self, min_epochs: int, reduction_factor: int, max_epochs: int, sign: int) -> None:
        self.factor, self.sign = reduction_factor, sign
        self.rungs = [min_epochs]
        while self.rungs[-1] * reduction_factor < max_epochs:
            self.rungs.append(self.rungs[-1] * reduction_factor)
        # By epoch and schedule: the trials that have come so far, by their best value until then, the best first. It
        # does not change any more. To rank thousands anew at each question keeps the workers waiting.
        self._order = defaultdict[tuple[int, str | None], list[tuple[float, int]]](list)
        self._ranked = defaultdict[tuple[int, str | None], set[int]](set)

    def decide(self, number: int, epoch: int, epochs: int, trials: Sequence[FrozenTrial]) -> Decision:
        """What becomes of a trial that has ended an epoch and reported its value.

        Args:
            number: of the trial.
            epoch: counted from 1.
            epochs: of the trial in all. One that ends below the last rung is held to the same bar there: no trial is
                complete because it is short.
            trials: all of the study.
        """
        ends = epoch == epochs
        if (ends and epoch >= self.rungs[-1]) or not (ends or epoch in self.rungs):
            return True
        schedule = trials[number].user_attrs.get(SCHEDULE)
        if number in self._best(epoch, schedule, trials, at_least=1 if ends else 0):
            return True
        return False if ends else "pause"

    def next(self, trials: Sequence[FrozenTrial], *, last: bool) -> int | None:
        """The number of the paused trial that goes on now: of the highest rung the best one.

        Args:
            trials: all of the study.
            last: no further trial is begun, so that the best of few goes on as well.
        """
        waiting = {trial.number: max(trial.intermediate_values) for trial in trials if paused(trial)}
        if not waiting:
            return None
        schedules = dict.fromkeys(trial.user_attrs.get(SCHEDULE) for trial in trials)
        for rung in reversed(self.rungs):
            here = {number for number, epoch in waiting.items() if rung <= epoch < rung * self.factor}
            for schedule in schedules if here else ():
                for number in self._best(rung, schedule, trials, at_least=1 if last else 0):
                    if number in here:
                        return number
        return next((number for number, epoch in waiting.items() if epoch < self.rungs[0]), None)  # of other rungs

    def _best(self, epoch: int, schedule: str | None, trials: Sequence[FrozenTrial], at_least: int) -> list[int]:
        """The best part of the trials of a schedule that have come to an epoch, the best first."""
        order, ranked = self._order[epoch, schedule], self._ranked[epoch, schedule]
        for number, trial in enumerate(trials):
            reported, known = trial.intermediate_values, trial.user_attrs
            if number in ranked or len(reported) < epoch or known.get(SCHEDULE) != schedule or "digest" not in known:
                continue  # another program's trial has no digest
            bisect.insort(order, (-max(self.sign * value for step, value in reported.items() if step <= epoch), number))
            ranked.add(number)
        return [number for _, number in order[: max(at_least, len(order) // self.factor)]]
