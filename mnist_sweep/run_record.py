"""A run's folder and its MLflow run, kept together: both begin, say the same and end together.

Without torch, so that a sweep's own process can record a run whose process died.
"""

import contextlib
import dataclasses
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mnist_sweep.config import schema
from mnist_sweep.config.command import CommandLine
from mnist_sweep.config.image_data import KnownSet
from mnist_sweep.config.image_sets import IMAGE_SETS
from mnist_sweep.config.metrics import best_epoch
from mnist_sweep.config.networks import Custom
from mnist_sweep.config.options import MLflow, Tracking
from mnist_sweep.config.paths import expanded
from mnist_sweep.errors import RequestError, RunFailure
from mnist_sweep.result import BEST, STATES, Result, Status, is_run_of
from mnist_sweep.run_folder import Progress, RunFolder
from mnist_sweep.tracking import MLflowRun, State, artifact, client_of, harmless, versions
from mnist_sweep.training import datasets

_STATES: dict[Status, State] = {"finished": "FINISHED", "pruned": "KILLED", "interrupted": "KILLED", "failed": "FAILED"}


def scores(epoch: Mapping[str, float]) -> dict[str, float]:
    """The metrics of an epoch without its learning rate, which is none."""
    return {name: value for name, value in epoch.items() if name != "lr"}


class RunRecord:
    """What one run leaves. Its config has the precision that ``auto`` came to; a device is ``cpu`` or a GPU's name."""

    def __init__(
        self, command: CommandLine, config: schema.Config, device: str, threads: int, folder: RunFolder | None = None
    ) -> None:
        self.config, self.device, self.threads = config, device, threads
        exact: dict[str, Any] = {
            "seed": config.seed,
            **({"data.fallback": None} if isinstance(config.data, KnownSet) else {}),
            "trainer.threads": threads,
            "trainer.precision": config.trainer.precision,
            "trainer.accelerator": "cpu" if device == "cpu" else "gpu",
        }
        place = "root"
        if not isinstance(config.data, KnownSet):
            place, exact["data.path"] = "cache", config.data.path
        if config.data.own or IMAGE_SETS[config.data.name].torchvision:  # a worker may have the images elsewhere
            said = command.assigned().get(f"data.{place}", getattr(config.data, place))
            exact[f"data.{place}"] = str(Path(expanded(str(said))).resolve())
        if config.trainer.init_from:
            exact["trainer.init_from"] = str(Path(config.trainer.init_from).resolve())
        if isinstance(config.model, Custom) and "model.target" in command.assigned():
            exact["model.target"] = config.model.target
        #: Repeats the run anywhere: all that bears on the numbers is written out.
        self.command = command.without("name").with_(exact)
        self.folder = folder or RunFolder.of(config)
        #: Nothing is tracked until `open`.
        self.mlflow = MLflowRun(None, Path(config.output), str(config.name))
        self.progress = Progress()  #: of all attempts
        self.test_opened_at: str | None = None
        self._started = time.monotonic()

    def begin(self, *, resume: bool = False) -> None:
        """Make the folder, or go on in that of an earlier attempt; see `RunFolder.begin` for what it raises."""
        self.folder.begin(self.config, self.command.written(), resume=resume)
        self.progress = self.folder.progress()
        self.progress.attempts, self.progress.key = self.progress.attempts + 1, self.progress.key or uuid.uuid4().hex
        self.folder.note(
            attempts=self.progress.attempts, device=self.device, threads=self.threads, key=self.progress.key
        )
        (self.folder.path / "result.json").unlink(missing_ok=True)  # of an attempt that was interrupted

    def open(self, parent: str | None, tags: Mapping[str, Any]) -> None:
        """Make the MLflow run, or go on with that of an earlier attempt, and describe the run there.

        A RequestError tells of a damaged file of the data set.
        """
        config, progress, path, key = self.config, self.progress, self.folder.path, self.progress.key
        if study := tags.get("study.id"):  # an attempt on a machine that went away has left no folder to read it from
            key = uuid.uuid5(uuid.NAMESPACE_OID, f"{study}/{path.name}").hex
        self.mlflow = run = MLflowRun(
            config.tracking, Path(config.output), path.name, parent=parent, tags=tags, resume=progress.mlflow_run_id,
            key=key, folder=path,
        )  # fmt: skip
        self.folder.note(mlflow_run_id=run.run_id)
        if run.run_id != progress.mlflow_run_id:  # it may be younger than the run
            for epoch, values in enumerate(progress.history, start=1):
                run.metrics(values, epoch)
        run.parameters(config.parameters())
        layers, attempts = config.layers(), progress.attempts
        described = {"command": self.command.shell(), "device": self.device, "threads": self.threads}
        described |= {"mlflow.source.name": described["command"], "mlflow.source.type": "LOCAL"}
        described |= {"dataset": config.data.label, "parameters": sum(layer.parameters for layer in layers)}
        described |= {"role": tags.get("role", "run"), "state": "running"}
        run.tags({**described, "attempts": attempts if attempts > 1 else None, **versions()})
        run.file(path / "config.yaml")
        run.file(path / "overrides.yaml")
        run.tags({"dataset.digest": datasets.verify(config.data)})

    def epoch(self, epoch: int, values: dict[str, float], train_seconds: float) -> None:
        """Keep the metrics of an epoch, counted from 1; an earlier attempt may have kept the same."""
        history, self.progress.train_seconds = self.progress.history, train_seconds
        if history[epoch - 1 : epoch] != [values]:
            history[epoch - 1 :] = [values]
            self.mlflow.metrics(values, epoch)
        self.folder.note(epoch=epoch, seconds=self.seconds(), train_seconds=train_seconds, **values)

    def seconds(self) -> float:
        """That the run has taken, with those of earlier attempts."""
        return round(self.progress.seconds + time.monotonic() - self._started, 3)

    def result(
        self, status: Status, reason: str | None, detail: str | None, confusion: list[list[int]] | None = None
    ) -> Result:
        """The result of the run as it stands."""
        config, progress, layers = self.config, self.progress, self.config.layers()
        history = [scores(epoch) for epoch in progress.history]
        rates = [epoch["lr"] for epoch in progress.history if "lr" in epoch]  # which earlier versions did not keep
        best = best_epoch([epoch[config.objective] for epoch in history], config.direction)
        return Result(
            status=status, reason=reason, detail=detail,
            objective=history[best - 1][config.objective] if best else None,
            metrics=dict(history[best - 1]) if best else {},
            best_epoch=best, epochs=len(history),
            seconds=self.seconds(), train_seconds=round(progress.train_seconds, 3),
            parameters=sum(layer.parameters for layer in layers),
            dataset=config.data.label, seed=config.seed,
            device=self.device, threads=self.threads, precision=str(config.trainer.precision),
            mlflow_run_id=self.mlflow.run_id, overrides=self.command.written(), command=self.command.shell(),
            folder=str(self.folder.path), checkpoint=str(BEST) if self.folder.best.is_file() else None,
            history=history, learning_rates=rates, multiply_adds=sum(layer.multiply_adds for layer in layers),
            attempts=progress.attempts, test_opened_at=self.test_opened_at, confusion=confusion,
            objective_metric=config.objective, params=config.parameters(),
        )  # fmt: skip

    def close(self, result: Result, *, paused: bool = False) -> Result:
        """End the MLflow run and write ``result.json``: the two agree. A `paused` run may be resumed by its sweep.

        A RunFailure says that it cannot be written, as on a full disk; then the run has failed in MLflow, too.
        """
        interrupted, finished = result.status == "interrupted", result.status == "finished"
        self.mlflow.metrics(_sortable(result), result.epochs)
        self.mlflow.tags({"state": "paused" if paused else STATES[result.status]})
        if result.checkpoint and not paused and (interrupted or finished):
            self.mlflow.file(self.folder.best, "checkpoints")
            self.mlflow.share(self.folder.best)
        reason = "paused" if paused else "interrupted" if interrupted else result.reason
        self.mlflow.end(_STATES[result.status], reason, result.detail)
        try:
            with _writing(result):
                if interrupted:
                    self.folder.note(seconds=result.seconds, train_seconds=result.train_seconds)
                result.write()
        except RunFailure as failure:
            self.mlflow.tags({"state": STATES["failed"]})
            self.mlflow.end("FAILED", "error", failure.detail)
            raise
        if not interrupted:
            self.folder.clear()
        return result


def _sortable(result: Result) -> dict[str, float]:
    """What MLflow is to sort, filter and plot runs by: the best epoch's metrics, and what the run cost."""
    measured = {f"best/{name}": value for name, value in result.metrics.items() if not name.startswith("test/")}
    costs = ("best_epoch", "epochs", "seconds", "parameters", "multiply_adds")
    return measured | {name: value for name in costs if (value := getattr(result, name)) is not None}


def settle(config: schema.Config) -> None:
    """End the MLflow runs, in this config's store, of single runs whose process died; the same command goes on there.

    A process that died leaves its lock, which nobody holds. The runs of a sweep are the business of that sweep.
    """
    for file in (Path(config.output) / "runs").glob(".*.lock"):
        folder = RunFolder(file.with_name(file.name[1:].removesuffix(".lock")))
        sweep, _, _ = folder.path.name.partition("-seed")[0].rpartition("-")
        if sweep and folder.path.with_name(sweep).is_dir() and is_run_of(sweep, folder.path.name):
            continue
        with contextlib.suppress(RequestError), folder.lock():
            run_id, begun = folder.progress().mlflow_run_id, folder.config()
            if run_id and begun and not folder.result() and begun.plain()["tracking"] == config.plain()["tracking"]:
                run = MLflowRun(config.tracking, Path(config.output), folder.path.name, resume=run_id)
                run.tags({"state": STATES["interrupted"]})
                run.end("KILLED", "interrupted")


def prune(folder: RunFolder, session: schema.Config, config_dir: Path | None = None) -> Result | None:
    """Record in a `session` that a run which was begun will not go on; None where its folder holds no such run.

    A run whose process died before it wrote ``result.json`` came as far as its history says. A RunFailure says that the
    result cannot be written, as on a full disk.
    """
    result, config = folder.result(), folder.config(session)
    if result and result.status == "pruned":  # by a session that died before the study knew
        return result
    if result is None and config:
        before = folder.progress()
        begun = CommandLine.of(folder.overrides(), config_dir)
        record = RunRecord(begun, config, before.device, before.threads, folder)
        record.progress = before
        result = dataclasses.replace(
            record.result("interrupted", None, None),
            seconds=round(before.seconds, 3), mlflow_run_id=before.mlflow_run_id,
        )  # fmt: skip
    if result is None or result.status != "interrupted":
        return None
    if config and result.mlflow_run_id:
        run = MLflowRun(config.tracking, Path(config.output), folder.path.name, resume=result.mlflow_run_id)
        run.tags({"state": STATES["pruned"]})
        run.end("KILLED")
    result = dataclasses.replace(result, status="pruned", folder=str(folder.path))
    with _writing(result):
        result.write()
    folder.clear()
    return result


@contextlib.contextmanager
def _writing(result: Result) -> Iterator[None]:
    """Within, an OSError is a RunFailure that says in one line that the result cannot be written."""
    try:
        yield
    except OSError as error:
        raise RunFailure("error", f"{result.path} cannot be written ({error.strerror or error})") from error


def drop_checkpoint(folder: RunFolder, tracking: Tracking) -> None:
    """Remove the checkpoint of a run that has ended, also that in MLflow where it lies on this machine.

    A RunFailure says that the folder cannot be written.
    """
    result = folder.result() if folder.best.is_file() else None
    if result is None:
        return
    if isinstance(tracking, MLflow) and result.mlflow_run_id:
        with harmless("the checkpoint of a trial could not be removed"):
            if copy := artifact(client_of(tracking.uri), result.mlflow_run_id, f"checkpoints/{folder.best.name}"):
                copy.unlink(missing_ok=True)
    with _writing(result):
        folder.best.unlink()
        dataclasses.replace(result, folder=str(folder.path), checkpoint=None).write()


def abandon(
    command: CommandLine,
    *,
    parent: str | None,
    tags: Mapping[str, Any],
    reason: str,
    detail: str,
    folder: RunFolder | None = None,
    seeds: int = 1,
) -> Result:
    """Record a run whose process died or was given up: failed, with as much of its history as it wrote down.

    A run that was begun with other settings than those of `command` keeps them; one that came to its end before its
    process died keeps its own result. Of several `seeds` one that has finished is the first: it is a later one that
    failed, and so has the trial. An error is raised only where the folder, or ``result.json``, cannot be written.
    """
    folder = folder or RunFolder.of(command.config)
    if own := folder.ended():
        first = seeds > 1 and own.status == "finished"
        return dataclasses.replace(own, status="failed", reason=reason, detail=detail) if first else own
    before = folder.progress()
    if config := folder.config():
        config = config.model_copy(update={"tracking": command.config.tracking})
        begun = CommandLine.of(folder.overrides(), command.config_dir)
        record = RunRecord(begun, config, before.device, before.threads, folder)
        record.progress = before
    else:
        record = RunRecord(command, command.config, before.device, before.threads, folder)
        record.begin(resume=True)
    with contextlib.suppress(RequestError):  # a damaged file of the data set is the business of those that read it
        record.open(parent, tags)
    result = record.result("failed", reason, detail)
    return record.close(dataclasses.replace(result, seconds=round(before.seconds, 3)))
