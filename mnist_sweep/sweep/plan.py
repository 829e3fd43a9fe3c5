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
from rich.table import Table

from mnist_sweep.config import schema
from mnist_sweep.config.overrides import override, replaced
from mnist_sweep.errors import RequestError, RunFailure
from mnist_sweep.result import Result, write_json
from mnist_sweep.sweep import lock as claim
from mnist_sweep.sweep import samplers as methods
from mnist_sweep.sweep.candidates import Proposal, Proposals
from mnist_sweep.sweep.driver import common
from mnist_sweep.sweep.space import Space
from mnist_sweep.sweep.study import objectives
from mnist_sweep.sweep.workers import resources as machine

log = logging.getLogger(__name__)

_DRAWS = 1_000
#: Spaces with more points than this are called "more than".
_POINTS = 100_000
#: Training images of a probe, on a processor and on a GPU, which does as many in a moment.
_PROBE_IMAGES, _PROBE_IMAGES_ON_GPU = 2_000, 20_000
#: What a training image costs in forward passes (one forward, about two backward).
_TRAINING = 3


def plan(config: schema.Config, given: Sequence[str], config_dir: str | None = None) -> Path:
    """Look ahead: nothing is trained but a short probe, and nothing is recorded but ``plan.json``.

    Args:
        config: with its ``sweep``; its data set is on disk.
        given: the overrides that composed it.
        config_dir: the further folder of configs.

    Returns:
        The path of ``plan.json``, in the sweep's folder.

    Raises:
        RequestError: the sweep could not be begun.
        RunFailure: not one of 1,000 proposals is possible, or the probe failed.
    """
    assert config.sweep is not None
    space = Space.of(config, given)
    folder = Path(config.output) / "runs" / config.sweep.name
    if claim.is_run(folder):
        raise claim.refusal(config.sweep, folder)
    for line in methods.check(config.sweep, space, len(objectives(config))):
        log.info("%s", line)
    divided = machine.share(config)
    items = common(config, given, divided)
    possible, impossible = _draws(config, space, Proposals(items, config_dir, config.sweep.constraints or {}))
    if not possible:
        raise RunFailure("infeasible", f"none of {_DRAWS} proposals is possible; the last: {impossible[-1]}")
    distinct = {proposal.digest for proposal in possible}
    rate = _probe(config, possible, _PROBE_IMAGES_ON_GPU if divided.gpus else _PROBE_IMAGES, config_dir)
    seconds = [rate.trial(proposal) for proposal in possible]
    mean = statistics.fmean(seconds)
    settings, trials = config.sweep, methods.total(config.sweep, space)
    together = len(divided.gpus) or divided.workers  # workers that share a GPU train in turn
    content = {
        "study": settings.name,
        "space": {key: {"range": said, "when": when} for key, said, when in space.describe()},
        "points": space.points(_POINTS),
        "draws": _DRAWS,
        "impossible": len(impossible) / _DRAWS,
        "duplicates": 1 - len(distinct) / len(possible),
        "workers": divided.workers,
        "threads": divided.threads,
        "seconds_a_trial": {
            "mean": round(mean, 2),
            "shortest": round(min(seconds), 2),
            "longest": round(max(seconds), 2),
        },
        "trials": trials,
        "minutes": round(trials * mean / min(together, trials) / 60, 2),
        "trials_in_budget": int(60 * settings.budget_minutes * together / mean) if settings.budget_minutes else None,
    }
    folder.mkdir(parents=True, exist_ok=True)
    _show(config, space, content)
    return write_json(folder / "plan.json", content)


def _draws(config: schema.Config, space: Space, proposals: Proposals) -> tuple[list[Proposal], list[str]]:
    """Random proposals that are possible, and why the others are not."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=config.seed))
    possible: list[Proposal] = []
    impossible: list[str] = []
    for _ in range(_DRAWS):
        try:
            possible.append(proposals.make(space.suggest(study.ask())))
        except RequestError as error:
            impossible.append(str(error))
    return possible, impossible


class _Rate:
    """Seconds of an epoch: so much for each image that passes, and so much more for each multiply-add of it."""

    def __init__(self, an_image: float, a_multiply_add: float, training: int, validation: int) -> None:
        self.an_image, self.a_multiply_add = an_image, a_multiply_add
        self.passes = _TRAINING * training + validation

    def trial(self, proposal: Proposal) -> float:
        """Seconds of a whole trial that nothing stops."""
        return proposal.epochs * self.passes * (self.an_image + self.a_multiply_add * proposal.costs["multiply_adds"])


def _probe(config: schema.Config, possible: Sequence[Proposal], images: int, config_dir: str | None) -> _Rate:
    """Train the cheapest and the dearest proposal for one epoch of so many images; two points make a line."""
    from mnist_sweep.training.data import parts

    training, validation = parts(config.data)
    images = min(images, len(training))
    passes = _TRAINING * images + len(validation)
    ordered = sorted(possible, key=lambda proposal: proposal.costs["multiply_adds"])
    cheap, dear = ordered[0], ordered[-1]
    log.info("probing: one epoch of %d images of the cheapest and of the dearest network", images)
    with tempfile.TemporaryDirectory() as folder:
        _epoch(cheap, images, Path(folder) / "warm-up", config_dir)  # the first one pays for what is loaded once
        low = _epoch(cheap, images, Path(folder) / "cheap", config_dir).train_seconds / passes
        high = _epoch(dear, images, Path(folder) / "dear", config_dir).train_seconds / passes
    span = dear.costs["multiply_adds"] - cheap.costs["multiply_adds"]
    slope = max(0.0, (high - low) / span) if span else 0.0
    return _Rate(max(0.0, low - slope * cheap.costs["multiply_adds"]), slope, len(training), len(validation))


def _epoch(proposal: Proposal, images: int, output: Path, config_dir: str | None) -> Result:
    from mnist_sweep.config.command import compose
    from mnist_sweep.run import run

    probe = {"trainer.max_epochs": 1, "data.limit": images, "tracking": "none", "output": str(output), "name": "probe"}
    items = replaced(proposal.overrides, [override(key, value) for key, value in probe.items()])
    result = run(compose(items, config_dir), items, config_dir=config_dir)
    if result.status != "finished" and result.reason != "diverged":
        raise RunFailure(str(result.reason), f"the probe: {result.detail}")
    return result


def _show(config: schema.Config, space: Space, content: dict[str, Any]) -> None:
    table = Table(title=f"the space of {content['study']}", box=box.SIMPLE, title_justify="left")
    for column in ("key", "drawn from", "only when"):
        table.add_column(column, overflow="fold")
    for row in space.describe():
        table.add_row(*row)
    Console(stderr=True, width=None if sys.stderr.isatty() else 120).print(table)
    points = content["points"]
    floats = ", ".join(space.continuous)
    size = f"{points:,}" if points else f"without end ({floats})" if floats else f"more than {_POINTS:,}"
    log.info("points             %s", size)
    log.info(
        "of %d draws     %.1f%% impossible, %.1f%% equal to another",
        _DRAWS,
        100 * content["impossible"],
        100 * content["duplicates"],
    )
    a_trial = content["seconds_a_trial"]
    log.info(
        "a trial            %.1f s in the mean (%.1f … %.1f) on one of %d workers with %d threads, if nothing stops it",
        a_trial["mean"],
        a_trial["shortest"],
        a_trial["longest"],
        content["workers"],
        content["threads"],
    )
    log.info("%d trials          %.1f minutes without pruning", content["trials"], content["minutes"])
    if content["trials_in_budget"] is not None:
        assert config.sweep is not None
        log.info(
            "in %g minutes      %d trials without pruning", config.sweep.budget_minutes, content["trials_in_budget"]
        )
