"""How long a sweep is expected to take: arithmetic from the seconds of its trials, nothing is trained."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from mnist_sweep.config.pruners import ASHA, Pruner
from mnist_sweep.config.sweep_options import Sweep
from mnist_sweep.sweep.promotion import Promotion

#: Seconds of work beside the epochs, measured on one core of an AMD EPYC: of a trial and of a winner's run, each with
#: MLflow and without; of the workers' start; of the report.
_TRIAL, _TRIAL_UNTRACKED, _WINNER, _WINNER_UNTRACKED, _START, _REPORT = 1.0, 0.2, 6.0, 0.3, 8.0, 8.0
#: Of a checkpoint, for each parameter of its network.
_BYTES = 4


@dataclass(frozen=True)
class Estimate:
    """What a sweep is expected to take, in seconds, trainings and gigabytes."""

    settings: Sweep
    total: float  #: trials at most
    epochs: Sequence[int]  #: of candidates that stand for the trials, if nothing stops them
    seconds: Sequence[float]  #: of the same
    own_seconds: float  #: of the config's own values
    own: bool  #: whether these are a point of the space
    undone: int  #: keys that ``sweep.winner.ablate`` undoes
    parameters: float  #: of a network, on average
    together: int  #: trainings at a time
    tracked: bool  #: by MLflow

    @property
    def _several(self) -> bool:
        return len(self.settings.objectives or ()) > 1

    @property
    def _pruner(self) -> Pruner | None:
        """None where there are several objectives, by which none judges."""
        return None if self._several else self.settings.pruner

    @property
    def full_epochs(self) -> float:
        """Of a trial that comes to its end."""
        return statistics.fmean(self.epochs)

    @property
    def first_epochs(self) -> float:
        """Of a trial with its first seed."""
        return statistics.fmean(epochs_until_pruned(self._pruner, each, self.total) for each in self.epochs)

    def _share(self, trials: float) -> float:
        """Of so many trials those that come to their end."""
        return _stretches(self._pruner, self.full_epochs, trials)[-1][1]

    @property
    def _further(self) -> float:
        """Trainings of a trial after that of its first seed."""
        return self._share(self.total) * (self.settings.seeds - 1)

    @property
    def trial_epochs(self) -> float:
        """Of a trial, with all its seeds."""
        return self.first_epochs + self._further * self.full_epochs

    @property
    def trials(self) -> int:
        """That the limits of the sweep leave."""
        return int(min(self.total, max(1, (self.settings.budget_epochs or math.inf) / self.trial_epochs)))

    @property
    def trial_seconds(self) -> float:
        """Of a trial, with all its seeds."""
        beside = _TRIAL if self.tracked else _TRIAL_UNTRACKED
        full = statistics.fmean(self.seconds)
        return full * self.trial_epochs / self.full_epochs + (1 + self._further) * beside

    @property
    def search_seconds(self) -> float:
        """Of all trials."""
        return _START + self.trials * self.trial_seconds / min(self.together, self.trials)

    def trials_in(self, minutes: float) -> int:
        """That end in so many minutes."""
        return max(0, int((60 * minutes - _START) * self.together / self.trial_seconds))

    @property
    def _ended(self) -> int:
        return round(self.trials * self._share(self.trials))

    @property
    def _winner_runs(self) -> tuple[int, int]:
        """The trainings that choose and judge the winner: of candidates, and of the config's own values."""
        judged = self.settings.winner
        if self._several and not judged.rule:
            return 0, 0
        candidates = min(judged.top, self._ended) * judged.race_seeds + judged.seeds
        undone = judged.seeds * self.undone if judged.ablate else 0
        own = judged.race_seeds if judged.baseline and self.own else 0
        return candidates + undone, own + judged.seeds

    @property
    def winner_runs(self) -> int:
        """The trainings that choose and judge the winner."""
        return sum(self._winner_runs)

    @property
    def winner_seconds(self) -> float:
        """Of these trainings, and of the report."""
        candidates, own = self._winner_runs
        training = candidates * statistics.fmean(self.seconds) + own * self.own_seconds
        training += self.winner_runs * (_WINNER if self.tracked else _WINNER_UNTRACKED)
        return training / max(1, min(self.together, self.winner_runs)) + _REPORT

    @property
    def kept(self) -> int:
        """Trials whose checkpoints stay."""
        return min(self.trials, self.settings.keep or self.trials)

    @property
    def gigabytes(self) -> float:
        """Of checkpoints."""
        files = self.kept + min(self.kept, self._ended) * (self.settings.seeds - 1) + self.winner_runs
        return _BYTES * self.parameters * files / 1e9


def epochs_until_pruned(pruner: Pruner | None, epochs: int, trials: float = math.inf) -> float:
    """The epochs that a trial of so many is expected to take."""
    expected, before = 0.0, 0.0
    for end, share in _stretches(pruner, epochs, trials):
        expected, before = expected + share * (end - before), end
    return expected


def _stretches(pruner: Pruner | None, epochs: float, trials: float = math.inf) -> list[tuple[float, float]]:
    """A trial of so many epochs from pause to pause: the last epoch of each stretch, the share expected to begin it.

    Of few trials more than the share come far, since the first go on before better ones are known; measured: two.
    """
    if not isinstance(pruner, ASHA):
        return [(epochs, 1.0)]
    rungs = Promotion(pruner.min_epochs, pruner.reduction_factor, int(epochs), 1).rungs
    least, factor = min(1.0, 2 / trials), pruner.reduction_factor
    return [(min(end, epochs), max(least, factor**-number)) for number, end in enumerate([*rungs, epochs])]
