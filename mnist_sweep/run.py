"""One command line → one `Result`: the training, the folder and the MLflow run put together."""

import contextlib
import dataclasses
import errno
import logging
import math
import os
import re
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mnist_sweep import hardware, run_report
from mnist_sweep.config import schema
from mnist_sweep.config.command import CommandLine
from mnist_sweep.errors import Interrupted, RequestError, RunFailure, one_line, signalled
from mnist_sweep.result import BEST, Result, Status
from mnist_sweep.run_folder import RunFolder
from mnist_sweep.run_record import RunRecord, scores, settle
from mnist_sweep.tracking import Journal, MLflowRun
from mnist_sweep.training import data, trained_model, trainer
from mnist_sweep.training.evaluate import Evaluation, evaluate
from mnist_sweep.training.own_code import extra_metrics
from mnist_sweep.training.trained_model import TrainedModel

log = logging.getLogger(__name__)

#: Called after each epoch with the epoch, counted from 1, and its metrics by name; returns whether the run goes on.
OnEpoch = Callable[[int, dict[str, float]], trainer.Decision]

#: What torch's allocator on the CPU, the system, CUDA, cuBLAS and cuDNN say.
_NO_MEMORY = re.compile("can(no|')t allocate memory|out of memory|ALLOC_FAILED", re.IGNORECASE)


def train(
    command: CommandLine,
    *,
    on_epoch: OnEpoch | None = None,
    parent: str | None = None,
    tags: Mapping[str, Any] | None = None,
    test: bool = False,
    pictures: bool = True,
    progress: bool = False,
    resume: bool = False,
    limit_seconds: float | None = None,
    stopped: Callable[[], int | None] = signalled,
    folder: RunFolder | None = None,
    data_root: str | None = None,
) -> Result:
    """Train one network; keep its folder, its MLflow run and, last, ``result.json``.

    Args:
        command: its config has a ``name``, and its data set is on disk.
        on_epoch: is called after each epoch. It may stop the run, which is then ``pruned``; or pause it, which is then
            ``interrupted``, with the reason ``paused``, and can be resumed.
        parent, tags: MLflow's id of the parent run, and tags.
        test: measure the best checkpoint on the test set at the end. No trial does.
        pictures: keep all pictures, the tables and the model in MLflow; a trial keeps its confusion matrix only.
        progress: show the epochs and, on a terminal, a bar.
        resume: go on after the last whole epoch of an earlier attempt; a run that came to its end is left as it is.
        limit_seconds: after which the run fails with ``timeout``; None = no limit.
        stopped: is asked between groups of batches; a signal's number interrupts the run.
        folder, data_root: where a worker without the sweep's disk keeps the run and has the images; None = as the
            config says.

    Raises:
        RequestError: the folder is there already, another process is at the run, there is no GPU, or
            ``trainer.init_from`` does not fit.
        RunFailure: the disk is full, or ``result.json`` cannot be written. Of any other failure the result tells.
        Interrupted: after everything has been recorded.
    """
    started, config = time.monotonic(), command.config
    hardware.check_accelerator(config.trainer.accelerator)
    device = _device(config.trainer.accelerator)
    precision, why = hardware.precision(config.trainer.precision, device.type == "cuda")
    if why:
        log.info("%s", hardware.precision_in_words(precision, why))
    if device.type == "cpu" and config.trainer.threads != 1 and os.environ.get("OMP_WAIT_POLICY") == "passive":
        log.info("threads wait asleep, as other processes use this machine (OMP_WAIT_POLICY=passive)")
    config = config.with_precision(precision)
    if config.trainer.init_from:  # refused before anything is written
        channels = config.data.images.channels
        mean, deviation = (0.0, 1.0) if channels == 1 else ([0.0] * channels, [1.0] * channels)
        trained_model.start_from(config.trainer.init_from, config.model.build(mean, deviation, config.data.images))
    name = f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else "cpu"
    if data_root is not None:
        config = config.model_copy(update={"data": config.data.below(data_root)})
    record = RunRecord(command, config, name, config.trainer.threads or trainer.ALL_THREADS, folder)

    def after_epoch(epoch: int, values: dict[str, float]) -> trainer.Decision:
        record.epoch(epoch, values, fit.train_seconds)
        if progress:
            shown = "  ".join(f"{name} {values[name]:.4f}" for name in ("train/loss", "train/accuracy", "val/accuracy"))
            log.info("epoch %d of %d  %s", epoch, config.trainer.max_epochs, shown)
        return on_epoch is None or on_epoch(epoch, scores(values))

    def check() -> None:
        if signum := stopped():
            raise Interrupted(signum)
        if limit_seconds is not None and time.monotonic() - started - record.mlflow.waited > limit_seconds:
            done = len(fit.history)
            raise RunFailure("timeout", f"longer than {limit_seconds:g} s ({done} epoch{'s' * (done != 1)} done)")

    fit = trainer.Fit(config, record.folder.path, device, after_epoch, check, progress and sys.stderr.isatty())
    with record.folder.lock() if resume else contextlib.nullcontext():
        if resume and (ended := record.folder.ended()):
            return ended
        if test:
            settle(config)
        record.begin(resume=resume)
        return _perform(record, fit, parent, tags or {}, test=test, pictures=pictures)


def _device(accelerator: str) -> torch.device:
    """The device for an ``accelerator``: a GPU where there is one, unless it is ``cpu``."""
    return torch.device("cuda:0" if accelerator != "cpu" and torch.cuda.is_available() else "cpu")


def _perform(
    record: RunRecord, fit: trainer.Fit, parent: str | None, tags: Mapping[str, Any], *, test: bool, pictures: bool
) -> Result:
    """Train, test where that is asked for, and record what came of it; the arguments are those of `train`."""
    status: Status = "finished"
    reason = detail = tested = None
    interruption: Interrupted | RunFailure | None = None
    try:
        record.open(parent, tags)
        record.mlflow.watch_machine()
        fit.run()
        if fit.stopped or fit.paused:
            status = "pruned" if fit.stopped else "interrupted"
        elif test and fit.network:
            tested = _test(record, fit.network)
    except Interrupted as error:
        status, interruption = "interrupted", error
    except RunFailure as error:
        status, reason, detail = "failed", error.reason, error.detail
    except Exception as error:
        memory = isinstance(error, MemoryError | torch.OutOfMemoryError) or _NO_MEMORY.search(str(error))
        status, reason, detail = "failed", "out_of_memory" if memory else "error", one_line(error, 500)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            detail = f"the disk is full ({detail}); the run goes on when there is room"
            status, reason, interruption = "interrupted", None, RunFailure("error", detail)
        elif not memory:
            log.error("%s", "".join(traceback.format_exception(error)).rstrip())
    if fit.network:
        record.progress.history, record.progress.train_seconds = fit.history, fit.train_seconds
    found = fit.validation
    result = record.result(status, reason, detail, found.confusion.tolist() if found else None)
    if tested:
        result.metrics.update(tested[1].metrics)
    if status == "finished" and record.mlflow.tracked:
        if found and not pictures:
            run_report.keep_trial(record.mlflow, result, found, record.config.data.classes)
        elif found and fit.network and fit.held_out:
            run_report.keep(record.mlflow, record.config, result, fit.network, fit.held_out, found)
        if tested:
            run_report.keep_test(record.mlflow, result, *tested)
        result = dataclasses.replace(result, seconds=record.seconds())
    record.close(result, paused=fit.paused)
    if interruption:
        raise interruption
    return result


def _test(record: RunRecord, network: nn.Module) -> tuple[data.ImageSet, Evaluation]:
    """Open the test set: once, for the best epoch's network, and say so."""
    record.test_opened_at, settings = _now(), record.config.data
    record.mlflow.tags({"test.opened_at": record.test_opened_at})
    log.info("the test set is opened (%s)", record.test_opened_at)
    images = data.test_images(settings)
    return images, _measured(network, images, record.config)


def _measured(
    network: nn.Module, images: data.ImageSet, config: schema.Config, device: torch.device | None = None
) -> Evaluation:
    """What a network does on the images of the test set, also by the user's own metrics.

    A metric that fails there, or is not finite, is left out with a warning: the training is done, and has its result.
    """
    found, labels = evaluate(network, images, "test", device), images.labels.cpu().numpy()
    values, left_out = dict(found.metrics), "left out: %s on the test set: %s"
    for name, function in extra_metrics(config.extra_metrics()).items():
        try:
            values[f"test/{name}"] = float(function(found.confusion, found.probabilities, labels))
        except Exception as error:  # whatever the user's code raises
            log.warning(left_out, name, one_line(error))
    for name in [name for name, value in values.items() if not math.isfinite(value)]:
        log.warning(left_out, name.removeprefix("test/"), f"it is {values[name]}")
        del values[name]
    return dataclasses.replace(found, metrics=values)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def open_test(
    folders: Sequence[Path], on_open: Callable[[str], None] | None = None, session: schema.Config | None = None
) -> list[Result]:
    """Open the test set, once, for runs that ended without it: what the winner of a sweep is judged by.

    Their MLflow runs and ``result.json`` are completed. A run that has been measured is not measured again.

    `on_open` is called with the moment (ISO 8601, UTC) before anything is measured, also if that then fails. See
    `RunFolder.config` for the `session`.

    Raises:
        RequestError: a run has not finished, or its result or its checkpoint is gone or damaged; then none is measured.
    """
    runs: list[tuple[Result, TrainedModel | None]] = []
    for folder in folders:
        result = Result.found(folder)
        if result is None or result.status != "finished":
            what = f"the run is {result.status}" if result else "its result.json is not there or damaged"
            raise RequestError(f"{folder}: {what}; allowed for the test set: a finished run")
        runs.append((result, None if "test/accuracy" in result.metrics else trained_model.read(folder / BEST)))
    opened = _now()
    if any(model for _, model in runs):
        if on_open:
            on_open(opened)
        log.info("the test set is opened (%s)", opened)
        torch.set_num_threads(trainer.ALL_THREADS)
    return [_tested(result, model, opened, session) if model else result for result, model in runs]


def _tested(result: Result, model: TrainedModel, opened: str, session: schema.Config | None) -> Result:
    """A finished run's result, completed by its measures on the test set."""
    folder = RunFolder(Path(result.folder))
    config = folder.config(session) or session or model.config
    images = data.test_images(config.data)
    found = _measured(model.network, images, config, _device(result.device))
    kept = Journal(folder.path).file.is_file()  # MLflow was away, and will be told of the run later
    tracking = config.tracking if result.mlflow_run_id or kept else None
    run = MLflowRun(tracking, Path(config.output), folder.path.name, resume=result.mlflow_run_id)
    run_id, metrics = run.run_id or result.mlflow_run_id, {**result.metrics, **found.metrics}
    result = dataclasses.replace(result, metrics=metrics, test_opened_at=opened, mlflow_run_id=run_id)
    run.tags({"test.opened_at": opened})
    run_report.keep_test(run, result, images, found)
    run.note(run_report.note(config, result))
    run.end("FINISHED")
    result.write()
    return result
