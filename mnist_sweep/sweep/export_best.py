"""The best trial as an experiment: a folder of configs that states only what it changes."""

import shutil
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from optuna.trial import FrozenTrial

from mnist_sweep.config.command import CONF


def overlay(best: FrozenTrial, metric: str, folder: Path, config_dir: str | None) -> Path:
    """Write the best trial as an experiment: what ``--config-dir FOLDER/conf experiment=best`` composes.

    Args:
        best: the trial.
        metric: the name of its first value.
        folder: of the sweep.
        config_dir: the further folder of configs that the trial was composed with; its files are copied.

    Returns:
        The folder to name with ``--config-dir``.
    """
    defaults: list[Any] = []
    tree = OmegaConf.create()
    for item in OverridesParser.create().parse_overrides(best.user_attrs["result"]["overrides"]):
        key, value = item.key_or_group, item.value()
        if key == "experiment":
            defaults[:0] = value if isinstance(value, list) else [value]
        elif (CONF / key).is_dir() and not isinstance(value, dict):
            defaults.append({f"override /{key}": value})
        else:
            OmegaConf.update(tree, key, value, merge=True, force_add=True)
    file = folder / "conf" / "experiment" / "best.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    if config_dir:
        earlier = _copied(Path(config_dir).resolve(), (folder / "conf").resolve(), folder.parents[1].resolve())
        defaults = [earlier if chosen == file.stem else chosen for chosen in defaults]
    stated: Any = OmegaConf.to_container(tree)
    content = yaml.safe_dump({"defaults": [*defaults, "_self_"], **stated}, sort_keys=False, allow_unicode=True)
    title = f"# The best trial of its sweep: trial {best.number}, {metric} {best.values[0]}"
    file.write_text(f"# @package _global_\n{title}\n{content}", encoding="utf-8")
    return folder / "conf"


def _copied(source: Path, target: Path, output: Path) -> str:
    """Copy the files of a folder of configs, except what sweeps leave and for hidden ones.

    Returns:
        The name that its own ``experiment=best``, of an earlier sweep, has in the copy.
    """
    files = [path.relative_to(source) for path in sorted(source.rglob("*.yaml"))]
    number = 1
    while Path(f"experiment/best-{number}.yaml") in files:
        number += 1
    renamed = f"best-{number}"
    for file in files:
        left = (source / file).is_relative_to(output) and not source.is_relative_to(output)
        if left or any(part.startswith(".") for part in file.parts):
            continue
        to = target / (f"experiment/{renamed}.yaml" if file == Path("experiment/best.yaml") else file)
        if to != source / file:
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / file, to)
    return renamed
