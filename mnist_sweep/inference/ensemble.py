"""Average several trained networks: ``mnist-sweep ensemble FOLDER… [--top K] [--name NAME]``."""

import argparse
import logging
import shlex
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import torch

from mnist_sweep import run_report, tracking
from mnist_sweep.config import schema
from mnist_sweep.config.command import CommandLine
from mnist_sweep.config.options import MLflow
from mnist_sweep.config.overrides import text
from mnist_sweep.errors import RequestError, check_interrupted, one_line
from mnist_sweep.result import BEST, STATES, Result, is_run_of
from mnist_sweep.run_folder import RunFolder
from mnist_sweep.training import data, datasets, trained_model
from mnist_sweep.training.evaluate import evaluate

log = logging.getLogger(__name__)


def members(folders: Sequence[Path], top: int) -> list[Result]:
    """The runs whose networks are averaged, the best on validation first.

    The folders are of runs, which are all taken, or of one sweep, of whose runs the `top` best are taken. A
    RequestError says that there are fewer than two, or that they do not go together.
    """

    def usable(run: Result) -> bool:
        return run.status == "finished" and (Path(run.folder) / BEST).is_file()

    first, sweeps = folders[0], [folder for folder in folders if (folder / "sweep.json").is_file()]
    if sweeps and len(folders) > 1:
        raise RequestError(f"{sweeps[0]}: a sweep among {len(folders)} folders; allowed: one, or folders of runs")
    if sweeps:  # its trials, and the best of them trained again with other seeds
        files = sorted(first.parent.glob(f"{first.name}-*/result.json"))
        own = [file.parent for file in files if is_run_of(first.name, file.parent.name)]
        others = ("-baseline-", "-without-")  # these only show what the winner is better than
        own = [folder for folder in own if not any(word in folder.name.removeprefix(first.name) for word in others)]
        runs = [run for run in map(_run, own) if usable(run)]
    else:
        runs = [_run(folder) for folder in dict.fromkeys(folders)]
        for run in runs:
            if not usable(run):
                raise RequestError(f"{run.folder}: the run is {run.status}; allowed: a finished one with its {BEST}")
    splits = [_config(run).data.split for run in runs]
    for key in splits[0] if splits else ():  # else a member was trained on images that the choice is made by
        values = sorted({text(split.get(key)) for split in splits})
        if len(values) > 1:
            raise RequestError(f"data.{key}={' | '.join(values)}: the runs differ; allowed: one for all")
    if len(runs) < 2:
        raise RequestError(f"{first}: {len(runs)} finished run; allowed: at least two that are averaged")
    runs.sort(key=lambda run: (run.metrics["val/accuracy"], -run.metrics["val/loss"]), reverse=True)
    return runs[:top] if sweeps else runs


def _run(folder: Path) -> Result:
    """The result of a run, from wherever it was started."""
    if result := RunFolder(folder).result():
        return replace(result, folder=str(folder))
    allowed = "the folder of a finished run, or of a sweep"
    raise RequestError(f"{folder}: no result.json that can be read; allowed: {allowed}")


def _config(run: Result) -> schema.Config:
    if config := RunFolder(Path(run.folder)).config():
        return config
    raise RequestError(f"{run.folder}/config.yaml: no config that can be read; allowed: the folder of a single run")


def make(runs: Sequence[Result], folder: Path, store: str | None) -> Result:
    """Average networks, measure the ensemble on validation and, once, on the test set, and record it like a run.

    Args:
        runs: the members.
        folder: is there, and empty.
        store: MLflow's tracking URI; None = the best member's, if it has one.

    Raises:
        RequestError: a checkpoint cannot be read, or the data set is damaged or gone.
    """
    started, config = time.monotonic(), _config(runs[0])
    split = datasets.split(config.data)
    if missing := datasets.missing(config.data):
        allowed = "this command in the folder where the members were trained, or the file put there"
        raise RequestError(f"data.root={config.data.root}: {missing[0]} is not there; allowed: {allowed}")
    datasets.obtain(config.data)  # unpacked, where only an archive is there
    settings = config.tracking
    if store:
        settings = settings if isinstance(settings, MLflow) else CommandLine.of([]).config.tracking
        settings = settings.model_copy(update={"uri": store})
    trained_model.save_ensemble([Path(run.folder) / BEST for run in runs], folder / BEST)
    network = trained_model.read(folder / BEST).network
    _, validation = data.parts(config.data)
    found = evaluate(network, validation, "val")
    check_interrupted()
    opened = datetime.now(UTC).isoformat(timespec="seconds")
    log.info("the test set is opened (%s)", opened)
    test = data.test_images(config.data)
    tested = evaluate(network, test, "test")
    check_interrupted()
    again = [*(run.folder for run in runs), "--name", f"{folder.name}-again"]
    again += ["--tracking-uri", store] if store else []
    tags = {
        "role": "ensemble",
        "state": "running",
        "ensemble": "true",
        "members": " ".join(Path(run.folder).name for run in runs),
    }
    mlflow = tracking.MLflowRun(settings, folder.parent.parent, folder.name, tags=tags)
    result = replace(
        runs[0], objective=found.metrics["val/accuracy"], metrics=found.metrics | tested.metrics, best_epoch=None,
        epochs=0, train_seconds=0.0, parameters=sum(run.parameters or 0 for run in runs), device="cpu",
        threads=torch.get_num_threads(), precision="32", mlflow_run_id=mlflow.run_id, overrides=[],
        command=f"python -m mnist_sweep.ensemble {shlex.join(again)}", folder=str(folder), history=[],
        multiply_adds=sum(run.multiply_adds or 0 for run in runs), attempts=1, test_opened_at=opened,
        confusion=found.confusion.tolist(), objective_metric="val/accuracy", params={},
    )  # fmt: skip
    try:
        mlflow.tags({"command": result.command, "dataset": result.dataset, "test.opened_at": opened})
        mlflow.metrics(found.metrics | {f"best/{name}": value for name, value in found.metrics.items()}, 0)
        run_report.keep_part(mlflow, "validation", result, validation, found)
        run_report.keep_model(mlflow, result, network, validation)
        run_report.keep_test(mlflow, result, test, tested)
        scores = [f"{part}/accuracy {result.metrics[f'{part}/accuracy']:.4f}" for part in ("val", "test")]
        made_of = [f"- {run.folder}, val/accuracy {run.metrics['val/accuracy']:.4f}: `{run.command}`" for run in runs]
        mlflow.note("\n".join([f"**{', '.join(scores)}**", "", *made_of, "", f"Reproduce it: `{result.command}`"]))
        mlflow.file(folder / BEST, "checkpoints")
        result = replace(result, seconds=round(time.monotonic() - started, 3))
        result.write()
    except Exception as error:
        mlflow.tags({"state": STATES["failed"]})
        mlflow.end("FAILED", "error", one_line(error))
        raise
    mlflow.tags({"state": STATES["finished"]})
    mlflow.end("FINISHED")
    scores_of = result.metrics
    measured = tracking.Measured(scores_of["val/accuracy"], 1, split, scores_of["test/accuracy"])
    tracking.register(settings, mlflow.run_id, config.data.label, measured)
    return result


def perform(options: argparse.Namespace) -> int:
    """Choose the members, average, measure and record them; print the path of the result."""
    if options.top < 2:
        raise RequestError(f"--top={options.top}: allowed: at least 2")
    folders = [folder.resolve() for folder in options.folders]  # two ways to one run are one member
    name = options.name or f"{folders[0].name}-ensemble"
    if fault := schema.fault("name", name):
        raise RequestError(f"--name={name}: {fault}")
    folder = folders[0].parent / name
    try:
        if folder.exists():
            raise RequestError(f"{folder}: is there already; allowed: another --name")
        runs = members(folders, options.top)
        folder.mkdir()
        try:
            result = make(runs, folder, options.tracking_uri)
        except BaseException:
            shutil.rmtree(folder)
            raise
    except OSError as error:
        raise RequestError(f"{error.filename}: {error.strerror}; allowed: a folder that can be used") from error
    before, now = runs[0].metrics["val/accuracy"], result.metrics["val/accuracy"]
    tested = f"test/accuracy {result.metrics['test/accuracy']:.4f} on {result.dataset}"
    log.info("%d members: val/accuracy %.4f, of the best member %.4f; %s", len(runs), now, before, tested)
    print(result.path)
    return 0
