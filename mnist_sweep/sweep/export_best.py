"""The best trial as an experiment of its own: one file that states what differs from the defaults."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from optuna.trial import FrozenTrial

from mnist_sweep.config.command import CommandLine


def export_best(best: FrozenTrial, metric: str, folder: Path, config_dir: Path | None) -> Path:
    """Write the best trial as an experiment, which ``--config-dir FOLDER/conf experiment=best`` composes.

    It needs no config but those of this package, whatever the further folder was that the trial was composed with: it
    chooses the options of groups by their names, and states each value that differs from theirs. It says what to train,
    not where runs are kept.

    Returns:
        The folder to name with ``--config-dir``.
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
            found[key] = _differences(value, defaults[key])
        elif key not in defaults or value != defaults[key]:
            found[key] = value
    return {key: value for key, value in found.items() if value != {}}
