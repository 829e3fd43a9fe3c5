"""The end of a sweep as it is printed: what was found, the best trials, the commands."""

import logging
import re
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Column, Table

from mnist_sweep.config import options
from mnist_sweep.config.command import CommandLine
from mnist_sweep.config.overrides import override, text
from mnist_sweep.sweep import record
from mnist_sweep.sweep.study import Study, first_score
from mnist_sweep.tracking import is_server

log = logging.getLogger(__name__)

_SHOWN = 5
#: The value of an override that is a number with a point or an exponent.
_FLOAT = re.compile(r"(?<==)-?\d+(\.\d+(e[+-]\d+)?|e[+-]\d+)$")


def show(command: CommandLine, study: Study, winner: dict[str, Any] | None, folder: Path, page: str = "") -> None:
    """Print the end of a sweep: what was found, the best five or the front, the commands, the way to MLflow.

    The study has a trial that can win. It is left in the sweep's folder as ``experiment=winner``. The page, within
    MLflow's UI, is the one that shows the runs.
    """
    config = command.config
    for index, line in enumerate(in_words(winner, config.data.label) if winner else []):
        _say("" if index else "found", line)
    shown = study.front() if study.several else study.contenders()[:_SHOWN]
    front = f"; {len(shown)} Pareto-optimal" if study.several else ""
    title = f"{study.name} on {config.data.label}: {counted(study)}{front}"
    rows = []
    for trial in shown:
        values = [in_digits(first_score(goal, trial)) for goal in study.goals]
        rows.append((str(trial.number), *values, proposed(trial.user_attrs["proposed"])))
    print_table(title, ["trial", *(goal.metric for goal in study.goals), "proposed"], rows, width=160)
    for reason, count in study.failures().items():
        _say("", f"{_refused(count)}, drawn again" if reason == "infeasible" else f"{count} failed: {reason}")
    if again := retry(study):
        _say("", again)
    if duplicates := study.duplicates():
        ended = sum(count for state, count in study.counts().items() if state != "infeasible")
        _say("", f"trials equal to an earlier one: {duplicates} ({100 * duplicates / ended:.0f}%)")
    best = study.trials()[winner["trial"]] if winner else shown[0]
    kind = "winner" if winner else "first of the front" if study.several else "best trial"
    title = f"The {kind}'s hyperparameters: trial {best.number}, {record.score(study, best)}"
    hyperparameters = record.portable(best, command.config_dir).shell()
    log.info("the hyperparameters of trial %d, to train them on any machine:\n    %s", best.number, hyperparameters)
    try:
        overlay = CommandLine.of(["experiment=winner"], record.export(best, folder, command.config_dir, title)).shell()
        log.info("the same as an overlay:\n    %s", overlay)
    except OSError as error:  # the sweep is done, whatever became of its folder
        log.warning("the %s could not be left as an overlay (%s)", kind, error)
    which, again = f"trial {best.number}", str(best.user_attrs["result"]["command"])
    if winner and "network" in winner:
        kind, again = "registered" if winner["model"] else "best", record.exact(winner)
        which = f"the {kind} network, {winner['network']['run']},"
    log.info("%s exactly, on the same kind of machine:\n    %s", which, again)
    if isinstance(config.tracking, options.MLflow):
        uri = config.tracking.uri
        serve = f"mlflow ui --backend-store-uri {shlex.quote(uri)}   then http://127.0.0.1:5000"
        _say("compare the runs", f"{uri.rstrip('/') if is_server(uri) else serve}{page}")


def retry(study: Study) -> str:
    """How to try again what failed; empty where nothing of it may do better another time."""
    count = len(study.retryable())
    return f"sweep.retry_failed=true tries {count} failed again, once the reason is mended" if count else ""


def print_table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], width: int = 160, *, stderr: bool = True
) -> None:
    """Print a table to standard error or output, so many characters wide where that is no terminal."""
    folded = [Column(name, overflow="fold") for name in columns]
    table = Table(*folded, box=box.SIMPLE, title=title, title_justify="left")
    for row in rows:
        table.add_row(*row)
    terminal = (sys.stderr if stderr else sys.stdout).isatty()
    Console(stderr=stderr, width=None if terminal else width).print(table)


def _say(what: str, text: str) -> None:
    log.info("%-18s %s", what, text)


def in_words(winner: dict[str, Any], dataset: str) -> list[str]:
    """What was found, in lines: improvement over the baseline, test set, validation, differences, selection bias.

    `winner` is that of ``sweep.json``.
    """
    whose = "the winner's and the config's" if winner.get("noise_networks", 1) > 1 else "the winner's own"
    noise = f"; noise between seeds {winner['noise']:.4f} ({whose})" if winner["noise"] is not None else ""
    metric, gain, count = winner["metric"], winner["gain"], len(winner["seeds"])
    seeds = f"{count} new seed{'s' * (count != 1)}"
    lines = [f"trial {winner['trial']}; your config could not be trained again to compare it with"]
    if gain and gain["trial"] == winner["trial"]:
        lines = [f"the search found nothing better than your config (trial {winner['trial']})"]
    elif gain:
        how = "better than your config by" if gain["mean"] > 0 else "no better than your config with new seeds:"
        lines = [f"trial {winner['trial']}, {how} {metric} {interval(gain, '+')}"]
    lines += [
        f"test/accuracy {interval(winner['test_accuracy'])} ({dataset}; {seeds})",
        f"{metric} {interval(winner['validation'])}{noise}",
    ]
    if changed := winner["differences"]:
        words = [f"{each['key']}={in_short(each['value'])} ({in_short(each['baseline'])})" for each in changed]
        lines.append(f"what is different: {'  '.join(words)}")
    for entry in winner.get("ablation", []):
        how = f"worse by {interval(entry['worse_by'], '+')}" if entry["worse_by"] else "cannot be trained"
        lines.append(f"with {override(entry['key'], entry['baseline'])}: {how}")
    mean = winner["validation"]["mean"]
    first = next(each["first"] for each in winner["candidates"] if each["trial"] == winner["trial"])
    lines.append(f"selection bias: first score {in_digits(first)}, mean over {seeds} {in_digits(mean)}")
    if (openings := winner["test_openings"]) > 1:
        lines.append(f"the test set has been opened {openings} times for this study")
    return lines


def in_short(value: Any) -> str:
    """A value as in an override; a number that is not whole has three significant digits."""
    return "–" if value is None else f"{value:.3g}" if isinstance(value, float) else text(value)


def interval(spread: dict[str, Any], sign: str = "") -> str:
    """A mean over seeds with its 95% interval, where there is one; positive numbers get a plus if `sign` is ``+``."""
    mean = f"{spread['mean']:{sign}.4f}"
    if spread["low"] is None:
        return mean
    if len({f"{each:.4f}" for each in spread["each"]}) == 1:  # by chance: an interval of no width would be too sure
        return f"{mean} (equal for all {len(spread['each'])} seeds)"
    return f"{mean} (95% interval {spread['low']:{sign}.4f} … {spread['high']:{sign}.4f})"


def counted(study: Study) -> str:
    """The trials by state: ``12 complete, 8 pruned``; what arithmetic refused is told apart, as it was not trained."""
    counts = study.counts()
    refused = counts.pop("infeasible", 0)
    told = [f"{count} {'failed' if state == 'fail' else state}" for state, count in counts.items() if count]
    return ", ".join([*told, *([_refused(refused)] if refused else [])])


def _refused(count: int) -> str:
    """Of proposals that arithmetic refused: a network that cannot exist, or one that is too large."""
    return f"{count} proposal{'s' * (count != 1)} broke a constraint"


def in_digits(value: float) -> str:
    """A value as people read it: a count, or four digits behind the point."""
    count = abs(value) > 1000 or (abs(value) > 1 and value == round(value))
    return f"{value:,.0f}" if count else f"{value:.4f}"


def proposed(overrides: list[str]) -> str:
    """What was drawn for a trial, in one line; numbers have three significant digits."""
    return "  ".join(_FLOAT.sub(lambda found: f"{float(found[0]):.3g}", override) for override in overrides)
