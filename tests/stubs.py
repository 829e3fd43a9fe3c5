"""A trial without training, and a sweep of such trials: what the search itself is tested with."""

import contextlib
import functools
import hashlib
import math
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

from mnist_sweep.config.command import CommandLine
from mnist_sweep.config.schema import Config
from mnist_sweep.errors import signals_as_flag
from mnist_sweep.result import Result, Status
from mnist_sweep.sweep.session import Session, opened
from mnist_sweep.sweep.workers import Decision, Task, Workers
from mnist_sweep.sweep.workers.messages import OnEpoch

#: What has been performed, in order: the overrides of each task.
performed: list[list[str]] = []
#: What a test makes of a result before it is returned.
twist: list[Callable[[Task, Result], Result]] = []


def trial(task: Task, on_epoch: OnEpoch, _: Callable[[], int | None]) -> Result:
    """Make numbers up for a task: they are best near a learning rate of 0.003. Its config is not composed."""
    values, overrides = task.command.assigned(), list(task.command.overrides)
    performed.append(overrides)
    base = _base(values["data"], tuple(item for item in overrides if item.startswith("trainer.max_epochs=")))
    drawn = sorted(item for item in overrides if not item.startswith(_COMMON))
    noise = int(hashlib.sha256(repr(drawn).encode()).hexdigest()[:8], 16) / 16**8
    score = 0.98 - 0.02 * abs(math.log10(values.get("optimizer.lr", 0.001) / 0.003)) - 0.005 * noise
    epochs, history = base.trainer.max_epochs, list[dict[str, float]]()
    decision: Decision = True
    for epoch in range(1, epochs + 1):
        value = score * (1 - 0.3 / epoch)
        history.append({"val/accuracy": value, "val/loss": 1 - value, "gap/accuracy": noise / 10})
        decision = on_epoch(epoch, history[-1])
        if decision is not True:
            break
    changed = {key.removeprefix("model."): value for key, value in values.items() if key.startswith("model.")}
    layers = base.model.model_copy(update=changed).layers(base.data.images)
    folder = Path(values["output"]) / "runs" / values["name"]
    status: Status = "interrupted" if decision == "pause" else "finished" if decision else "pruned"
    result = Result(
        status=status, reason=None, detail=None,
        objective=history[-1][values.get("objective", "val/accuracy")], metrics=history[-1],
        best_epoch=len(history), epochs=len(history), seconds=1.0 + noise, train_seconds=1.0,
        parameters=sum(layer.parameters for layer in layers), dataset="mnist5k", seed=0, device="cpu", threads=1,
        precision="32", mlflow_run_id=None, overrides=overrides, command=task.command.shell(), folder=str(folder),
        checkpoint=None, history=history, multiply_adds=sum(layer.multiply_adds for layer in layers),
    )  # fmt: skip
    for change in twist:
        result = change(task, result)
    folder.mkdir(parents=True, exist_ok=True)
    result.write()
    return result


#: Beside these everything in a task's overrides was drawn.
_COMMON = ("data=", "data.root", "data.limit", "output=", "tracking", "trainer.threads", "objective=", "seed=", "name=")


@functools.cache
def _base(data: str, items: tuple[str, ...]) -> Config:
    return CommandLine.of([f"data={data}", *items]).config


def workers() -> Workers:
    """One worker, that makes numbers up."""
    return Workers.inline(trial)


def interrupt() -> None:
    """Stop the sweep, as Ctrl-C does."""
    signal.raise_signal(signal.SIGINT)


def command(folder: Path, *items: str) -> CommandLine:
    """A sweep below a folder; a space among the items takes the place of the default one."""
    space = ["sweep/space=empty"] if any(item.startswith("++sweep.space=") for item in items) else []
    return CommandLine.of(["+sweep=optuna", *space, "data=mnist5k", "tracking=none", f"output={folder}", *items])


@contextlib.contextmanager
def begun(folder: Path, *items: str) -> Iterator[tuple[Session, Workers]]:
    """A session that has begun, with a worker."""
    with signals_as_flag(), opened(command(folder, *items)) as session, workers() as pool:
        session.begin(pool)
        yield session, pool


def search(folder: Path, *items: str) -> Session:
    """A sweep of stub trials, without a winner; the session, to look at its study."""
    with begun(folder, *items) as (session, pool):
        session.tune(pool)
    return session
