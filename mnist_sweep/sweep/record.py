"""What a sweep leaves to read: ``sweep.json`` (its keys are in docs/files.md), and the winner as an experiment."""

import math
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from optuna.trial import FrozenTrial, TrialState

from mnist_sweep import hardware, tracking
from mnist_sweep.config.command import CommandLine
from mnist_sweep.config.overrides import flattened
from mnist_sweep.result import write_json
from mnist_sweep.sweep.promotion import paused
from mnist_sweep.sweep.samplers_view import measured, reason
from mnist_sweep.sweep.study import Study, first_score

#: Study attribute: when the first session began (ISO 8601, UTC).
BEGAN = "began"
#: Digits behind the point of what is computed of scores: the mean of a few shares of some thousand images.
_DIGITS = 6
#: Keys below which numbers are somebody's own, and stay as they are.
_EXACT = {"value", "values", "baseline", "params"}
#: What belongs to a machine, rather than to a network and its training.
_MACHINE = {
    "trainer": ("threads", "precision", "accelerator", "cuda_graphs"), "data": ("root", "fallback"),
}  # fmt: skip
_STATES = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}


def now() -> str:
    """The time, ISO 8601, UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def content(command: CommandLine, study: Study, winner: Mapping[str, Any] | None, folder: Path) -> dict[str, Any]:
    """What ``sweep.json`` says of the study, in the sweep's folder, so far."""
    config, counts = command.config, study.counts()
    infeasible = counts.pop("infeasible", 0)
    duplicates, ended = study.duplicates(), sum(counts.values())
    best = None if study.several else study.best()
    if winner:
        trial = study.trials()[winner["trial"]]
        commands = {"portable": portable(trial, command.config_dir).shell(), "exact": exact(winner)}
        winner = {**_rounded(winner), "commands": commands}
    return {
        "schema_version": 1,
        "study": folder.name,
        "direction": study.goals[0].direction,
        "objective": study.goals[0].metric,
        "objectives": [goal.model_dump() for goal in study.goals],
        "command": command.shell(),
        "started_at": study.recall(BEGAN),
        "working_folder": str(Path.cwd()),
        "trials": counts,
        "infeasible": infeasible,
        "duplicates": {"trials": duplicates, "share": round(duplicates / ended, _DIGITS) if ended else 0.0},
        "failures": study.failures(),
        "epochs": study.epochs(),
        "best": _member(study, best) if best else None,
        **({"front": [_member(study, trial) for trial in study.front()]} if study.several else {}),
        "winner": winner,
        "dataset": config.data.label,
        "search": searched(command, study),
        "machine": hardware.machine(),
        "versions": tracking.versions(),
        "trial_list": [_listed(study, trial, folder) for trial in study.trials()],
    }


def write(folder: Path, content: Mapping[str, Any]) -> Path:
    """Write ``sweep.json`` into the sweep's folder and return its path."""
    return write_json(folder / "sweep.json", content)


def searched(command: CommandLine, study: Study) -> dict[str, Any]:
    """How it was searched: the space and what was set by hand, by dotted name; sampler, pruner and limits."""
    settings, values = command.config.sweep, command.config.parameters()
    assert settings is not None
    limits = ("trials", "budget_epochs", "budget_minutes", "target", "constraints", "enqueue", "warm_start")
    return {
        "space": {key: f"{drawn}; when {when}" if when else drawn for key, drawn, when in study.space.describe()},
        "fixed": {key: values.get(key) for key in study.space.fixed},
        "seed": command.config.seed,
        **settings.model_dump(mode="json", include={"sampler", "pruner", *limits}),
    }


def sortable(content: Mapping[str, Any]) -> dict[str, float]:
    """What MLflow is to sort and filter sweeps by, from ``sweep.json``: scores with intervals, counts, costs."""
    found = {f"trials/{state}": count for state, count in content["trials"].items()}
    found |= {"trials/infeasible": content["infeasible"], "trials/duplicates": content["duplicates"]["trials"]}
    found |= {key: content[key] for key in ("epochs", "seconds")}
    if best := content["best"]:
        found[f"best/{content['objective']}"] = best["value"]
    if winner := content["winner"]:
        spreads = {f"winner/{winner['metric']}": winner["validation"], "winner/test/accuracy": winner["test_accuracy"]}
        for name, spread in (spreads | {"improvement": winner["gain"] or {}}).items():
            ends = {name: spread.get("mean"), f"{name}_low": spread.get("low"), f"{name}_high": spread.get("high")}
            found |= {key: value for key, value in ends.items() if value is not None}
    return found


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


def state_of(trial: FrozenTrial) -> str:
    """A trial's state in one word, the same as in MLflow's tag ``state`` where it has a run of its own."""
    if (why := reason(trial)) in ("infeasible", "foreign"):
        return str(why)
    if trial.state == TrialState.WAITING:
        return "paused" if paused(trial) else "stopped" if "digest" in trial.user_attrs else "queued"
    return _STATES.get(trial.state, "running")


def _listed(study: Study, trial: FrozenTrial, folder: Path) -> dict[str, Any]:
    """A trial as an entry of ``trial_list``; its values are the best epoch's, also of one that was pruned."""
    known, result = trial.user_attrs, trial.user_attrs.get("result", {})
    found = {goal.metric: measured(goal.metric, result) if result else None for goal in study.goals}
    values = {name: value if value is not None and math.isfinite(value) else None for name, value in found.items()}
    return {
        "number": trial.number,
        "state": state_of(trial),
        "reason": reason(trial),
        "detail": known.get("detail"),
        "value": values[study.goals[0].metric],
        "values": values,
        "params": known.get("values", trial.params),
        "epochs": result.get("epochs", len(trial.intermediate_values)),
        "seconds": result.get("seconds"),
        "parameters": result.get("parameters"),
        "folder": str(folder.parent / Path(result["folder"]).name) if result else None,
        "mlflow_run_id": result.get("mlflow_run_id"),
        "duplicate_of": known.get("duplicate_of"),
    }


def _rounded(value: Any) -> Any:
    """Plain data with numbers rounded to what they mean, but for those that are somebody's own."""
    if isinstance(value, Mapping):
        return {key: item if key in _EXACT else _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return round(value, _DIGITS) if isinstance(value, float) else value


def exact(winner: Mapping[str, Any]) -> str:
    """The command that trains the winner's registered network again; of an earlier version's study, its trial's."""
    return str(winner.get("network", winner)["command"])


def portable(trial: FrozenTrial, config_dir: Path | None) -> CommandLine:
    """A trial's hyperparameters as a command for any machine, without the further folder of configs it may have had."""
    chosen, stated = _differences_of(trial, config_dir)
    leaves = {key: value for key, value in flattened(stated).items() if not isinstance(value, Mapping)}
    return CommandLine().with_(chosen).with_(leaves)


def export(trial: FrozenTrial, folder: Path, config_dir: Path | None, title: str) -> Path:
    """Write a trial's hyperparameters as an experiment, and return the folder to name with ``--config-dir``.

    ``--config-dir FOLDER/conf experiment=winner`` then composes them without the further folder of configs that the
    trial was composed with. The file states only what is not the default; ``best`` is another name of it.
    """
    chosen, stated = _differences_of(trial, config_dir)
    groups = [{f"override /{group}": option} for group, option in chosen.items()]
    content = yaml.safe_dump({"defaults": [*groups, "_self_"], **stated}, sort_keys=False, allow_unicode=True)
    place = folder / "conf" / "experiment"
    place.mkdir(parents=True, exist_ok=True)
    for name, note in (("winner", ""), ("best", "# The same as experiment=winner, by the name of earlier versions\n")):
        (place / f"{name}.yaml").write_text(f"# @package _global_\n# {title}\n{note}{content}", encoding="utf-8")
    return folder / "conf"


def _differences_of(trial: FrozenTrial, config_dir: Path | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """A trial's options of groups, and its values as a tree, as far as they are not the default: what is trained.

    Not where runs are kept, and nothing of the machine.
    """
    command = CommandLine.of(trial.user_attrs["result"]["overrides"], config_dir)
    config = command.without("name", "tracking", "output").config.plain()
    config["data"].pop("contents", None)  # which the files say themselves
    for group, keys in _MACHINE.items():
        config[group] = {key: value for key, value in config[group].items() if key not in keys}
    names = {key: part["name"] for key, part in config.items() if isinstance(part, dict) and "name" in part}
    defaults = CommandLine().config.parameters()
    chosen = {group: option for group, option in names.items() if option != defaults.get(group, option)}
    # as Hydra composes it: a group's option may ask for values that only this trial has
    base: Any = OmegaConf.to_container(CommandLine().with_(chosen).composed, resolve=True)
    return chosen, dict(_differing(config, base))


def _differing(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and isinstance(defaults.get(key), Mapping):
            if found := dict(_differing(value, defaults[key])):
                yield key, found
        elif key not in defaults or value != defaults[key]:
            yield key, value


def score(study: Study, trial: FrozenTrial) -> str:
    """A trial's first score in words."""
    return f"{study.goals[0].metric} {first_score(study.goals[0], trial):.6g}"
