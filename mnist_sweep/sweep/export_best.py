"""The best trial as an experiment of its own: one file that states what differs from the defaults."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from optuna.trial import FrozenTrial

from mnist_sweep.config.command import CommandLine


def export_best(best: FrozenTrial, metric: str, folder: Path, config_dir: Path | None) -> Path:
    """Write the best trial as an experiment, and return the folder to name with ``--config-dir``.

    ``--config-dir FOLDER/conf experiment=best`` then composes it without the further folder of configs that the trial
    was composed with. The file says what to train, not where runs are kept.
    """
    trained = CommandLine.of(best.user_attrs["result"]["overrides"], config_dir).without("name", "tracking", "output")
    config = trained.config.plain()
    names = {key: part["name"] for key, part in config.items() if isinstance(part, dict) and "name" in part}
    defaults = CommandLine().config.plain()
    chosen = {group: option for group, option in names.items() if option != defaults[group]["name"]}
    stated = _differences(config, CommandLine().with_(chosen).config.plain())
    options = [{f"override /{group}": option} for group, option in chosen.items()]
    content = yaml.safe_dump({"defaults": [*options, "_self_"], **stated}, sort_keys=False, allow_unicode=True)
    file = folder / "conf" / "experiment" / "best.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    title = f"# The best trial of its sweep: trial {best.number}, {metric} {best.values[0]}"
    file.write_text(f"# @package _global_\n{title}\n{content}", encoding="utf-8")
    return folder / "conf"


def _differences(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """What of nested values is not the same in the defaults."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and isinstance(defaults.get(key), Mapping):
            value = _differences(value, defaults[key])
        elif key in defaults and value == defaults[key]:
            continue
        if value != {}:
            found[key] = value
    return found
