"""The best trial, trained again with new seeds and measured on the test set: once."""

import logging
import math
import shutil
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.trial import FrozenTrial

from mnist_sweep import schema
from mnist_sweep.composition import CONF, compose
from mnist_sweep.errors import RunFailure
from mnist_sweep.overrides import override, replaced
from mnist_sweep.result import Result
from mnist_sweep.run import run

log = logging.getLogger(__name__)


def crown(config: schema.Config, config_dir: str | None, study: optuna.Study, best: FrozenTrial) -> dict[str, Any]:
    """Train the best trial again with new seeds, each measured on the test set; or recall that this has been done.

    Args:
        config: of the sweep.
        config_dir: the further folder of configs.
        study: where the outcome is remembered.
        best: the best trial.

    Returns:
        The ``winner`` of ``sweep.json``.

    Raises:
        RunFailure: a run failed that had succeeded as a trial.
        Interrupted: the runs that ended are taken up next time.
    """
    assert config.sweep is not None
    seeds = [config.seed + 1 + index for index in range(config.sweep.winner.seeds)]
    known: dict[str, Any] | None = study.user_attrs.get("winner")
    if known and known["trial"] == best.number and known["seeds"] == seeds:
        return known
    log.info("training trial %d again with %d new seeds, for the test set", best.number, len(seeds))
    results = [_again(config, config_dir, best, seed) for seed in seeds]
    accuracies = [result.metrics["test/accuracy"] for result in results]
    mean, low, high = interval(accuracies)
    crowned = {
        "trial": best.number,
        "command": best.user_attrs["command"],
        "seeds": seeds,
        "validation_accuracy": statistics.fmean(result.metrics["val/accuracy"] for result in results),
        "test_accuracy": {"mean": mean, "low": low, "high": high, "each": accuracies},
        "mlflow_run_ids": [result.mlflow_run_id for result in results],
        "checkpoints": [str(Path(result.folder) / str(result.checkpoint)) for result in results],
        "model": None,
    }
    study.set_user_attr("winner", crowned)
    return crowned


def _again(config: schema.Config, config_dir: str | None, best: FrozenTrial, seed: int) -> Result:
    """One run of the best trial's command with another seed; one that has ended is not run, and tested, twice."""
    assert config.sweep is not None
    attempt = 1
    while True:
        name = f"{config.sweep.name}-{best.number:04d}-seed{seed}" + (f"-{attempt}" if attempt > 1 else "")
        folder = Path(config.output) / "runs" / name
        if not folder.exists():
            break
        if (folder / "result.json").is_file() and (earlier := Result.read(folder)).status == "finished":
            return earlier
        attempt += 1
    items = replaced(best.user_attrs["overrides"], [override("seed", seed), override("name", name)])
    result = run(
        compose(items, config_dir),
        items,
        config_dir=config_dir,
        parent=best.user_attrs["mlflow_run_id"],
        tags={"study": config.sweep.name, "winner": "true", "trial": best.number},
        open_test=True,
    )
    if result.status != "finished":
        raise RunFailure(str(result.reason), f"the winner, trial {best.number}, with seed {seed}: {result.detail}")
    log.info(
        "seed %d: val/accuracy %.4f, test/accuracy %.4f",
        seed,
        result.metrics["val/accuracy"],
        result.metrics["test/accuracy"],
    )
    return result


def interval(values: Sequence[float]) -> tuple[float, float | None, float | None]:
    """The mean of accuracies over seeds and its 95% interval by Student's t, within [0, 1]; none for one value."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, None, None
    from scipy.stats import t

    half = float(t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
    return mean, max(0.0, mean - half), min(1.0, mean + half)


def overlay(best: FrozenTrial, metric: str, folder: Path, config_dir: str | None) -> Path:
    """Write the best trial as an experiment: what ``--config-dir FOLDER/conf experiment=best`` composes.

    Args:
        best: the trial.
        metric: the name of its value.
        folder: of the sweep.
        config_dir: the further folder of configs that the trial was composed with; it is copied.

    Returns:
        The folder to name with ``--config-dir``.
    """
    defaults: list[Any] = []
    tree: dict[str, Any] = {}
    for item in OverridesParser.create().parse_overrides(best.user_attrs["overrides"]):
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
    title = f"# The best trial of its sweep: trial {best.number}, {metric} {best.value}"
    file.write_text(f"# @package _global_\n{title}\n{content}", encoding="utf-8")
    return folder / "conf"
