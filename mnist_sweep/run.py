"""One config → one Result: seeds, data, network, Trainer and record put together."""

import contextlib
import dataclasses
import logging
import re
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pytorch_lightning as pl
import torch

from mnist_sweep import evaluation, run_report
from mnist_sweep import hardware as processor
from mnist_sweep import run_record as record
from mnist_sweep.config import schema
from mnist_sweep.errors import Interrupted, RequestError, RunFailure, check_interrupted, masked, uninterrupted
from mnist_sweep.result import BEST, Result, Status, last_checkpoint
from mnist_sweep.run_record import Record
from mnist_sweep.training import data
from mnist_sweep.training import trainer as training
from mnist_sweep.training.lightning_module import Classifier
from mnist_sweep.training.models import network

log = logging.getLogger(__name__)

#: Called after each epoch with the epoch, counted from 1, and its metrics by name; whether the run may go on.
Report = Callable[[int, dict[str, float]], bool]

#: What torch's allocator on the CPU, the system, CUDA, cuBLAS and cuDNN say.
_NO_MEMORY = re.compile("can(no|')t allocate memory|out of memory|ALLOC_FAILED", re.IGNORECASE)


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
    resume: bool = False,
    limit_seconds: float | None = None,
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
        resume: go on where an earlier attempt in the same folder stopped, from its last checkpoint where it has one;
            a run that came to its end is not begun again.
        limit_seconds: that this call may take, after which the run fails with ``timeout``; None = no limit.

    Returns:
        The result, also of a run that failed.

    Raises:
        RequestError: the folder is there already, another process is at the run that is to be taken up, or there is no
            GPU where one was asked for.
        Interrupted: after everything has been recorded.
    """
    if resume and (ended := record.ended(config)):
        return ended
    performed = _Run(config, given, config_dir, report, progress, limit_seconds)
    with record.alone(config) if resume else contextlib.nullcontext():
        if resume and (ended := record.ended(config)):  # by the process that held it until now
            return ended
        return performed.perform(parent, tags or {}, open_test, resume)


class _Run:
    """The state of a run while it lasts."""

    def __init__(
        self,
        config: schema.Config,
        given: Sequence[str],
        config_dir: str | None,
        report: Report | None,
        progress: bool,
        limit_seconds: float | None = None,
    ) -> None:
        self.started = time.monotonic()
        training.keep_memory()
        self.report = report
        self.progress = progress
        self.limit = limit_seconds
        self.threads = config.trainer.threads or evaluation.ALL_THREADS
        if config.trainer.accelerator == "gpu" and not torch.cuda.is_available():
            raise RequestError("trainer.accelerator=gpu: no GPU here that torch can use; allowed: auto, cpu")
        on_gpu = config.trainer.accelerator != "cpu" and torch.cuda.is_available()
        self.device = torch.device("cuda:0" if on_gpu else "cpu")
        precision, why = processor.precision(config.trainer.precision, on_gpu)
        if why:
            log.info("trained in %s: %s (trainer.precision)", precision, why)
        self.config = config = config.with_precision(precision)
        self.record = Record(config, given, config_dir, _device_name(self.device), self.threads)
        self.classifier: Classifier | None = None
        self.watch: training.Watch | None = None
        self.validation: data.ImageSet | None = None
        self.train_seconds = 0.0
        self.opened: str | None = None

    def perform(self, parent: str | None, tags: Mapping[str, Any], open_test: bool, resume: bool) -> Result:
        """Train, and test where that is asked for."""
        status: Status = "finished"
        reason = detail = None
        interruption: Interrupted | None = None
        try:
            with uninterrupted():  # so that no folder is left without an account
                self.record.make_folder(resume=resume)
                self.record.open(parent, tags)
            self.record.describe()
            self.record.account.watch_machine()
            self._fit()
            if self.watch and self.watch.stopped:
                status = "pruned"
            elif open_test:
                self._test()
        except Interrupted as error:
            if not self.record.begun:
                raise
            status, interruption = "interrupted", error
        except RunFailure as error:
            status, reason, detail = "failed", error.reason, error.detail
        except Exception as error:
            if not self.record.begun:  # the folder is another run's, or cannot be made
                raise
            if interruption := masked(error):
                status = "interrupted"
            else:
                status, (reason, detail) = "failed", _diagnosis(error)
            if reason == "error":
                log.error("%s", "".join(traceback.format_exception(error)).rstrip())
        with uninterrupted():  # so that the account, the files and the study agree
            result = self._result(status, reason=reason, detail=detail, test_opened_at=self.opened)
            if status == "finished":
                self._tell(result)
                result = dataclasses.replace(result, seconds=round(self.record.seconds(), 3))
            self.record.close(result)
        if interruption:
            raise interruption
        return result

    def _fit(self) -> None:
        config = self.config
        torch.set_num_threads(self.threads)
        pl.seed_everything(config.seed, workers=True, verbose=False)
        images, validation = data.parts(config.data)
        if config.data.limit and config.data.limit > len(images):
            log.warning("data.limit=%d: %s has %d training images", config.data.limit, config.data.name, len(images))
        classifier = Classifier(network(config.model), config, images.standardisation)
        self.classifier, self.validation = classifier, validation
        self.record.account.tags({"parameters": self._parameters()})
        order = torch.Generator().manual_seed(config.seed)
        batches = data.Batches(images.to(self.device), config.data.batch_size, order, config.data.augmentation)
        held_out = evaluation.batches(validation, self.device)
        self.watch = training.Watch(self._after_epoch, self.limit, self.started)
        kept = self.record.folder / BEST
        last = training.LastState(last_checkpoint(self.record.folder), kept, order)
        best = training.best_checkpoint(config, self.record.folder / "checkpoints")
        bars = self.progress and sys.stderr.isatty()
        trainer = training.trainer(config, self.device, [self.watch, best, last], bars)
        resumed = training.loadable(last.path)
        if resumed is None:  # a best checkpoint of an attempt that left nothing else would stand beside ours
            kept.unlink(missing_ok=True)
        try:
            groups = data.Groups(batches, evaluation.GROUP)
            trainer.fit(classifier, groups, held_out, ckpt_path=resumed, weights_only=True)
        finally:
            self.train_seconds = self.watch.seconds()
            classifier.release()
        check_interrupted()

    def _after_epoch(self, epoch: int, values: dict[str, float]) -> bool:
        """After each epoch: the account, a line, the report."""
        assert self.classifier is not None
        assert self.watch is not None
        self.record.epoch(self.classifier.history, self._parameters(), self.watch.seconds())
        if self.progress:
            shown = "  ".join(f"{name} {values[name]:.4f}" for name in ("train/loss", "train/accuracy", "val/accuracy"))
            log.info("epoch %d of %d  %s", epoch, self.config.trainer.max_epochs, shown)
        return self.report is None or self.report(epoch, values)

    def _test(self) -> None:
        """Open the test set: once, for the best epoch's network, and say so."""
        assert self.classifier is not None
        with uninterrupted():
            self.opened = datetime.now(UTC).isoformat(timespec="seconds")
            self.record.account.tags({"test.opened_at": self.opened})
        log.info("the test set is opened (%s)", self.opened)
        evaluation.measure(self.config, self.classifier, self.record.folder / BEST, self.device)

    def _parameters(self) -> int | None:
        return sum(p.numel() for p in self.classifier.network.parameters()) if self.classifier else None

    def _result(self, status: Status, **measured: Any) -> Result:
        history = self.classifier.history if self.classifier else []
        result = self.record.result(
            status,
            history=history,
            train_seconds=round(self.train_seconds, 3),
            parameters=self._parameters(),
            **measured,
        )
        if self.classifier and result.best_epoch:
            result = dataclasses.replace(result, confusion=self.classifier.confusions[result.best_epoch - 1].tolist())
        if self.classifier and self.classifier.test and status == "finished":
            result.metrics.update(self.classifier.test.metrics)
        return result

    def _tell(self, result: Result) -> None:
        """What a finished run shows in its account."""
        account = self.record.account
        if self.classifier is None or self.validation is None or not account.tracked:
            return
        self.classifier.to(self.device)
        run_report.keep(account, self.config, result, self.classifier, self.validation)
        if self.classifier.test:
            run_report.keep_test(account, self.config, result, self.classifier)


def _diagnosis(error: Exception) -> tuple[str, str]:
    """A word for programs and a line for people."""
    line = " ".join(f"{type(error).__name__}: {error}".split())[:500]
    memory = isinstance(error, MemoryError | torch.OutOfMemoryError) or _NO_MEMORY.search(str(error))
    return ("out_of_memory" if memory else "error"), line


def _device_name(device: torch.device) -> str:
    return "cpu" if device.type == "cpu" else f"{device} ({torch.cuda.get_device_name(device)})"
