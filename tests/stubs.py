"""A trial without training, and a sweep of such trials: what the search itself is tested with."""

import functools
import hashlib
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser

from mnist_sweep.config import schema
from mnist_sweep.config.command import compose
from mnist_sweep.result import Result
from mnist_sweep.sweep.candidates import Proposal, Proposals
from mnist_sweep.sweep.driver import Driver, opened
from mnist_sweep.sweep.workers import Task
from mnist_sweep.sweep.workers.inline import Inline
from mnist_sweep.sweep.workers.pool import Crew

STUB = "tests.stubs:trial"
#: What has been performed, in order: the overrides of each task.
performed: list[list[str]] = []
#: What a test makes of a result before it is returned.
twist: list[Callable[[Task, Result], Result]] = []


def trial(task: Task, report: Callable[[int, dict[str, float]], bool]) -> dict[str, Any]:
    """Compose the task's overrides, as a real run does, and make numbers up: best near a learning rate of 0.003."""
    config = composed(task.overrides)
    performed.append(task.overrides)
    drawn = sorted(item for item in task.overrides if not item.startswith(_COMMON))
    noise = int(hashlib.sha256(repr(drawn).encode()).hexdigest()[:8], 16) / 16**8
    score = 0.98 - 0.02 * abs(math.log10(config.optimizer.lr / 0.003)) - 0.005 * noise
    history: list[dict[str, float]] = []
    for epoch in range(1, config.trainer.max_epochs + 1):
        value = score * (1 - 0.3 / epoch)
        history.append({"val/accuracy": value, "val/loss": 1 - value, "gap/accuracy": noise / 10})
        if not report(epoch, history[-1]):
            break
    layers = config.model.layers()
    folder = Path(config.output) / "runs" / str(config.name)
    result = Result(
        status="pruned" if len(history) < config.trainer.max_epochs else "finished", reason=None, detail=None,
        objective=history[-1][config.objective], metrics=history[-1], best_epoch=len(history), epochs=len(history),
        seconds=1.0 + noise, train_seconds=1.0, parameters=sum(layer.parameters for layer in layers),
        dataset=config.data.name, seed=config.seed, device="cpu", threads=1, precision="32", mlflow_run_id=None,
        overrides=task.overrides, command="", folder=str(folder), checkpoint=None, history=history,
        multiply_adds=sum(layer.multiply_adds for layer in layers),
    )  # fmt: skip
    for change in twist:
        result = change(task, result)
    folder.mkdir(parents=True, exist_ok=True)
    result.write()
    return asdict(result)


#: Beside these everything in a task's overrides was drawn.
_COMMON = (
    "data=",
    "data.root",
    "data.limit",
    "output=",
    "tracking=",
    "trainer.threads",
    "objective=",
    "seed=",
    "name=",
)


def composed(overrides: list[str]) -> schema.Config:
    """The config, each fiftieth one by Hydra alone: its 50 ms are what all these trials would consist of."""
    config = _quick(tuple(item for item in overrides if item.startswith(_COMMON[:-1]))).config(
        {
            parsed.key_or_group: parsed.value()
            for parsed in OverridesParser.create().parse_overrides(
                [item for item in overrides if not item.startswith(_COMMON)]
            )
        }
    )
    name = next(item.removeprefix("name=") for item in overrides if item.startswith("name="))
    config = config.model_copy(update={"name": name})
    assert len(performed) % 50 or config == compose(overrides)
    return config


@functools.cache
def _quick(common: tuple[str, ...]) -> Proposals:
    return Proposals(list(common), None, {})


def a_proposal() -> Proposal:
    """One that could be made."""
    return _quick(("data=mnist5k",)).make({"model.filters": [8, 16], "optimizer.lr": 0.01, "trainer.max_epochs": 9})


def search(folder: Path, *items: str) -> Driver:
    """A sweep of stub trials, without a winner; the driver, to look at its study."""
    space = ["sweep/space=empty"] if any(item.startswith("++sweep.space=") for item in items) else []
    given = ["+sweep=optuna", *space, "data=mnist5k", "tracking=none", f"output={folder}", *items]
    with opened(compose(given), given) as driver, Crew(lambda: Inline(STUB)) as crew:
        driver.begin(crew)
        driver.search(crew)
    return driver
