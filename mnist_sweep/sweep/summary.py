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
from mnist_sweep.overrides import PROGRAM, text
from mnist_sweep.result import Result
from mnist_sweep.sweep import study as studies
from mnist_sweep.sweep import winner

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


def show(
    config: schema.Config, config_dir: str | None, study: optuna.Study, crowned: dict[str, Any], folder: Path
) -> None:
    """The end of a sweep: the best five, the commands that repeat the best, the winner's score, the way to MLflow."""
    ranking = studies.ranking(study)
    counts = ", ".join(f"{count} {state}" for state, count in studies.counts(study).items())
    table = Table(title=f"{study.study_name} on {config.data.name}: {counts}", box=box.SIMPLE, title_justify="left")
    for column in ("trial", config.objective, "parameters"):
        table.add_column(column, overflow="fold", justify="left")
    for trial in ranking[:_SHOWN]:
        drawn = "  ".join(f"{key}={_short(value)}" for key, value in trial.params.items())
        table.add_row(str(trial.number), f"{trial.value:.4f}", drawn)
    Console(stderr=True, width=None if sys.stderr.isatty() else 160).print(table)
    best = ranking[0]
    overlay = winner.overlay(best, config.objective, folder)
    search = f"{overlay}" if config_dir is None else f"{overlay} (with the configs of {config_dir} copied into it)"
    score = crowned["test_accuracy"]
    spread = f", 95% interval {score['low']:.4f} … {score['high']:.4f}" if score["low"] is not None else ""
    log.info("best trial again   %s", best.user_attrs["command"])
    log.info("or as an overlay   %s --config-dir %s experiment=best", PROGRAM, search)
    log.info("winner             trial %d over %d new seeds: test/accuracy %.4f%s (%s)", crowned["trial"],
             len(crowned["seeds"]), score["mean"], spread, config.data.name)
    if isinstance(config.tracking, schema.MLflow):
        log.info("compare the runs   mlflow ui --backend-store-uri %s", config.tracking.uri)


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else text(value)
