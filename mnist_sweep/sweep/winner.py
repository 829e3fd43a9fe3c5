"""The winner: the best trials are trained again with new seeds, the best mean wins, and the test set is opened once.

The best of many first scores is good in part by luck (selection bias), and so is the best of a few means. So the best
trials are trained again, each with the same race seeds, and the best mean of its first score and those of the race on
the validation set wins. Then the winner and the baseline are trained with new seeds, which had no part in the choice:
what is said of the winner comes from these.
"""

import hashlib
import logging
import math
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial

from mnist_sweep import tracking
from mnist_sweep.config import metrics, schema
from mnist_sweep.config.command import CommandLine
from mnist_sweep.config.sweep_options import Objective
from mnist_sweep.errors import RequestError, RunFailure
from mnist_sweep.result import BEST, Result, run_name
from mnist_sweep.run_folder import RunFolder
from mnist_sweep.sweep.progress import Runs
from mnist_sweep.sweep.space import same
from mnist_sweep.sweep.study import Study, best_run, first_score, has_score, value_of
from mnist_sweep.sweep.workers import Task, Workers

log = logging.getLogger(__name__)

#: Letters of a key within the name of a run: with the longest name of a sweep that is no longer than a run's may be.
_LONGEST_KEY = 60


@dataclass(frozen=True)
class _Entry:
    """What is trained again: a trial, or the config's own values where no trial has them."""

    number: int | None  # of the trial
    command: CommandLine
    seconds: float  # that it took
    parent: str | None  # MLflow's id of the run that the new ones are children of

    @classmethod
    def of(cls, trial: FrozenTrial, common: CommandLine) -> "_Entry":
        """Of a trial, in the place of this session."""
        result = trial.user_attrs["result"]
        command = CommandLine.of(result["overrides"]).placed_as(common)
        return cls(trial.number, command, float(result["seconds"]), result["mlflow_run_id"])


def choose(command: CommandLine, common: CommandLine, study: Study, workers: Workers) -> dict[str, Any] | None:
    """Train the best trials again, choose the winner on validation and measure it on the test set.

    The study has a trial that can win. If it remembers a winner of the same candidates, seeds and objective, that is
    it.

    Args:
        command: of the sweep.
        common: what all trials have in common: the config's own values.
        study: of the sweep.
        workers: train.

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
        members = len(study.front())
        log.info("%d Pareto-optimal trials; to pick a winner set sweep.winner.rule=%s", members, study.goals[0].metric)
        return None
    goal = next(goal for goal in study.goals if settings.rule in (None, goal.metric))
    candidates = _candidates(study, goal, settings.top, settings.baseline)
    new = [(config.seed + config.sweep.seeds + index) % 2**32 for index in range(settings.race_seeds + settings.seeds)]
    seeds, fresh = new[: settings.race_seeds], new[settings.race_seeds :]
    asked = [goal.metric, seeds, fresh, [trial.number for trial in candidates], settings.ablate]
    winner: dict[str, Any] | None = study.recall("winner")
    if winner and winner.get("asked") == asked:
        winner = _here(winner, study, Path(config.output) / "runs")
    else:
        winner = {"asked": asked, **_Choice(command, common, study, goal, workers).made(candidates, seeds, fresh)}
        study.remember("winner", winner)
    if winner["model"] is None and (model := _registered(config, goal, winner["checkpoints"])):
        winner = {**winner, "model": model}  # in a later session, where MLflow failed before
        study.remember("winner", winner)
    return winner


def _here(winner: Mapping[str, Any], study: Study, runs: Path) -> dict[str, Any]:
    """A winner of an earlier session, which may have been in another folder, with the paths of this one."""
    checkpoints = [str(runs / Path(file).parents[1].name / BEST) for file in winner["checkpoints"]]
    command = study.trials()[winner["trial"]].user_attrs["result"]["command"]
    return {**winner, "checkpoints": checkpoints, "command": command}


def _candidates(study: Study, goal: Objective, top: int, with_baseline: bool) -> list[FrozenTrial]:
    """The best trials, of the front where there is one; and the baseline, if it is to take part whatever its rank."""
    front = [trial.number for trial in study.front()] if study.several else None
    ranked = study.contenders() if front is None else study.ranking(goal.metric)
    candidates = [trial for trial in ranked if front is None or trial.number in front][:top]
    if with_baseline:
        baseline = study.baseline()
        if baseline is None or not has_score(goal, baseline):
            why = "there is no baseline trial" if baseline is None else f"trial {baseline.number} has no value"
            log.warning("sweep.winner.baseline=true: %s, so it does not take part", why)
        elif baseline.number not in [trial.number for trial in candidates]:
            candidates.append(baseline)
    return candidates


def _counted(seeds: Sequence[int], kind: str) -> str:
    return f"{len(seeds)} {kind} seed{'s' * (len(seeds) != 1)} each"


@dataclass(frozen=True)
class _Choice:
    """Trains the best trials of a sweep again, and chooses among them by one of its objectives."""

    command: CommandLine  # of the sweep
    common: CommandLine  # what all trials have in common: the config's own values
    study: Study
    goal: Objective
    workers: Workers

    def made(self, candidates: Sequence[FrozenTrial], seeds: Sequence[int], fresh: Sequence[int]) -> dict[str, Any]:
        """The winner of a race over seeds, and what fresh seeds say of it; its model is not registered yet."""
        which = ", ".join(f"trial {trial.number}" for trial in candidates)
        log.info("training %s again, to choose the winner: %s", which, _counted(seeds, "race"))
        race = self._trained_again([_Entry.of(trial, self.common) for trial in candidates], seeds)
        if not race:
            raise RunFailure("error", "none of the best trials could be trained again")
        compared = _compared(self.goal, candidates, race)
        best = next(trial for trial in candidates if trial.number == compared["trial"])
        found = self.study.baseline()
        own = _Entry(None, self.common, 0.0, self.study.recall("mlflow_run_id"))
        own = _Entry.of(found, self.common) if found else own
        pair = [_Entry.of(best, self.common), *([own] if own.number != best.number else [])]
        against = " and the config's own values" if len(pair) > 1 else ""
        log.info("training the winner, trial %d%s: %s", best.number, against, _counted(fresh, "new"))
        runs = self._trained_again(pair, fresh, winner=best.number)
        if best.number not in runs:
            raise RunFailure("error", f"the winner, trial {best.number}, could not be trained again")
        differences = self._differences(best)
        settings = self.command.config.sweep
        ablate = settings and settings.winner.ablate
        network = best_run(self.goal, runs[best.number])
        return {
            "seeds": [*fresh],
            "race_seeds": [*seeds],
            **compared,
            "model": None,
            **_judged(self.goal, best.number, own.number, runs),
            "differences": differences,
            **({"ablation": self._ablated(best, differences, runs[best.number])} if ablate else {}),
            **_tested(self.command.config, self.study, runs[best.number]),
            "network": {"run": Path(network.folder).name, "seed": network.seed, "command": network.command},
        }

    def _differences(self, best: FrozenTrial) -> list[dict[str, Any]]:
        """The keys in which a trial differs from the config."""
        values, before = best.user_attrs["values"], self.common.config.parameters()
        changed = [key for key, value in values.items() if not same(before.get(key), value)]
        return [{"key": key, "value": values[key], "baseline": before.get(key)} for key in changed]

    def _trained_again(
        self, entries: Sequence[_Entry], seeds: Sequence[int], winner: int | None = None
    ) -> dict[int | None, list[Result]]:
        """The results over the seeds by trial, of each entry of which no run failed."""
        tasks: list[Task] = []
        # The longest first, so that no worker waits long for another at the end (R. L. Graham: Bounds on
        # multiprocessing timing anomalies, 1969).
        for entry in sorted(entries, key=lambda entry: -entry.seconds):
            role = "race" if winner is None else "final" if entry.number == winner else "baseline"
            tasks += [self._task(len(tasks) + index, entry, seed, role) for index, seed in enumerate(seeds)]
        runs: dict[int | None, list[Result]] = {entry.number: [] for entry in entries}
        what = "the race" if winner is None else "the winner"
        expected = len(seeds) * sum(entry.seconds for entry in entries) / self.workers.size
        with Runs(what, tasks, self.study.goals[0].metric, expected) as shown:
            results = self.workers.perform(tasks, shown.show)
        for task in tasks:
            number, result = task.tags["trial"], results[task.id]
            if result.status == "finished":
                runs[number].append(result)
            else:
                why = result.reason or result.status
                log.warning("trial %s with seed %d: %s (%s)", number, result.seed, why, result.detail)
        return {number: done for number, done in runs.items() if len(done) == len(seeds)}

    def _ablated(
        self, best: FrozenTrial, differences: Sequence[Mapping[str, Any]], runs: Sequence[Result]
    ) -> list[dict[str, Any]]:
        """How much worse the winner is without each of its differences to the config: each is undone once.

        `runs` are the winner's own.
        """
        found: list[dict[str, Any]] = []
        tasks: dict[str, list[Task]] = {}
        number, trained, values = 0, _Entry.of(best, self.common), best.user_attrs["values"]
        for difference in differences:
            key = str(difference["key"])
            found.append({**difference, "worse_by": None})
            command = self.common.with_({name: value for name, value in values.items() if name != key})
            try:
                command.config.layers()
            except RequestError as error:  # such as two kernel sizes beside one block
                found[-1]["why"] = str(error)
                continue
            undone = replace(trained, command=command)
            for result in runs:
                task = self._task(number, undone, result.seed, "ablation", without=key)
                tasks.setdefault(key, []).append(task)
                number += 1
        results = self.workers.perform([task for group in tasks.values() for task in group])
        for entry in found:
            without = [results[task.id] for task in tasks.get(entry["key"], [])]
            if without and all(result.status == "finished" for result in without):
                scores = [[value_of(self.goal, result) for result in group] for group in (runs, without)]
                entry["worse_by"] = _better_by(self.goal, *scores)
        return found

    def _task(self, number: int, entry: _Entry, seed: int, role: str, without: str = "") -> Task:
        """The entry's command with another seed; a run of an earlier session goes on, or is read if it has finished."""
        settings = self.command.config.sweep
        assert settings is not None
        name = f"{settings.name}-baseline-seed{seed}"
        if entry.number is not None:
            name = run_name(settings.name, entry.number, seed) + (f"-without-{_in_name(without)}" if without else "")
        command = entry.command.with_(seed=seed, name=name)
        folder = RunFolder.of(command.config)
        if differences := folder.differences(command.config):
            raise RunFailure("error", f"{folder.path} is there already, of another run ({'; '.join(differences)})")
        tags = {"study": settings.name, "study.id": self.study.id, "role": role, "trial": entry.number}
        limit, resume = settings.trial_seconds, folder.path.exists()
        return Task(number, command, entry.parent, tags, resume=resume, limit_seconds=limit, pictures=role == "final")


def _in_name(key: str) -> str:
    """A key within the name of a run. One that is long, or has letters that no name has, ends with its hash instead."""
    name = re.sub(r"[^A-Za-z0-9._-]", "_", key)
    if name == key and len(key) <= _LONGEST_KEY:
        return key
    end = hashlib.sha256(key.encode()).hexdigest()[:8]
    return f"{name[: _LONGEST_KEY - len(end) - 1]}-{end}"


def _compared(
    goal: Objective, candidates: Sequence[FrozenTrial], runs: Mapping[int | None, Sequence[Result]]
) -> dict[str, Any]:
    """Which candidate is the best on validation, by how much, and how good their first scores were by luck."""
    share = goal.metric in metrics.SHARES
    scores = {number: [value_of(goal, result) for result in results] for number, results in runs.items()}
    means = {number: statistics.fmean(values) for number, values in scores.items()}
    first = {trial.number: first_score(goal, trial) for trial in candidates}
    both = {number: statistics.fmean([first[number], *scores[number]]) for number in first.keys() & scores.keys()}
    best, *others = sorted(both, key=lambda number: (-goal.sign * both[number], number))
    trial = next(trial for trial in candidates if trial.number == best)
    bias = statistics.fmean(goal.sign * (first[number] - means[number]) for number in first.keys() & means.keys())
    return {
        "trial": best,
        "command": trial.user_attrs["result"]["command"],
        "metric": goal.metric,
        "luck": bias,
        "selection_bias": bias,
        "lead": _better_by(goal, scores[best], scores[others[0]]) if others else None,
        "candidates": [
            {"trial": each.number, "first": first[each.number]}
            | (metrics.spread(scores[each.number], share) if each.number in scores else {"mean": None})
            for each in candidates
        ],
    }


def _judged(
    goal: Objective, best: int, baseline: int | None, runs: Mapping[int | None, Sequence[Result]]
) -> dict[str, Any]:
    """What the new seeds say of the winner on validation, and of its improvement over the baseline.

    The noise between seeds is pooled over the winner and, if its mean is within three standard errors of the winner's,
    the baseline: what is far worse is often far less steady, too.
    """
    scores = {number: [value_of(goal, result) for result in results] for number, results in runs.items()}
    improvement = None
    if baseline in scores:
        improvement = {"trial": baseline, **_better_by(goal, scores[best], scores[baseline])}
    own, variances = scores[best], list[float]()
    if len(own) > 1:
        reach, mean = 3 * statistics.stdev(own) / math.sqrt(len(own)), statistics.fmean(own)
        near = [values for values in scores.values() if abs(statistics.fmean(values) - mean) <= reach]
        variances = [statistics.variance(values) for values in near]
    return {
        "validation": metrics.spread(own, goal.metric in metrics.SHARES),
        "noise": math.sqrt(statistics.fmean(variances)) if variances else None,
        "noise_networks": len(variances),
        "gain": improvement,
    }


def _better_by(goal: Objective, scores: Sequence[float], others: Sequence[float]) -> dict[str, Any]:
    """By how much scores are better than others, seed by seed: positive where they are, with the mean's interval."""
    return metrics.spread([goal.sign * (a - b) for a, b in zip(scores, others, strict=True)])


def _tested(config: schema.Config, study: Study, runs: Sequence[Result]) -> dict[str, Any]:
    """What the test set says of the winner's networks, one for each seed; the study counts the openings."""
    from mnist_sweep.run import open_test

    def remember(*moments: str) -> None:
        known = study.recall("test_openings", [])
        study.remember("test_openings", [*known, *sorted({*moments}.difference(known))])

    results = open_test([Path(result.folder) for result in runs], on_open=remember, session=config)
    moments = {str(result.test_opened_at) for result in results}
    remember(*moments)  # a run that an earlier session measured is not opened again
    return {
        "test_accuracy": metrics.spread([result.metrics["test/accuracy"] for result in results], share=True),
        "test_opened_at": max(moments),
        "test_openings": len(study.recall("test_openings")),  # more than one where a sweep went on after its end
        "mlflow_run_ids": [result.mlflow_run_id for result in results],
        "checkpoints": [str(Path(result.folder) / str(result.checkpoint)) for result in results],
    }


def _registered(config: schema.Config, goal: Objective, checkpoints: Sequence[str]) -> dict[str, Any] | None:
    """Name and version of the model, of the run that is best on validation; None without MLflow, or where it fails."""
    from mnist_sweep.training import datasets

    results = [result for file in checkpoints if (result := RunFolder(Path(file).parents[1]).result())]
    if len(results) < len(checkpoints):  # the runs have been moved or deleted since
        return None
    best = best_run(goal, results)
    mean = statistics.fmean(result.metrics["val/accuracy"] for result in results)
    measured = tracking.Measured(mean, len(results), datasets.split(config.data), best.metrics["test/accuracy"])
    model = tracking.register(config.tracking, best.mlflow_run_id, config.data.label, measured)
    return model and {**model, "run": Path(best.folder).name, "seed": best.seed}
