"""The winner: the best trials trained again with the same new seeds, the best mean taken, the test set opened once."""

import logging
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial

from mnist_sweep import hardware as processor
from mnist_sweep import tracking
from mnist_sweep.config import metrics, schema
from mnist_sweep.config.command import compose
from mnist_sweep.config.overrides import override, replaced
from mnist_sweep.config.sweep_options import Objective
from mnist_sweep.errors import RunFailure
from mnist_sweep.result import Result, run_name
from mnist_sweep.run_record import differences
from mnist_sweep.sweep.study import Study, best_run, value_of
from mnist_sweep.sweep.workers import Task
from mnist_sweep.sweep.workers.pool import Crew
from mnist_sweep.training import datasets

log = logging.getLogger(__name__)

#: Ids of these runs; below them are those of the trials.
_FIRST_ID = 1_000_000


def crown(config: schema.Config, config_dir: str | None, study: Study, crew: Crew) -> dict[str, Any] | None:
    """Race the best trials over new seeds and measure the winner on the test set; or recall that this has been done.

    The best of many first scores is good in part by luck. So the best few are trained again, each with the same new
    seeds, and the best mean on the validation set wins.

    Args:
        config: of the sweep.
        config_dir: the further folder of configs.
        study: with at least one complete trial; the outcome is remembered there.
        crew: does the work.

    Returns:
        The ``winner`` of ``sweep.json``; None where several objectives leave a front and no rule chooses from it.

    Raises:
        RunFailure: no candidate could be trained again.
        Interrupted: the runs that ended are taken up next time.
    """
    assert config.sweep is not None
    settings = config.sweep.winner
    if study.several and settings.rule is None:
        log.info(
            "several objectives: the front has %d members, and none is crowned (sweep.winner.rule)", len(study.front())
        )
        return None
    goal = next(goal for goal in study.goals if settings.rule in (None, goal.metric))
    members = {trial.number for trial in study.front()} if study.several else None
    ranked = [trial for trial in study.ranking(goal.metric) if members is None or trial.number in members]
    candidates = ranked[: settings.top]
    reference = study.baseline()
    if settings.baseline and reference is None:
        log.warning("sweep.winner.baseline=true: no complete trial has the config's own values; they do not race")
    elif settings.baseline and reference and reference.number not in [trial.number for trial in candidates]:
        candidates.append(reference)
    seeds = [(config.seed + 1 + index) % 2**32 for index in range(settings.seeds)]
    known: dict[str, Any] | None = study.recall("winner")
    if (
        known
        and [each["trial"] for each in known["candidates"]] == [c.number for c in candidates]
        and (known["seeds"] == seeds and known["metric"] == goal.metric)
    ):
        return _recalled(config, study, goal, known)
    log.info(
        "training %s again with %d new seed%s each",
        ", ".join(f"trial {trial.number}" for trial in candidates),
        len(seeds),
        "s" * (len(seeds) != 1),
    )
    races = _race(config, config_dir, study, candidates, seeds, crew)
    scores = {
        trial.number: [value_of(goal, result) for result in races[trial.number]]
        for trial in candidates
        if len(races[trial.number]) == len(seeds)
    }
    if not scores:
        raise RunFailure("error", "none of the best trials could be trained again")
    order = sorted(scores, key=lambda number: -goal.sign * statistics.fmean(scores[number]))
    best = next(trial for trial in candidates if trial.number == order[0])
    index = study.goals.index(goal)
    share = goal.metric in metrics.SHARES
    content = {
        "trial": best.number,
        "command": best.user_attrs["result"]["command"],
        "metric": goal.metric,
        "seeds": seeds,
        "validation": _spread(scores[best.number], share),
        "noise": _noise(list(scores.values())),
        "luck": goal.sign * (best.values[index] - statistics.fmean(scores[best.number])),
        "lead": _better(goal, scores[order[0]], scores[order[1]]) if len(order) > 1 else None,
        "gain": _gain(goal, scores, order[0], reference),
        "candidates": [
            {"trial": trial.number, "first": trial.values[index], **_spread(scores[trial.number], share)}
            if trial.number in scores
            else {"trial": trial.number, "first": trial.values[index], "mean": None}
            for trial in candidates
        ],
    }
    crowned = content | _test(config, config_dir, study, goal, races[best.number])
    study.remember("winner", crowned)
    return crowned


def _recalled(config: schema.Config, study: Study, goal: Objective, known: dict[str, Any]) -> dict[str, Any]:
    """The winner of an earlier sitting; its model is registered now, where MLflow failed then."""
    assert config.sweep is not None
    if known["model"] is not None or not isinstance(config.tracking, schema.MLflow):
        return known
    names = [run_name(config.sweep.name, known["trial"], seed) for seed in known["seeds"]]
    found = [Result.found(Path(config.output) / "runs" / name) for name in names]
    results = [result for result in found if result and "test/accuracy" in result.metrics]
    if len(results) == len(names) and (model := _register(config, goal, results)):
        known = {**known, "model": model}
        study.remember("winner", known)
    return known


def _gain(
    goal: Objective, scores: Mapping[int, Sequence[float]], best: int, reference: FrozenTrial | None
) -> dict[str, Any] | None:
    """By how much the winner is better than the config's own values, seed by seed; None where these did not race."""
    if reference is None or reference.number not in scores:
        return None
    return {"trial": reference.number, **_better(goal, scores[best], scores[reference.number])}


def _better(goal: Objective, scores: Sequence[float], others: Sequence[float]) -> dict[str, Any]:
    """By how much scores are better than others, seed by seed."""
    return _spread([goal.sign * (a - b) for a, b in zip(scores, others, strict=True)])


def _race(
    config: schema.Config,
    config_dir: str | None,
    study: Study,
    candidates: Sequence[FrozenTrial],
    seeds: Sequence[int],
    crew: Crew,
) -> dict[int, list[Result]]:
    """The results of each candidate over the seeds; those of earlier sittings are taken as they are."""
    assert config.sweep is not None
    results: dict[tuple[int, int], Result] = {}
    tasks: dict[int, tuple[int, int, Task]] = {}
    # The longest first, so that no worker waits long for another at the end (R. L. Graham: Bounds on multiprocessing
    # timing anomalies, 1969).
    order = sorted(candidates, key=lambda trial: -float(trial.user_attrs["result"]["seconds"]))
    for trial in order:
        for seed in seeds:
            name = run_name(config.sweep.name, trial.number, seed)
            folder = Path(config.output) / "runs" / name
            earlier_run = trial.user_attrs["result"]
            items = replaced(earlier_run["overrides"], [override("seed", seed), override("name", name)])
            if folder.exists() and (changed := differences(compose(items, config_dir))):
                raise RunFailure("error", f"{folder} is there already, of another run ({'; '.join(changed)})")
            if (earlier := Result.found(folder)) and earlier.status == "finished":
                results[trial.number, seed] = earlier
                continue
            number = _FIRST_ID + len(tasks)
            task = Task(
                id=number,
                overrides=items,
                config_dir=config_dir,
                parent=earlier_run["mlflow_run_id"],
                tags={"study": config.sweep.name, "study.id": study.id, "winner": "true", "trial": trial.number},
                resume=folder.exists(),
                limit_seconds=config.sweep.trial_seconds,
            )
            tasks[number] = trial.number, seed, task
    asked = [task for _, _, task in tasks.values()]
    if config.trainer.threads is None and asked:
        asked = widened(asked, crew.launcher.workers, processor.cores())
    for number, result in crew.perform(asked).items():
        candidate, seed, _ = tasks[number]
        if result.status == "finished":
            results[candidate, seed] = result
        else:
            log.warning(
                "trial %d with seed %d: %s (%s)", candidate, seed, result.reason or result.status, result.detail
            )
    return {
        trial.number: [results[trial.number, seed] for seed in seeds if (trial.number, seed) in results]
        for trial in candidates
    }


def widened(tasks: Sequence[Task], workers: int, cores: int) -> list[Task]:
    """The same tasks; where the last round leaves workers without one, those in it get their threads, too.

    Args:
        tasks: in the order in which the workers take them, the longest first.
        workers: tasks at a time.
        cores: threads in all.
    """
    last = len(tasks) % workers
    threads = cores // last if last else 0
    if threads <= max(1, cores // workers):
        return list(tasks)
    wide = [override("trainer.threads", threads)]
    return [
        *tasks[: len(tasks) - last],
        *(replace(task, overrides=replaced(task.overrides, wide)) for task in tasks[len(tasks) - last :]),
    ]


def _test(
    config: schema.Config, config_dir: str | None, study: Study, goal: Objective, runs: Sequence[Result]
) -> dict[str, Any]:
    """Open the test set for the winner's networks, one for each seed; register the one that is best on validation."""
    from mnist_sweep.evaluation import open_test

    def remember(moments: set[str]) -> None:
        openings = study.recall("test_openings", [])
        study.remember("test_openings", [*openings, *sorted(moments.difference(openings))])

    results = open_test([Path(result.folder) for result in runs], config_dir, opening=lambda moment: remember({moment}))
    moments = {str(result.test_opened_at) for result in results}
    remember(moments)  # also those of runs that were measured before this was kept
    accuracies = [result.metrics["test/accuracy"] for result in results]
    return {
        "test_accuracy": _spread(accuracies, share=True),
        "test_opened_at": max(moments),
        "test_openings": len(study.recall("test_openings")),  # more than one where a sweep was continued after its end
        "mlflow_run_ids": [result.mlflow_run_id for result in results],
        "checkpoints": [str(Path(result.folder) / str(result.checkpoint)) for result in results],
        "model": _register(config, goal, results),
    }


def _register(config: schema.Config, goal: Objective, results: Sequence[Result]) -> dict[str, Any] | None:
    """Register the model of the run that is best on validation; None without tracking, or where it fails."""
    chosen, digest = best_run(goal, results), datasets.verify(config.data)
    return tracking.register(
        config.tracking, chosen.mlflow_run_id, config.data.name, digest, chosen.metrics["test/accuracy"]
    )


def interval(values: Sequence[float]) -> tuple[float, float | None, float | None]:
    """The mean of values over seeds and its 95% interval by Student's t; none for one value."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, None, None
    from scipy.stats import t

    half = float(t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
    return mean, mean - half, mean + half


def _spread(values: Sequence[float], share: bool = False) -> dict[str, Any]:
    """Mean, interval and values as plain data; the interval of a share, such as an accuracy, stays within [0, 1]."""
    mean, low, high = interval(values)
    if share and low is not None and high is not None:
        low, high = max(0.0, low), min(1.0, high)
    return {"mean": mean, "low": low, "high": high, "each": list(values)}


def _noise(groups: Sequence[Sequence[float]]) -> float | None:
    """The standard deviation between seeds, pooled over the candidates; None for one seed."""
    variances = [statistics.variance(group) for group in groups if len(group) > 1]
    return math.sqrt(statistics.fmean(variances)) if variances else None
