"""What a sweep would be, before anything is trained: its space, its waste, its time."""

import logging
import math
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

import optuna

from mnist_sweep.config import schema
from mnist_sweep.config.command import CommandLine
from mnist_sweep.errors import RequestError, RunFailure
from mnist_sweep.result import write_json
from mnist_sweep.sweep import samplers, storage, summary
from mnist_sweep.sweep.candidates import Candidate, Candidates
from mnist_sweep.sweep.session import prepared

log = logging.getLogger(__name__)

_DRAWS = 1_000
#: Spaces with more points than this are called "more than".
_POINTS = 100_000
#: Training images of a probe on a processor, and on a GPU, which is much faster.
_PROBE_IMAGES, _PROBE_IMAGES_ON_GPU = 2_000, 20_000
#: What a training image costs in forward passes (one forward, about two backward).
_TRAINING = 3
#: Of a checkpoint, for each parameter of its network.
_BYTES = 4


def plan(command: CommandLine) -> Path:
    """Look ahead: three short probes are trained, and nothing is left but ``plan.json`` in the sweep's folder.

    Raises:
        RequestError: the sweep could not be begun.
        RunFailure: none of the draws is possible, or a probe failed.
    """
    config = command.config
    assert config.sweep is not None
    space, resources, common, _, explained = prepared(command)
    folder, minutes = Path(config.output) / "runs" / config.sweep.name, config.sweep.budget_minutes
    storage.check_folders(config.sweep, folder, new=False)
    for line in explained:
        log.info("%s", line)
    candidates = Candidates(common, config.sweep.constraints or {})
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=config.seed))
    possible, why = list[Candidate](), ""
    for _ in range(_DRAWS):
        try:
            possible.append(candidates.make(space.suggest(study.ask())))
        except RequestError as error:
            why = str(error)
    if not possible:
        raise RunFailure("infeasible", f"none of {_DRAWS} proposals is possible; the last: {why}")
    each = _seconds(config, possible, _PROBE_IMAGES_ON_GPU if resources.gpus else _PROBE_IMAGES)
    seconds = {"mean": statistics.fmean(each), "shortest": min(each), "longest": max(each)}
    total, points = samplers.total(config.sweep, space), space.points(_POINTS)
    epochs = statistics.fmean(candidate.epochs for candidate in possible)
    trials = int(min(total, max(1, (config.sweep.budget_epochs or math.inf) / epochs)))
    asked = config.sweep.winner
    again = asked.top * asked.race_seeds + 2 * asked.seeds  # the race, then the winner and the baseline
    together = len(resources.gpus) or resources.workers  # workers that share a GPU train in turn
    kept, weights = min(trials, config.sweep.keep or trials), statistics.fmean(c.costs["parameters"] for c in possible)
    content = {
        "study": config.sweep.name,
        "space": {key: {"range": drawn, "when": when} for key, drawn, when in space.describe()},
        "points": points,
        "draws": _DRAWS,
        "impossible": (_DRAWS - len(possible)) / _DRAWS,
        "duplicates": 1 - len({candidate.digest for candidate in possible}) / len(possible),
        "workers": resources.workers,
        "threads": resources.threads,
        "seconds_a_trial": seconds,
        "trials": trials,
        "minutes": round(trials * seconds["mean"] / min(together, trials) / 60, 2),
        "runs_of_the_winner": again,
        "minutes_of_the_winner": round(again * seconds["mean"] / min(together, again) / 60, 2),
        "checkpoint_gigabytes": round(_BYTES * weights * (kept + again) / 1e9, 3),
        "trials_in_budget": int(60 * minutes * together / seconds["mean"]) if minutes else None,
    }
    columns = "key", "drawn from", "only when"
    summary.print_table(f"the space of {config.sweep.name}", columns, space.describe(), width=120)
    endless = f"without end ({', '.join(space.continuous)})" if space.continuous else f"more than {_POINTS:,}"
    lines = {
        "points": f"{points:,}" if points else endless,
        f"of {_DRAWS} draws": f"{content['impossible']:.1%} impossible, {content['duplicates']:.1%} equal to another",
        "a trial": f"{seconds['mean']:.1f} s in the mean ({seconds['shortest']:.1f} … {seconds['longest']:.1f}) on one "
        f"of {resources.workers} workers with {resources.threads} threads, if nothing stops it",
        f"{trials} trials": f"{content['minutes']:.1f} minutes without pruning",
        "the winner": f"{content['minutes_of_the_winner']:.1f} minutes for {again} more trainings",
    }
    gigabytes = f"{content['checkpoint_gigabytes']:.2f} GB of {kept} trials (sweep.keep) and the winner's trainings"
    lines["checkpoints"] = gigabytes
    if minutes is not None:
        lines[f"in {minutes:g} minutes"] = f"{content['trials_in_budget']} trials without pruning"
    for what, line in lines.items():
        log.info("%-18s %s", what, line)
    folder.mkdir(parents=True, exist_ok=True)
    return write_json(folder / "plan.json", content)


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
