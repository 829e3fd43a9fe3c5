"""The winner: the best trials are trained again with new seeds, the best mean wins, and the test set is opened once.

The best of many first scores is good in part by luck (selection bias). So the best few are trained again, each with the
same new seeds, and the best mean on the validation set wins.
"""

import logging
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial

from mnist_sweep import tracking
from mnist_sweep.config import metrics, schema
from mnist_sweep.config.command import CommandLine
from mnist_sweep.config.sweep_options import Objective
from mnist_sweep.config.sweep_options import Winner as Settings
from mnist_sweep.errors import RunFailure
from mnist_sweep.result import Result, run_name
from mnist_sweep.run_folder import RunFolder
from mnist_sweep.sweep.study import Study, best_run, value_of
from mnist_sweep.sweep.workers import Task, Workers

log = logging.getLogger(__name__)


def choose(command: CommandLine, study: Study, workers: Workers) -> dict[str, Any] | None:
    """Train the best trials again, choose the winner on validation and measure it on the test set.

    A session that finds the same candidates, seeds and objective in the study returns the winner of then.

    Args:
        command: of the sweep.
        study: has at least one complete trial; it remembers the winner.
        workers: train the candidates.

    Returns:
        The ``winner`` of ``sweep.json``; None where several objectives leave a front and no rule chooses from it.

    Raises:
        RunFailure: no candidate could be trained again.
        Interrupted: a signal came; the runs that have ended are used by the next session.
    """
    config = command.config
    assert config.sweep is not None
    settings = config.sweep.winner
    if study.several and settings.rule is None:
        log.info(
            "several objectives: the front has %d members, and no winner is chosen (sweep.winner.rule)",
            len(study.front()),
        )
        return None
    goal = next(goal for goal in study.goals if settings.rule in (None, goal.metric))
    candidates = _candidates(study, goal, settings)
    seeds = [(config.seed + 1 + index) % 2**32 for index in range(settings.seeds)]
    earlier: dict[str, Any] | None = study.recall("winner")
    race = _Race(command, study, goal, candidates, seeds)
    return race.recalled(earlier) if earlier and race.is_that_of(earlier) else race.run(workers)


def _candidates(study: Study, goal: Objective, settings: Settings) -> list[FrozenTrial]:
    """The best trials by the ranking, or of the front; and the baseline, if it is to take part."""
    ranking = study.ranking(goal.metric)
    if study.several:
        front = {trial.number for trial in study.front()}
        ranking = [trial for trial in ranking if trial.number in front]
    candidates = ranking[: settings.top]
    if settings.baseline:
        baseline = study.baseline()
        if baseline is None:
            log.warning("sweep.winner.baseline=true: no baseline trial is complete, so it does not take part")
        elif baseline.number not in [trial.number for trial in candidates]:
            candidates.append(baseline)
    return candidates


@dataclass(frozen=True)
class _Race:
    """The candidates against each other, over the same seeds."""

    command: CommandLine
    study: Study
    goal: Objective
    candidates: Sequence[FrozenTrial]
    seeds: list[int]

    def is_that_of(self, winner: Mapping[str, Any]) -> bool:
        """Whether a winner was chosen among the same candidates, by the same metric and seeds."""
        numbers = [trial.number for trial in self.candidates]
        then = [each["trial"] for each in winner["candidates"]]
        return (then, winner["metric"], winner["seeds"]) == (numbers, self.goal.metric, self.seeds)

    def run(self, workers: Workers) -> dict[str, Any]:
        """Train, compare, open the test set for the best; the study remembers the outcome."""
        runs = self._trained_again(workers)
        if not runs:
            raise RunFailure("error", "none of the best trials could be trained again")
        scores = {number: [value_of(self.goal, result) for result in results] for number, results in runs.items()}
        best = max(scores, key=lambda number: self.goal.sign * statistics.fmean(scores[number]))
        winner = self._compared(scores, best) | self._tested(runs[best])
        self.study.remember("winner", winner)
        return winner

    def _trained_again(self, workers: Workers) -> dict[int, list[Result]]:
        """The results of each candidate over all seeds, by trial; a candidate with a failed run is left out."""
        which = ", ".join(f"trial {trial.number}" for trial in self.candidates)
        log.info("training %s again with %d new seed%s each", which, len(self.seeds), "s" * (len(self.seeds) != 1))
        # The longest first, so that no worker waits long for another at the end (R. L. Graham: Bounds on
        # multiprocessing timing anomalies, 1969).
        order = sorted(self.candidates, key=lambda trial: -float(trial.user_attrs["result"]["seconds"]))
        pairs = [(trial, seed) for trial in order for seed in self.seeds]
        tasks: list[Task] = []
        results: dict[tuple[int, int], Result] = {}
        for index, (trial, seed) in enumerate(pairs):
            folder = self._folder(trial.number, seed)
            task = self._task(index, trial, seed, folder)
            earlier = folder.result()
            if earlier and earlier.status == "finished":
                results[trial.number, seed] = earlier
            else:
                tasks.append(task)
        for index, result in workers.perform(tasks).items():
            trial, seed = pairs[index]
            if result.status == "finished":
                results[trial.number, seed] = result
            else:
                why = result.reason or result.status
                log.warning("trial %d with seed %d: %s (%s)", trial.number, seed, why, result.detail)
        return {
            trial.number: [results[trial.number, seed] for seed in self.seeds]
            for trial in self.candidates
            if all((trial.number, seed) in results for seed in self.seeds)
        }

    def _folder(self, trial: int, seed: int) -> RunFolder:
        config = self.command.config
        assert config.sweep is not None
        return RunFolder(Path(config.output) / "runs" / run_name(config.sweep.name, trial, seed))

    def _task(self, number: int, trial: FrozenTrial, seed: int, folder: RunFolder) -> Task:
        """The trial's command with another seed; the run of an earlier session goes on from its last epoch."""
        sweep = self.command.config.sweep
        assert sweep is not None
        kept = trial.user_attrs["result"]
        command = CommandLine.of(kept["overrides"], self.command.config_dir).with_(seed=seed, name=folder.path.name)
        if differences := folder.differences(command.config):
            raise RunFailure("error", f"{folder.path} is there already, of another run ({'; '.join(differences)})")
        return Task(
            id=number,
            command=command,
            parent=kept["mlflow_run_id"],
            tags={"study": sweep.name, "study.id": self.study.id, "winner": "true", "trial": trial.number},
            resume=folder.path.exists(),
            limit_seconds=sweep.trial_seconds,
            pictures=True,
        )

    def _compared(self, scores: Mapping[int, Sequence[float]], best: int) -> dict[str, Any]:
        """What the validation set says of the winner and of the other candidates."""
        index, share = self.study.goals.index(self.goal), self.goal.metric in metrics.SHARES
        first = {trial.number: trial.values[index] for trial in self.candidates}
        order = sorted(scores, key=lambda number: -self.goal.sign * statistics.fmean(scores[number]))
        gain = None
        if (baseline := self.study.baseline()) and baseline.number in scores:
            gain = {"trial": baseline.number, **better_by(self.goal, scores[best], scores[baseline.number])}
        return {
            "trial": best,
            "command": next(t for t in self.candidates if t.number == best).user_attrs["result"]["command"],
            "metric": self.goal.metric,
            "seeds": self.seeds,
            "validation": metrics.spread(scores[best], share),
            "noise": _noise(list(scores.values())),
            "luck": self.goal.sign * (first[best] - statistics.fmean(scores[best])),
            "lead": better_by(self.goal, scores[best], scores[order[1]]) if len(order) > 1 else None,
            "gain": gain,
            "candidates": [
                {
                    "trial": number,
                    "first": value,
                    **(metrics.spread(scores[number], share) if number in scores else {"mean": None}),
                }
                for number, value in first.items()
            ],
        }

    def _tested(self, runs: Sequence[Result]) -> dict[str, Any]:
        """What the test set says of the winner's networks, one for each seed; the best on validation is registered."""
        from mnist_sweep.run import open_test

        def remember(*moments: str) -> None:
            known = self.study.recall("test_openings", [])
            self.study.remember("test_openings", [*known, *sorted({*moments}.difference(known))])

        results = open_test([Path(result.folder) for result in runs], on_open=remember)
        moments = {str(result.test_opened_at) for result in results}
        remember(*moments)  # a run that an earlier session measured is not opened again
        return {
            "test_accuracy": metrics.spread([result.metrics["test/accuracy"] for result in results], share=True),
            "test_opened_at": max(moments),
            "test_openings": len(
                self.study.recall("test_openings")
            ),  # more than one where a sweep went on after its end
            "mlflow_run_ids": [result.mlflow_run_id for result in results],
            "checkpoints": [str(Path(result.folder) / str(result.checkpoint)) for result in results],
            "model": self._register(results),
        }

    def recalled(self, winner: dict[str, Any]) -> dict[str, Any]:
        """The winner of an earlier session; its model is registered now, if MLflow failed then."""
        if winner["model"] is not None or not isinstance(self.command.config.tracking, schema.MLflow):
            return winner
        results = [self._folder(winner["trial"], seed).result() for seed in self.seeds]
        measured = [result for result in results if result and "test/accuracy" in result.metrics]
        if len(measured) == len(results) and (model := self._register(measured)):
            winner = {**winner, "model": model}
            self.study.remember("winner", winner)
        return winner

    def _register(self, results: Sequence[Result]) -> dict[str, Any] | None:
        """Register the model of the run that is best on validation; None without tracking, or where it fails."""
        from mnist_sweep.training import datasets

        config, best = self.command.config, best_run(self.goal, results)
        digest, accuracy = datasets.verify(config.data), best.metrics["test/accuracy"]
        return tracking.register(config.tracking, best.mlflow_run_id, config.data.name, digest, accuracy)


def better_by(goal: Objective, scores: Sequence[float], others: Sequence[float]) -> dict[str, Any]:
    """By how much scores are better than others, seed by seed: positive where they are, with the mean's interval."""
    return metrics.spread([goal.sign * (a - b) for a, b in zip(scores, others, strict=True)])


def _noise(groups: Sequence[Sequence[float]]) -> float | None:
    """The standard deviation between seeds, pooled over the candidates; None for one seed."""
    variances = [statistics.variance(group) for group in groups if len(group) > 1]
    return math.sqrt(statistics.fmean(variances)) if variances else None
