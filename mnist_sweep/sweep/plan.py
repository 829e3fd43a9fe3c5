"""What a sweep would be, before anything is trained: its space, its waste, its time."""

import logging
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
from rich import box
from rich.console import Console
from rich.table import Column, Table

from mnist_sweep.config import schema
from mnist_sweep.config.command import CommandLine
from mnist_sweep.errors import RequestError, RunFailure
from mnist_sweep.result import write_json
from mnist_sweep.sweep import lock, samplers
from mnist_sweep.sweep.candidates import Candidate, Candidates
from mnist_sweep.sweep.session import prepared
from mnist_sweep.sweep.space import Space

log = logging.getLogger(__name__)

_DRAWS = 1_000
#: Spaces with more points than this are called "more than".
_POINTS = 100_000
#: Training images of a probe on a processor, and on a GPU, which is much faster.
_PROBE_IMAGES, _PROBE_IMAGES_ON_GPU = 2_000, 20_000
#: What a training image costs in forward passes (one forward, about two backward).
_TRAINING = 3


def plan(command: CommandLine) -> Path:
    """Look ahead: three short probes are trained, and nothing is left but ``plan.json`` in the sweep's folder.

    Raises:
        RequestError: the sweep could not be begun.
        RunFailure: none of the draws is possible, or a probe failed.
    """
    config = command.config
    assert config.sweep is not None
    space, resources, common, _, explained = prepared(command)
    folder = Path(config.output) / "runs" / config.sweep.name
    lock.check_folders(config.sweep, folder, new=False)
    for line in explained:
        log.info("%s", line)
    possible, impossible = _draw(config, space, common)
    if not possible:
        raise RunFailure("infeasible", f"none of {_DRAWS} proposals is possible; the last: {impossible[-1]}")
    seconds = _seconds(config, possible, _PROBE_IMAGES_ON_GPU if resources.gpus else _PROBE_IMAGES)
    mean, trials = statistics.fmean(seconds), samplers.total(config.sweep, space)
    together = len(resources.gpus) or resources.workers  # workers that share a GPU train in turn
    minutes = config.sweep.budget_minutes
    content = {
        "study": config.sweep.name,
        "space": {key: {"range": drawn, "when": when} for key, drawn, when in space.describe()},
        "points": space.points(_POINTS),
        "draws": _DRAWS,
        "impossible": len(impossible) / _DRAWS,
        "duplicates": 1 - len({candidate.digest for candidate in possible}) / len(possible),
        "workers": resources.workers,
        "threads": resources.threads,
        "seconds_a_trial": {"mean": mean, "shortest": min(seconds), "longest": max(seconds)},
        "trials": trials,
        "minutes": round(trials * mean / min(together, trials) / 60, 2),
        "trials_in_budget": int(60 * minutes * together / mean) if minutes else None,
    }
    folder.mkdir(parents=True, exist_ok=True)
    _show(content, space.continuous, minutes)
    return write_json(folder / "plan.json", content)


def _draw(config: schema.Config, space: Space, common: CommandLine) -> tuple[list[Candidate], list[str]]:
    """Random candidates that are possible, and why the other draws are not."""
    assert config.sweep is not None
    candidates = Candidates(common, config.sweep.constraints or {})
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=config.seed))
    possible: list[Candidate] = []
    impossible: list[str] = []
    for _ in range(_DRAWS):
        try:
            possible.append(candidates.make(space.suggest(study.ask())))
        except RequestError as error:
            impossible.append(str(error))
    return possible, impossible


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


def _show(content: dict[str, Any], continuous: Sequence[str], budget_minutes: float | None) -> None:
    columns = [Column(name, overflow="fold") for name in ("key", "drawn from", "only when")]
    table = Table(*columns, box=box.SIMPLE, title=f"the space of {content['study']}", title_justify="left")
    for key, drawn in content["space"].items():
        table.add_row(key, drawn["range"], drawn["when"])
    Console(stderr=True, width=None if sys.stderr.isatty() else 120).print(table)
    points, seconds = content["points"], content["seconds_a_trial"]
    endless = f"without end ({', '.join(continuous)})" if continuous else f"more than {_POINTS:,}"
    lines = {
        "points": f"{points:,}" if points else endless,
        f"of {_DRAWS} draws": f"{content['impossible']:.1%} impossible, {content['duplicates']:.1%} equal to another",
        "a trial": f"{seconds['mean']:.1f} s in the mean ({seconds['shortest']:.1f} … {seconds['longest']:.1f}) on one "
        f"of {content['workers']} workers with {content['threads']} threads, if nothing stops it",
        f"{content['trials']} trials": f"{content['minutes']:.1f} minutes without pruning",
    }
    if budget_minutes is not None:
        lines[f"in {budget_minutes:g} minutes"] = f"{content['trials_in_budget']} trials without pruning"
    for what, text in lines.items():
        log.info("%-18s %s", what, text)
