"""The best trial as an experiment: a folder of configs that states only what it changes."""

import shutil
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.trial import FrozenTrial

from mnist_sweep.composition import CONF


def overlay(best: FrozenTrial, metric: str, folder: Path, config_dir: str | None) -> Path:
    """Write the best trial as an experiment: what ``--config-dir FOLDER/conf experiment=best`` composes.

    Args:
        best: the trial.
        metric: the name of its first value.
        folder: of the sweep.
        config_dir: the further folder of configs that the trial was composed with; it is copied.

    Returns:
        The folder to name with ``--config-dir``.
    """
    defaults: list[Any] = []
    tree: dict[str, Any] = {}
    for item in OverridesParser.create().parse_overrides(best.user_attrs["result"]["overrides"]):
        key, value = item.key_or_group, item.value()
        if key == "experiment":
            defaults.insert(0, value)
        elif (CONF / key).is_dir():
            defaults.append({f"override /{key}": value})
        else:
            node = tree
            *above, last = key.split(".")
            for part in above:
                node = node.setdefault(part, {})
            node[last] = value
    if config_dir:
        shutil.copytree(config_dir, folder / "conf", dirs_exist_ok=True)
    file = folder / "conf" / "experiment" / "best.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    content = yaml.safe_dump({"defaults": [*defaults, "_self_"], **tree}, sort_keys=False, allow_unicode=True)
    title = f"# The best trial of its sweep: trial {best.number}, {metric} {best.values[0]}"
    file.write_text(f"# @package _global_\n{title}\n{content}", encoding="utf-8")
    return folder / "conf"
