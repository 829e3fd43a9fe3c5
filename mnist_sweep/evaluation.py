"""Networks measured in full precision: the batches of an evaluation, and the test set, which is opened once."""

import dataclasses
import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import torch

from mnist_sweep import run_report
from mnist_sweep.config import overrides, schema
from mnist_sweep.config.command import compose
from mnist_sweep.errors import RequestError, uninterrupted
from mnist_sweep.result import BEST, Result
from mnist_sweep.tracking import Account
from mnist_sweep.training import data
from mnist_sweep.training import trained_model as inspection
from mnist_sweep.training import trainer as training
from mnist_sweep.training.lightning_module import Classifier
from mnist_sweep.training.models import network

log = logging.getLogger(__name__)

#: Images a batch; a GPU is filled by more.
_BATCH = {"cpu": inspection.BATCH, "cuda": 1_000}
#: Batches that Lightning handles at a time.
GROUP = 32
#: As torch found the machine, and OMP_NUM_THREADS, at the start.
ALL_THREADS = torch.get_num_threads()


def batches(images: data.ImageSet, device: torch.device) -> data.Groups:
    """All images in order."""
    return data.Groups(data.Batches(images.to(device), _BATCH[device.type]), GROUP)


def measure(config: schema.Config, classifier: Classifier, checkpoint: Path, device: torch.device) -> None:
    """The classifier's `test`: of the checkpoint's weights, on the test set."""
    classifier.load_state_dict(training.weights(checkpoint))
    test = data.test_set(config.data.name, config.data.root)
    training.trainer(config, device, [], bars=False).test(classifier, batches(test, device), verbose=False)


def open_test(
    folders: Sequence[Path], config_dir: str | None = None, opening: Callable[[str], None] | None = None
) -> list[Result]:
    """Open the test set, once, for runs that ended without it: what the winner of a sweep is judged by.

    The best checkpoint of each is measured; its account and its ``result.json`` are completed. A run that has been
    measured is not measured again.

    Args:
        folders: of finished runs.
        config_dir: the further folder of configs that they were composed with.
        opening: hears of the moment (ISO 8601, UTC) before anything is measured, also if it should be in vain.

    Returns:
        Their results, with the test set's metrics.

    Raises:
        RequestError: a run has not finished, or its result or its checkpoint is gone or damaged; then none is measured.
    """
    opened = datetime.now(UTC).isoformat(timespec="seconds")
    results = [_finished(folder) for folder in folders]
    closed = [folder for folder, result in zip(folders, results, strict=True) if "test/loss" not in result.metrics]
    for folder in closed:  # all of them, before the first is measured
        if not (folder / BEST).is_file():
            raise RequestError(f"{folder}: {BEST} is not there; the test set needs it")
        inspection.load(folder / BEST)
    if closed:
        with uninterrupted():
            if opening:
                opening(opened)
            log.info("the test set is opened (%s)", opened)
    return [
        _tested(result, folder, opened, config_dir) if folder in closed else result
        for folder, result in zip(folders, results, strict=True)
    ]


def _finished(folder: Path) -> Result:
    """The result of a run that has one and has finished."""
    if (result := Result.found(folder)) is None:
        raise RequestError(
            f"{folder}: its result.json is not there or damaged; allowed for the test set: a finished run"
        )
    if result.status != "finished":
        raise RequestError(f"{folder}: the run is {result.status}; allowed for the test set: a finished one")
    return result


def _tested(result: Result, folder: Path, opened: str, config_dir: str | None) -> Result:
    """A finished run's result, completed by its measures on the test set."""
    output = folder.parent.parent  # where the run is now, from wherever it was started
    here = {"name": folder.name, "output": str(output)}
    items = overrides.replaced(result.overrides, [overrides.override(key, value) for key, value in here.items()])
    config = compose(items, config_dir)
    torch.set_num_threads(ALL_THREADS)
    saved = training.weights(folder / BEST)
    classifier = Classifier(network(config.model), config, (float(saved["mean"]), float(saved["deviation"])))
    on_gpu = result.device != "cpu" and torch.cuda.is_available()
    measure(config, classifier, folder / BEST, torch.device("cuda:0" if on_gpu else "cpu"))
    assert classifier.test is not None
    measured = {**result.metrics, **classifier.test.metrics}
    result = dataclasses.replace(result, metrics=measured, test_opened_at=opened, folder=str(folder))
    tracked = config.tracking if result.mlflow_run_id else schema.NoTracking(name="none")
    with uninterrupted():
        account = Account(tracked, output, folder.name, resume=result.mlflow_run_id)
        result = dataclasses.replace(result, mlflow_run_id=account.run_id or result.mlflow_run_id)
        account.tags({"test.opened_at": opened})
        run_report.keep_test(account, config, result, classifier)
        run_report.keep_note(account, config, result)
        account.end("FINISHED")
        result.write()
    return result
