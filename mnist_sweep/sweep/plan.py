"""What a sweep would be, before anything is trained: its space, its waste, its time."""

import contextlib
import logging
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FixedTrial

from mnist_sweep.config import schema
from mnist_sweep.config.command import CommandLine
from mnist_sweep.config.sweep_options import Sweep
from mnist_sweep.errors import RequestError, RunFailure
from mnist_sweep.result import write_json
from mnist_sweep.sweep import samplers, storage, summary
from mnist_sweep.sweep.candidates import Candidate, Candidates
from mnist_sweep.sweep.estimate import Estimate
from mnist_sweep.sweep.session import prepared
from mnist_sweep.sweep.space import Space, same
from mnist_sweep.sweep.study import BASELINE
from mnist_sweep.sweep.workers.resources import Resources

log = logging.getLogger(__name__)

_DRAWS = 1_000
_NUMBERS = {2: "two", 3: "three", 4: "four"}
#: Spaces with more points than this are called "more than".
_POINTS = 100_000
#: Training images of a probe on a processor, and on a GPU, which is much faster.
_PROBE_IMAGES, _PROBE_IMAGES_ON_GPU = 2_000, 20_000
#: What a training image costs in forward passes (one forward, about two backward).
_TRAINING = 3
#: Candidates of the sweep's own sampler whose mean stands for a trial's time.
_PROPOSED = 100


def plan(command: CommandLine) -> Path:
    """Look ahead: three short probes are trained, and nothing is left but ``plan.json`` in the sweep's folder.

    Raises:
        RequestError: the sweep could not be begun.
        RunFailure: none of the draws is possible, or a probe failed.
    """
    config = command.config
    assert config.sweep is not None
    space, resources, common, first, explained = prepared(command)
    folder = Path(config.output) / "runs" / config.sweep.name
    storage.check_folders(config.sweep, folder, new=config.sweep.name not in storage.study_names(config.sweep))
    for line in explained:
        log.info("%s", line)
    candidates = Candidates(common, config.sweep.constraints or {})
    possible = _drawn(space, candidates, config.seed)
    proposed = _proposed(config.sweep, space, candidates, config.seed) or possible
    own = [candidates.make(space.suggest(FixedTrial(point))) for point, known in first if BASELINE in known]
    images = _PROBE_IMAGES_ON_GPU if resources.gpus else _PROBE_IMAGES
    found = _seconds(config, [*proposed, *own], images)
    seconds, of_own = found[: len(proposed)], found[len(proposed) :]  # none where your config is no point of the space
    estimate = Estimate(
        settings=config.sweep,
        total=samplers.total(config.sweep, space),
        epochs=[candidate.epochs for candidate in proposed],
        seconds=seconds,
        own_seconds=statistics.fmean(of_own or seconds),
        own=bool(own),
        undone=_differing(proposed, common),
        parameters=statistics.fmean(candidate.costs["parameters"] for candidate in possible),
        together=len(resources.gpus) or resources.workers,  # workers that share a GPU train in turn
        tracked=config.tracking.name != "none",
    )
    content = _content(estimate, space, possible, resources)
    _show(estimate, space, content, resources)
    folder.mkdir(parents=True, exist_ok=True)
    return write_json(folder / "plan.json", content)


def _content(estimate: Estimate, space: Space, possible: Sequence[Candidate], resources: Resources) -> dict[str, Any]:
    """What ``plan.json`` says."""
    minutes, seconds = estimate.settings.budget_minutes, estimate.seconds
    return {
        "study": estimate.settings.name,
        "space": {key: {"range": drawn, "when": when} for key, drawn, when in space.describe()},
        "points": space.points(_POINTS),
        "draws": _DRAWS,
        "impossible": (_DRAWS - len(possible)) / _DRAWS,
        "duplicates": 1 - len({candidate.digest for candidate in possible}) / len(possible),
        "workers": resources.workers,
        "threads": resources.threads,
        "seconds_a_trial": {"mean": statistics.fmean(seconds), "shortest": min(seconds), "longest": max(seconds)},
        "trials": estimate.trials,
        "epochs_a_trial": round(estimate.trial_epochs, 2),
        "minutes": round((estimate.search_seconds + estimate.winner_seconds) / 60, 2),
        "minutes_of_the_trials": round(estimate.search_seconds / 60, 2),
        "runs_of_the_winner": estimate.winner_runs,
        "minutes_of_the_winner": round(estimate.winner_seconds / 60, 2),
        "checkpoint_gigabytes": round(estimate.gigabytes, 3),
        "trials_in_budget": estimate.trials_in(minutes) if minutes else None,
    }


def _show(estimate: Estimate, space: Space, content: dict[str, Any], resources: Resources) -> None:
    """Print the space as a table, and say what the plan comes to."""
    settings = estimate.settings
    columns = "key", "drawn from", "only when"
    summary.print_table(f"the space of {settings.name}", columns, space.describe(), width=120)
    endless = f"infinitely many (continuous: {', '.join(space.continuous)})"
    points, seconds = content["points"], content["seconds_a_trial"]
    first, full = estimate.first_epochs, estimate.full_epochs
    pruning = f", {first:.1f} of {full:.1f} epochs with sweep/pruner={settings.pruner.name}" * (first < full)
    if settings.seeds > 1:
        pruning += f", then {settings.seeds - 1} more seeds where it reaches its end (sweep.seeds)"
    lines = {
        "points": f"{points:,}" if points else endless if space.continuous else f"more than {_POINTS:,}",
        f"of {_DRAWS} draws": f"{content['impossible']:.1%} broke a constraint, {content['duplicates']:.1%} were equal",
        "a full trial": f"{seconds['mean']:.1f} s on average ({seconds['shortest']:.1f} … {seconds['longest']:.1f}), "
        f"{_together(resources)}{pruning}",
        f"{estimate.trials} trials": f"{content['minutes_of_the_trials']:.1f} minutes",
        "the winner": f"{content['minutes_of_the_winner']:.1f} minutes: {estimate.winner_runs} more trainings, and the "
        "report",
        "in all": f"{content['minutes']:.1f} minutes",
        "checkpoints": f"{content['checkpoint_gigabytes']:.2f} GB of {estimate.kept} trials (sweep.keep) and the "
        "winner's trainings",
    }
    if settings.budget_minutes is not None:
        lines[f"in {settings.budget_minutes:g} minutes"] = f"{content['trials_in_budget']} trials"
    for what, line in lines.items():
        log.info("%-18s %s", what, line)


def _drawn(space: Space, candidates: Candidates, seed: int) -> list[Candidate]:
    """Draws from the whole space that are possible; a RunFailure says that none is."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    possible, why = list[Candidate](), ""
    for _ in range(_DRAWS):
        try:
            possible.append(candidates.make(space.suggest(study.ask())))
        except RequestError as error:
            why = str(error)
    if not possible:
        raise RunFailure("infeasible", f"none of {_DRAWS} proposals is possible; the last: {why}")
    return possible


def _differing(candidates: Sequence[Candidate], common: CommandLine) -> int:
    """The keys in which candidates differ from the config, on average: what ``sweep.winner.ablate`` undoes one by one.

    The winner is taken for one of them.
    """
    own = common.config.parameters()
    return round(statistics.fmean(sum(not same(own.get(key), c.values[key]) for key in c.values) for c in candidates))


def _together(resources: Resources) -> str:
    """How many trials run at a time, with how many threads."""
    threads = "one thread" if resources.threads == 1 else f"{resources.threads} threads"
    if resources.workers == 1:
        return f"one at a time, {threads}"
    return f"{_NUMBERS.get(resources.workers, resources.workers)} at a time, {threads} each"


def _proposed(settings: Sweep, space: Space, candidates: Candidates, seed: int) -> list[Candidate]:
    """What the sweep's own sampler proposes before there are results; those that are possible."""
    found: list[Candidate] = []
    study = optuna.create_study(sampler=samplers.sampler(settings, space, seed, 0))
    for _ in range(_PROPOSED):
        with contextlib.suppress(RequestError):
            found.append(candidates.make(space.suggest(study.ask())))
    return found


def _seconds(config: schema.Config, candidates: Sequence[Candidate], images: int) -> list[float]:
    """How long each candidate's trial would take, if nothing stops it.

    The cheapest and the dearest network are trained for one epoch of so many images. The line through both says what
    an image costs, and what each multiply-add of it costs more.
    """
    from mnist_sweep.training.data import parts

    training, validation = parts(config.data)
    images = min(images, len(training))
    log.info("probing: one epoch of %d images of the cheapest and of the dearest network", images)
    ordered = sorted(candidates, key=lambda candidate: candidate.costs["multiply_adds"])
    first, last = ordered[0], ordered[-1]
    cheap, dear = first.costs["multiply_adds"], last.costs["multiply_adds"]
    passes = _TRAINING * images + len(validation)
    _probe(first, images)  # pays for what is loaded once
    low, high = _probe(first, images) / passes, _probe(last, images) / passes
    slope = max(0.0, (high - low) / (dear - cheap)) if dear > cheap else 0.0
    an_image = max(0.0, low - slope * cheap)
    passes = _TRAINING * len(training) + len(validation)
    return [each.epochs * passes * (an_image + slope * each.costs["multiply_adds"]) for each in candidates]


def _probe(candidate: Candidate, images: int) -> float:
    """Seconds that one epoch of so many images takes."""
    from mnist_sweep.run import train

    with tempfile.TemporaryDirectory() as folder:
        short = {"trainer.max_epochs": 1, "data.limit": images}
        result = train(candidate.command.with_(short, tracking="none", output=folder, name="probe"), pictures=False)
    if result.status != "finished" and result.reason != "diverged":
        raise RunFailure(str(result.reason), f"the probe: {result.detail}")
    return result.train_seconds
