"""The end of a sweep: ``sweep.json``, the best trial as an experiment of its own, and what is printed."""

import logging
import re
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from optuna.trial import FrozenTrial
from rich import box
from rich.console import Console
from rich.table import Column, Table

from mnist_sweep.config import options, schema
from mnist_sweep.config.command import CommandLine
from mnist_sweep.config.overrides import override, text
from mnist_sweep.result import write_json
from mnist_sweep.sweep.study import Study, first_score
from mnist_sweep.tracking import is_server

log = logging.getLogger(__name__)

_SHOWN = 5
#: The value of an override that is a number with a point or an exponent.
_FLOAT = re.compile(r"(?<==)-?\d+(\.\d+(e[+-]\d+)?|e[+-]\d+)$")


def write(
    config: schema.Config, study: Study, winner: dict[str, Any] | None, folder: Path, seconds: float, run_id: str | None
) -> Path:
    """Write ``sweep.json`` into the sweep's folder and return its path; `seconds` are those of all sessions."""
    counts = study.counts()
    infeasible = counts.pop("infeasible", 0)
    duplicates, ended = study.duplicates(), sum(counts.values())
    best = None if study.several else study.best()
    content = {
        "study": folder.name,
        "direction": study.goals[0].direction,
        "objective": study.goals[0].metric,
        "objectives": [goal.model_dump() for goal in study.goals],
        "trials": counts,
        "infeasible": infeasible,
        "duplicates": {"trials": duplicates, "share": duplicates / ended if ended else 0.0},
        "failures": study.failures(),
        "epochs": study.epochs(),
        "best": _member(study, best) if best else None,
        **({"front": [_member(study, trial) for trial in study.front()]} if study.several else {}),
        "winner": winner,
        "seconds": round(seconds, 3),
        "dataset": config.data.label,
        "mlflow_run_id": run_id,
    }
    return write_json(folder / "sweep.json", content)


def _member(study: Study, trial: FrozenTrial) -> dict[str, Any]:
    result = trial.user_attrs["result"]
    return {
        "trial": trial.number,
        "value": trial.values[0],
        "values": {goal.metric: value for goal, value in zip(study.goals, trial.values, strict=True)},
        "params": trial.params,
        "command": result["command"],
        "mlflow_run_id": result["mlflow_run_id"],
    }


def show(command: CommandLine, study: Study, winner: dict[str, Any] | None, folder: Path) -> None:
    """Print the end of a sweep: what was found, the best five or the front, the commands, the way to MLflow.

    The study has a trial that can win. The best one is left in the sweep's folder as ``experiment=best``.
    """
    config = command.config
    for index, line in enumerate(in_words(winner, config.data.label) if winner else []):
        _say("" if index else "found", line)
    shown = study.front() if study.several else study.contenders()[:_SHOWN]
    front = f"; the front of {len(shown)}" if study.several else ""
    title = f"{study.name} on {config.data.label}: {counted(study)}{front}"
    rows = []
    for trial in shown:
        values = [in_digits(first_score(goal, trial)) for goal in study.goals]
        rows.append((str(trial.number), *values, proposed(trial.user_attrs["proposed"])))
    print_table(title, ["trial", *(goal.metric for goal in study.goals), "proposed"], rows, width=160)
    for reason, count in study.failures().items():
        _say("", f"{count} {'impossible proposals, drawn again' if reason == 'infeasible' else f'failed: {reason}'}")
    if duplicates := study.duplicates():
        ended = sum(count for state, count in study.counts().items() if state != "infeasible")
        _say("", f"{duplicates} trials ({100 * duplicates / ended:.0f}%) equal earlier ones")
    best = study.trials()[winner["trial"]] if winner else shown[0]
    kind = "winner" if winner else "first one" if study.several else "best trial"
    _say(f"{kind} again", best.user_attrs["result"]["command"])
    try:
        goal = study.goals[0]
        path = export_best(best, f"{goal.metric} {first_score(goal, best)}", folder, command.config_dir)
        _say("or as an overlay", CommandLine.of(["experiment=best"], path).shell())
    except OSError as error:  # the sweep is done, whatever became of its folder
        log.warning("the best trial could not be left as an overlay (%s)", error)
    if isinstance(config.tracking, options.MLflow):
        uri = config.tracking.uri
        _say("compare the runs", uri if is_server(uri) else f"mlflow ui --backend-store-uri {shlex.quote(uri)}")


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], width: int) -> None:
    """Print a table to standard error, so many characters wide where that is no terminal."""
    folded = [Column(name, overflow="fold") for name in columns]
    table = Table(*folded, box=box.SIMPLE, title=title, title_justify="left")
    for row in rows:
        table.add_row(*row)
    Console(stderr=True, width=None if sys.stderr.isatty() else width).print(table)


def _say(what: str, text: str) -> None:
    log.info("%-18s %s", what, text)


def export_best(best: FrozenTrial, score: str, folder: Path, config_dir: Path | None) -> Path:
    """Write the best trial as an experiment, and return the folder to name with ``--config-dir``.

    ``--config-dir FOLDER/conf experiment=best`` then composes it without the further folder of configs that the trial
    was composed with. The file says what to train, not where runs are kept, and states only what is not the default.
    """
    trained = CommandLine.of(best.user_attrs["result"]["overrides"], config_dir).without("name", "tracking", "output")
    config = trained.config.plain()
    config["data"].pop("contents", None)  # which the files say themselves
    names = {key: part["name"] for key, part in config.items() if isinstance(part, dict) and "name" in part}
    defaults = CommandLine().config.parameters()
    chosen = {group: option for group, option in names.items() if option != defaults.get(group, names[group])}
    # as Hydra composes it: a group's option may ask for values that only this run has
    base: Any = OmegaConf.to_container(CommandLine().with_(chosen).composed, resolve=True)
    stated = _differences(config, base)
    groups = [{f"override /{group}": option} for group, option in chosen.items()]
    content = yaml.safe_dump({"defaults": [*groups, "_self_"], **stated}, sort_keys=False, allow_unicode=True)
    file = folder / "conf" / "experiment" / "best.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    title = f"# The best trial of its sweep: trial {best.number}, {score}"
    file.write_text(f"# @package _global_\n{title}\n{content}", encoding="utf-8")
    return folder / "conf"


def _differences(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and isinstance(defaults.get(key), Mapping):
            found[key] = _differences(value, defaults[key])
        elif key not in defaults or value != defaults[key]:
            found[key] = value
    return {key: value for key, value in found.items() if value != {}}


def in_words(winner: dict[str, Any], dataset: str) -> list[str]:
    """What was found, in lines: improvement over the baseline, test set, validation, differences, selection bias."""
    noise = f"; noise between seeds {winner['noise']:.4f}" if winner["noise"] is not None else ""
    metric, fresh, gain = winner["metric"], len(winner["seeds"]), winner["gain"]
    lines = [f"trial {winner['trial']}; your config could not be trained again to compare it with"]
    if gain and gain["trial"] == winner["trial"]:
        lines = [f"nothing better than your config, which is trial {winner['trial']}"]
    elif gain:
        how = "better than your config by" if gain["mean"] > 0 else "no better than your config with fresh seeds:"
        lines = [f"trial {winner['trial']}, {how} {metric} {interval(gain, '+')}"]
    lines += [
        f"test/accuracy {interval(winner['test_accuracy'])} ({dataset}; {fresh} fresh seed{'s' * (fresh != 1)})",
        f"{metric} {interval(winner['validation'])}{noise}",
    ]
    if changed := winner["differences"]:
        words = [f"{each['key']}={in_short(each['value'])} ({in_short(each['baseline'])})" for each in changed]
        lines.append(f"what is different: {'  '.join(words)}")
    for entry in winner.get("ablation", []):
        how = f"worse by {interval(entry['worse_by'], '+')}" if entry["worse_by"] else "cannot be trained"
        lines.append(f"with {override(entry['key'], entry['baseline'])}: {how}")
    candidates = len(winner["candidates"])
    lines.append(f"first scores of {candidates} were optimistic by {winner['luck']:+.4f} in the mean (selection bias)")
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
    """The trials by state: ``12 complete, 8 pruned``."""
    return ", ".join(f"{count} {state}" for state, count in study.counts().items() if count)


def in_digits(value: float) -> str:
    """A value as people read it: a count, or four digits behind the point."""
    count = abs(value) > 1000 or (abs(value) > 1 and value == round(value))
    return f"{value:,.0f}" if count else f"{value:.4f}"


def proposed(overrides: list[str]) -> str:
    """What was drawn for a trial, in one line; numbers have three significant digits."""
    return "  ".join(_FLOAT.sub(lambda found: f"{float(found[0]):.3g}", override) for override in overrides)
