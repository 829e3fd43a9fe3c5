"""One config → one Result: seeds, data, network, Trainer and account put together."""

import logging
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import yaml

from mnist_sweep import data, datasets, figures, metrics, overrides, provenance, schema, training
from mnist_sweep.classifier import Classifier
from mnist_sweep.errors import Interrupted, RequestError, RunFailure, check_interrupted, uninterrupted
from mnist_sweep.models import ConvNet
from mnist_sweep.result import Result, Status
from mnist_sweep.tracking import Account, State

log = logging.getLogger(__name__)

#: Called after each epoch with the epoch, counted from 1, and the objective; whether the run may go on.
Report = Callable[[int, float], bool]

_EVALUATION_BATCH = 1_000
_ALL_THREADS = torch.get_num_threads()  # as torch found the machine, and OMP_NUM_THREADS, at the start
_STATES: dict[Status, State] = {
    "finished": "FINISHED",
    "pruned": "KILLED",
    "interrupted": "KILLED",
    "failed": "FAILED",
}


def folder_of(config: schema.Config) -> Path:
    """The run's folder."""
    return Path(config.output) / "runs" / str(config.name)


def run(
    config: schema.Config,
    given: Sequence[str],
    *,
    config_dir: str | None = None,
    report: Report | None = None,
    parent: str | None = None,
    tags: Mapping[str, Any] | None = None,
    open_test: bool = False,
    progress: bool = False,
) -> Result:
    """Train one network and keep the account of it: folder, MLflow run and, last, ``result.json``.

    Args:
        config: composed from `given`; its ``name`` is set and its data set is on disk.
        given: the overrides that composed it.
        config_dir: the further folder of configs that they were composed with.
        report: hears of each epoch and may stop the run, which is then ``pruned``.
        parent: MLflow's id of the parent run.
        tags: for MLflow.
        open_test: measure the best checkpoint on the test set, at the end. No trial does.
        progress: show epochs and, on a terminal, bars.

    Returns:
        The result, also of a run that failed.

    Raises:
        RequestError: the folder is there already, or there is no GPU where one was asked for.
        Interrupted: after everything has been recorded.
    """
    return _Run(config, given, config_dir, report, progress).perform(parent, tags or {}, open_test)


class _Run:
    """The state of a run while it lasts."""

    def __init__(
        self,
        config: schema.Config,
        given: Sequence[str],
        config_dir: str | None,
        report: Report | None,
        progress: bool,
    ) -> None:
        self.started = time.monotonic()
        self.config = config
        self.report = report
        self.progress = progress
        self.threads = config.trainer.threads or _ALL_THREADS
        if config.trainer.accelerator == "gpu" and not torch.cuda.is_available():
            raise RequestError("trainer.accelerator=gpu: no GPU here that torch can use; allowed: auto, cpu")
        on_gpu = config.trainer.accelerator != "cpu" and torch.cuda.is_available()
        self.device = torch.device("cuda:0" if on_gpu else "cpu")
        self.overrides = self._exact(given)
        self.command = overrides.command(self.overrides, config_dir)
        self.folder = folder_of(config)
        self.classifier: Classifier | None = None
        self.watch: training.Watch | None = None
        self.train_seconds = 0.0

    def _exact(self, given: Sequence[str]) -> list[str]:
        """The overrides with everything that bears on the numbers written out, so that they repeat the run anywhere."""
        config = self.config
        exact = {
            "seed": config.seed,
            "data.fallback": None,
            "trainer.threads": self.threads,
            "trainer.precision": config.trainer.precision,
            "trainer.accelerator": "cpu" if self.device.type == "cpu" else "gpu",
        }
        if datasets.SOURCES[config.data.name].torchvision:
            exact["data.root"] = str(Path(config.data.root).resolve())
        return overrides.replaced(
            overrides.without(given, "name"), [overrides.override(key, value) for key, value in exact.items()]
        )

    def perform(self, parent: str | None, tags: Mapping[str, Any], open_test: bool) -> Result:
        config = self.config
        try:
            self.folder.mkdir(parents=True)
        except FileExistsError as error:
            raise RequestError(f"name={config.name}: {self.folder} is there already; choose another name") from error
        _dump(self.folder / "config.yaml", config.plain())
        _dump(self.folder / "overrides.yaml", list(self.overrides))
        status: Status = "finished"
        reason = detail = None
        interruption: Interrupted | None = None
        try:
            with uninterrupted():  # so that no run is left open that nobody knows of
                account = Account(config.tracking, Path(config.output), str(config.name), parent, tags)
            self._open_account(account)
            checkpoint = self._fit(account)
            if self.watch and self.watch.stopped:
                status = "pruned"
            elif open_test:
                self._test(account, checkpoint)
        except Interrupted as error:
            status, interruption = "interrupted", error
        except RunFailure as error:
            status, reason, detail = "failed", error.reason, error.detail
        except Exception as error:
            status, (reason, detail) = "failed", _diagnosis(error)
            if reason == "error":
                log.error("%s", "".join(traceback.format_exception(error)).rstrip())
        with uninterrupted():  # so that the account, the files and the study agree
            result = self._result(status, reason, detail, account.run_id)
            if status == "finished":
                self._keep_pictures(account, result)
            if result.checkpoint and status in ("finished", "interrupted"):
                account.file(self.folder / result.checkpoint, "checkpoints")
            account.end(_STATES[status], reason or (status if status == "interrupted" else None), detail)
            result.write()
        if interruption:
            raise interruption
        return result

    def _open_account(self, account: Account) -> None:
        config = self.config
        account.parameters(config.parameters())
        account.tags(
            {
                "command": self.command,
                "device": _device_name(self.device),
                "threads": self.threads,
                "dataset": config.data.name,
                "dataset.digest": datasets.verify(config.data),
                **{f"git.{key}": value for key, value in provenance.commit().items()},
                "mlflow.source.git.commit": provenance.commit().get("commit"),
                **{f"version.{key}": value for key, value in provenance.versions().items()},
            }
        )
        account.file(self.folder / "config.yaml")
        account.file(self.folder / "overrides.yaml")

    def _fit(self, account: Account) -> Path:
        config = self.config
        torch.set_num_threads(self.threads)
        pl.seed_everything(config.seed, workers=True, verbose=False)
        images, validation = data.training_and_validation(
            config.data.name, config.data.root, config.data.split_seed, config.data.limit
        )
        if config.data.limit and config.data.limit > len(images):
            log.warning("data.limit=%d: %s has %d training images", config.data.limit, config.data.name, len(images))
        classifier = Classifier(ConvNet(config.model), config, images.standardisation)
        self.classifier = classifier
        account.tags({"parameters": self._parameters()})
        batches = data.Batches(
            images.to(self.device),
            config.data.batch_size,
            torch.Generator().manual_seed(config.seed),
            config.data.augmentation,
        )
        self.watch = training.Watch(lambda epoch, values: self._after_epoch(account, epoch, values))
        checkpoint = training.best_checkpoint(config, self.folder / "checkpoints")
        bars = self.progress and sys.stderr.isatty()
        trainer = training.trainer(config, self.device, [self.watch, checkpoint], bars)
        try:
            trainer.fit(classifier, batches, data.Batches(validation.to(self.device), _EVALUATION_BATCH))
        finally:
            self.train_seconds = self.watch.seconds()
        check_interrupted()
        return Path(checkpoint.best_model_path)

    def _after_epoch(self, account: Account, epoch: int, values: dict[str, float]) -> bool:
        """After each epoch: the account, a line, the report."""
        account.metrics(values, epoch)
        if self.progress:
            shown = "  ".join(f"{name} {values[name]:.4f}" for name in ("train/loss", "train/accuracy", "val/accuracy"))
            log.info("epoch %d of %d  %s", epoch, self.config.trainer.max_epochs, shown)
        return self.report is None or self.report(epoch, values[self.config.objective])

    def _test(self, account: Account, checkpoint: Path) -> None:
        """Open the test set: once, for the best epoch's network, and say so."""
        assert self.classifier is not None
        opened = datetime.now(UTC).isoformat(timespec="seconds")
        account.tags({"test.opened_at": opened})
        log.info("the test set is opened (%s)", opened)
        saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
        self.classifier.load_state_dict(saved["state_dict"])
        test = data.test_set(self.config.data.name, self.config.data.root).to(self.device)
        training.trainer(self.config, self.device, [], bars=False).test(
            self.classifier, data.Batches(test, _EVALUATION_BATCH), verbose=False
        )

    def _parameters(self) -> int | None:
        return sum(p.numel() for p in self.classifier.network.parameters()) if self.classifier else None

    def _result(self, status: Status, reason: str | None, detail: str | None, run_id: str | None) -> Result:
        config, history = self.config, self.classifier.history if self.classifier else []
        best = _best_epoch([epoch[config.objective] for epoch in history], config.direction)
        test = self.classifier.test if self.classifier else None
        checkpoint = Path("checkpoints") / "best.ckpt"
        return Result(
            status=status,
            reason=reason,
            detail=detail,
            objective=history[best - 1][config.objective] if best else None,
            metrics={**(history[best - 1] if best else {}), **(test[0] if test else {})},
            best_epoch=best,
            epochs=len(history),
            seconds=round(time.monotonic() - self.started, 3),
            train_seconds=round(self.train_seconds, 3),
            parameters=self._parameters(),
            dataset=config.data.name,
            seed=config.seed,
            device=_device_name(self.device),
            threads=self.threads,
            precision=str(config.trainer.precision),
            mlflow_run_id=run_id,
            overrides=self.overrides,
            command=self.command,
            folder=str(self.folder),
            checkpoint=str(checkpoint) if (self.folder / checkpoint).is_file() else None,
            history=history,
        )

    def _keep_pictures(self, account: Account, result: Result) -> None:
        """The confusion matrices, as figure and counts, and the metrics of each class."""
        assert self.classifier is not None
        assert result.best_epoch is not None
        matrices = {"val": self.classifier.confusions[result.best_epoch - 1]}
        if self.classifier.test:
            account.metrics(self.classifier.test[0], result.best_epoch)
            matrices["test"] = self.classifier.test[1]
        account.tags({"best_epoch": result.best_epoch, f"best.{self.config.objective}": result.objective})
        for part, matrix in matrices.items():
            name = {"val": "validation", "test": "test"}[part]
            title = (
                f"{result.dataset}, {matrix.sum():,} {name} images: {100 * matrix.trace() / matrix.sum():.2f}% right"
            )
            account.figure(figures.confusion_matrix(matrix, title), f"confusion_matrix_{name}.png")
            account.document(matrix.tolist(), f"confusion_matrix_{name}.json")
            classes = {key: values.tolist() for key, values in metrics.per_class(matrix).items()}
            account.document(classes, f"per_class_{name}.json")


def _best_epoch(values: Sequence[float], direction: metrics.Direction) -> int | None:
    """The epoch, counted from 1, with the best value; of equal ones the first, as ModelCheckpoint keeps it."""
    if not values:
        return None
    best = max(values) if direction == "maximize" else min(values)
    return values.index(best) + 1


def _diagnosis(error: Exception) -> tuple[str, str]:
    """A word for programs and a line for people."""
    line = " ".join(f"{type(error).__name__}: {error}".split())[:500]
    memory = isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
    return ("out_of_memory" if memory else "error"), line


def _device_name(device: torch.device) -> str:
    return "cpu" if device.type == "cpu" else f"{device} ({torch.cuda.get_device_name(device)})"


def _dump(path: Path, content: Any) -> None:
    path.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")
