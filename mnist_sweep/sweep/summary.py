"""What remains of a sweep: ``sweep.json``, and the table at the end."""

import logging
import shlex
import sys
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial
from rich import box
from rich.console import Console
from rich.table import Table

from mnist_sweep.config import schema
from mnist_sweep.config.overrides import PROGRAM
from mnist_sweep.result import write_json
from mnist_sweep.sweep.export_best import overlay
from mnist_sweep.sweep.study import Study
from mnist_sweep.tracking import is_server

log = logging.getLogger(__name__)

_SHOWN = 5


def write(
    config: schema.Config,
    study: Study,
    crowned: dict[str, Any] | None,
    folder: Path,
    seconds: float,
    run_id: str | None,
) -> Path:
    """Write ``sweep.json``.

    Args:
        config: of the sweep.
        study: as it is now.
        crowned: the winner, where there is one yet.
        folder: of the sweep.
        seconds: of all sittings.
        run_id: MLflow's id of the sweep's own run.
    """
    ranking = study.ranking()
    counts = study.counts()
    infeasible = counts.pop("infeasible", 0)
    duplicates, ended = study.duplicates(), sum(counts.values())
    best = {"front": [_member(study, trial) for trial in study.front()]} if study.several else {}
    return write_json(
        folder / "sweep.json",
        {
            "study": folder.name,
            "direction": study.goals[0].direction,
            "objective": study.goals[0].metric,
            "objectives": [goal.model_dump() for goal in study.goals],
            "trials": counts,
            "infeasible": infeasible,
            "duplicates": {"trials": duplicates, "share": duplicates / ended if ended else 0.0},
            "failures": study.failures(),
            "best": _member(study, ranking[0]) if ranking and not study.several else None,
            **best,
            "winner": crowned,
            "seconds": round(seconds, 3),
            "dataset": config.data.name,
            "mlflow_run_id": run_id,
        },
    )


def _member(study: Study, trial: FrozenTrial) -> dict[str, Any]:
    """A trial as plain data."""
    values = {goal.metric: value for goal, value in zip(study.goals, trial.values, strict=True)}
    return {
        "trial": trial.number,
        "value": trial.values[0],
        "values": values,
        "params": trial.params,
        "command": trial.user_attrs["result"]["command"],
        "mlflow_run_id": trial.user_attrs["result"]["mlflow_run_id"],
    }


def show(
    config: schema.Config, study: Study, crowned: dict[str, Any] | None, folder: Path, config_dir: str | None
) -> None:
    """The end of a sweep: the best five or the front, the commands, the winner's score, the way to MLflow.

    Args:
        config: of the sweep.
        study: with at least one complete trial.
        crowned: the winner, or None where several objectives leave a front.
        folder: of the sweep; the best trial is left in it as ``experiment=best``.
        config_dir: the further folder of configs.
    """
    shown = study.front() if study.several else study.ranking()[:_SHOWN]
    _table(config, study, shown)
    _failed(study)
    best = shown[0]
    if crowned:
        best = next(trial for trial in study.ranking() if trial.number == crowned["trial"])
    kind = "winner" if crowned else "first one" if study.several else "best trial"
    log.info("%-18s %s", f"{kind} again", best.user_attrs["result"]["command"])
    try:
        path = overlay(best, study.goals[0].metric, folder, config_dir)
        log.info("%-18s %s --config-dir %s experiment=best", "or as an overlay", PROGRAM, shlex.quote(str(path)))
    except OSError as error:  # the sweep is done, whatever became of the files that it was composed of
        log.warning("the best trial could not be left as an overlay (%s)", error)
    if crowned:
        _crowned(config, crowned)
    if isinstance(config.tracking, schema.MLflow):
        uri = config.tracking.uri
        page = uri if is_server(uri) else f"mlflow ui --backend-store-uri {shlex.quote(uri)}"
        log.info("%-18s %s", "compare the runs", page)


def in_digits(value: float) -> str:
    """A value as people read it: a count, or four digits behind the point."""
    count = abs(value) > 1000 or (abs(value) > 1 and value == round(value))
    return f"{value:,.0f}" if count else f"{value:.4f}"


def counted(study: Study) -> str:
    """The trials by state: ``12 complete, 8 pruned``."""
    return ", ".join(f"{count} {state}" for state, count in study.counts().items() if count)


def _table(config: schema.Config, study: Study, trials: list[FrozenTrial]) -> None:
    title = f"{study.study.study_name} on {config.data.name}: {counted(study)}"
    if study.several:
        title += f"; the front of {len(trials)}"
    table = Table(title=title, box=box.SIMPLE, title_justify="left")
    for column in ("trial", *(goal.metric for goal in study.goals), "proposed"):
        table.add_column(column, overflow="fold", justify="left")
    for trial in trials:
        table.add_row(
            str(trial.number), *map(in_digits, trial.values), "  ".join(map(short, trial.user_attrs["proposed"]))
        )
    Console(stderr=True, width=None if sys.stderr.isatty() else 160).print(table)


def _failed(study: Study) -> None:
    """What failed, why, and how many were not trained a second time."""
    for word, count in study.failures().items():
        what = "impossible proposals, drawn again" if word == "infeasible" else f"failed: {word}"
        log.info("%-18s %d %s", "", count, what)
    if duplicates := study.duplicates():
        ended = sum(count for state, count in study.counts().items() if state != "infeasible")
        log.info("%-18s %d trials (%.0f%%) equal earlier ones", "", duplicates, 100 * duplicates / ended)


def _crowned(config: schema.Config, crowned: dict[str, Any]) -> None:
    seeds, validation = len(crowned["seeds"]), crowned["validation"]
    log.info(
        "%-18s trial %d (candidates: %d; new seeds: %d)", "winner", crowned["trial"], len(crowned["candidates"]), seeds
    )
    noise = f"; noise between seeds {crowned['noise']:.4f}" if crowned["noise"] is not None else ""
    log.info("%-18s %s %s%s", "", crowned["metric"], interval(validation), noise)
    log.info("%-18s of the first score %+.4f was luck", "", crowned["luck"])
    if crowned.get("gain"):  # a study from before this was measured has none
        log.info("%-18s %s", "", gain(crowned))
    log.info("%-18s test/accuracy %s (%s)", "", interval(crowned["test_accuracy"]), config.data.name)
    if crowned["test_openings"] > 1:
        log.info("%-18s the test set has been opened %d times for this study", "", crowned["test_openings"])


def interval(spread: dict[str, Any], sign: str = "") -> str:
    """A mean over seeds with its 95% interval, where there is one; with ``+`` for `sign`, positive numbers have it."""
    if spread["low"] is None:
        return f"{spread['mean']:{sign}.4f}"
    if len({f"{each:.4f}" for each in spread["each"]}) == 1:  # by chance: an interval without width would be too sure
        return f"{spread['mean']:{sign}.4f} (equal for all {len(spread['each'])} seeds)"
    return f"{spread['mean']:{sign}.4f} (95% interval {spread['low']:{sign}.4f} … {spread['high']:{sign}.4f})"


def gain(crowned: dict[str, Any]) -> str:
    """What the search was good for: the winner against the config's own values, which have raced, too."""
    own = crowned["gain"]["trial"]
    if own == crowned["trial"]:
        return f"trial {own} has the config's own values: nothing better was found"
    return f"better by {interval(crowned['gain'], '+')} than the config's own values, trial {own}, seed by seed"


def short(item: str) -> str:
    """An override with three significant digits."""
    key, _, value = item.partition("=")
    try:
        return item if value.lstrip("-").isdigit() else f"{key}={float(value):.3g}"
    except ValueError:
        return item
