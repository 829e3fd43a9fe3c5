"""What a person sees of a sweep: a line a trial, a bar on a terminal, and the table at the end."""

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from mnist_sweep import schema
from mnist_sweep.overrides import PROGRAM
from mnist_sweep.result import Result
from mnist_sweep.sweep import study as studies

log = logging.getLogger(__name__)

_SHOWN = 5


@contextlib.contextmanager
def progress(total: int, done: int) -> Iterator[Callable[[], None]]:
    """On a terminal a bar over the trials; gives the function that moves it on by one."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    columns = TextColumn("trials"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("trials", total=total, completed=done)
        yield lambda: bar.advance(task)


def line(config: schema.Config, study: optuna.Study, done: int, number: int, result: Result) -> str:
    """One trial as one line."""
    assert config.sweep is not None
    ranking = studies.ranking(study)
    value = f"{config.objective} {result.objective:.4f}" if result.objective is not None else "no value"
    best = f"best {ranking[0].value:.4f} (trial {ranking[0].number})" if ranking else "no best yet"
    why = f" ({result.reason}: {result.detail})" if result.reason else ""
    return (
        f"{done:>3} of {config.sweep.trials}  trial {number} {result.status}{why}  {value}  {best}  "
        f"{result.epochs} epochs, {result.seconds:.1f} s"
    )


def show(config: schema.Config, study: optuna.Study, crowned: dict[str, Any], overlay: Path) -> None:
    """The end of a sweep: the best five, the commands that repeat the best, the winner's score, the way to MLflow.

    Args:
        config: of the sweep.
        study: with at least one complete trial.
        crowned: the ``winner`` of ``sweep.json``.
        overlay: the folder of configs that has the best trial as ``experiment=best``.
    """
    ranking = studies.ranking(study)
    counts = ", ".join(f"{count} {state}" for state, count in studies.counts(study).items())
    table = Table(title=f"{study.study_name} on {config.data.name}: {counts}", box=box.SIMPLE, title_justify="left")
    for column in ("trial", config.objective, "proposed"):
        table.add_column(column, overflow="fold", justify="left")
    for trial in ranking[:_SHOWN]:
        table.add_row(str(trial.number), f"{trial.value:.4f}", "  ".join(map(_short, trial.user_attrs["proposed"])))
    Console(stderr=True, width=None if sys.stderr.isatty() else 160).print(table)
    best = ranking[0]
    score = crowned["test_accuracy"]
    spread = f", 95% interval {score['low']:.4f} … {score['high']:.4f}" if score["low"] is not None else ""
    log.info("best trial again   %s", best.user_attrs["command"])
    log.info("or as an overlay   %s --config-dir %s experiment=best", PROGRAM, overlay)
    log.info(
        "winner             trial %d over %d new seeds: test/accuracy %.4f%s (%s)",
        crowned["trial"],
        len(crowned["seeds"]),
        score["mean"],
        spread,
        config.data.name,
    )
    if isinstance(config.tracking, schema.MLflow):
        log.info("compare the runs   mlflow ui --backend-store-uri %s", config.tracking.uri)


def _short(item: str) -> str:
    """An override with three significant digits."""
    key, _, value = item.partition("=")
    try:
        return item if value.lstrip("-").isdigit() else f"{key}={float(value):.3g}"
    except ValueError:
        return item
