"""Several networks that answer together: ``python -m mnist_sweep.inference.ensemble FOLDER… [--top K]``."""

import logging
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mnist_sweep import cli as console
from mnist_sweep import tracking
from mnist_sweep.config import metrics, schema
from mnist_sweep.config.command import compose
from mnist_sweep.errors import RequestError, uninterrupted
from mnist_sweep.result import BEST, Result, is_run_of
from mnist_sweep.training import datasets

log = logging.getLogger("mnist_sweep.inference.ensemble")  # __name__ is __main__ here

TOP = 5
_PROGRAM = ("python", "-m", "mnist_sweep.inference.ensemble")


def members(folders: Sequence[Path], top: int) -> list[Result]:
    """The runs that answer together, the best on validation first.

    Args:
        folders: of runs, which are all taken; or of one sweep, of whose runs the best are taken.
        top: how many of a sweep's best runs.

    Raises:
        RequestError: fewer than two, or runs that do not go together.
    """
    sweeps = [folder for folder in folders if _is_sweep(folder)]
    if sweeps and len(folders) > 1:
        raise RequestError(f"{sweeps[0]}: a sweep among {len(folders)} folders; allowed: one sweep, or folders of runs")
    found = _of_sweep(sweeps[0]) if sweeps else [_of_run(folder) for folder in dict.fromkeys(folders)]
    _check_alike(found)
    found = sorted(found, key=_merit, reverse=True)[: top if sweeps else len(found)]
    if len(found) < 2:
        raise RequestError(f"{folders[0]}: {len(found)} finished run; allowed: at least two that are averaged")
    return found


def _is_sweep(folder: Path) -> bool:
    with console.usable(str(folder), "a folder that can be read"):
        return (folder / "sweep.json").is_file()


def _read(folder: Path) -> Result:
    """What a run left, from wherever it was started."""
    try:
        return replace(Result.read(folder), folder=str(folder))
    except (OSError, ValueError, TypeError) as error:
        raise RequestError(
            f"{folder}: no result.json that can be read; allowed: the folder of a finished run, or of a sweep"
        ) from error


def _of_run(folder: Path) -> Result:
    """A finished run with its checkpoint."""
    result = _read(folder)
    if result.status != "finished" or not (folder / BEST).is_file():
        raise RequestError(f"{folder}: the run is {result.status}; allowed: a finished one with its {BEST}")
    return result


def _of_sweep(folder: Path) -> list[Result]:
    """All finished runs of a sweep, its trials and their repetitions with other seeds."""
    runs = [path.parent for path in sorted(folder.parent.glob(f"{folder.name}-*/result.json"))]
    results = [_read(run) for run in runs if is_run_of(folder.name, run.name) and (run / BEST).is_file()]
    return [result for result in results if result.status == "finished"]


def _merit(result: Result) -> tuple[float, float]:
    """What members are chosen by: accuracy on validation, then loss."""
    return result.metrics["val/accuracy"], -result.metrics["val/loss"]


def _check_alike(results: Sequence[Result]) -> None:
    """Their validation images must be the same, or the choice would have seen what another member was trained on."""
    used = [console.config_of(Path(result.folder)).data for result in results]
    for key in ("name", "split_seed"):
        values = sorted({str(getattr(data, key)) for data in used})
        if len(values) > 1:
            raise RequestError(f"data.{key}={' | '.join(values)}: the runs differ; allowed: one for all")


def perform(arguments: Sequence[str]) -> int:
    """Choose, average, measure, keep."""
    parser = console.parser("ensemble", "Average the probabilities of several trained networks, chosen on validation.")
    parser.add_argument("folders", nargs="+", metavar="FOLDER", type=Path, help="of a sweep, or of runs, at least two")
    parser.add_argument("--top", type=int, default=TOP, help="how many of a sweep's best runs (default: %(default)s)")
    parser.add_argument("--name", help="of the ensemble and its folder (default: that of the first folder, -ensemble)")
    parser.add_argument(
        "--tracking-uri", metavar="URI", help="MLflow's store (default: that of the best member, if any)"
    )
    options = parser.parse_args(arguments)
    if options.top < 2:
        raise RequestError(f"--top={options.top}: allowed: at least 2")
    folders = [folder.resolve() for folder in options.folders]  # two ways to one run are one member
    name = options.name or f"{folders[0].name}-ensemble"
    if fault := schema.fault("name", name):
        raise RequestError(f"--name={name}: {fault}")
    folder = folders[0].parent / name
    with console.usable(str(folder), "a folder that can be read"):
        if folder.exists():
            raise RequestError(f"{folder}: is there already; allowed: another --name")
    chosen = members(folders, options.top)
    result = make(chosen, folder, options.tracking_uri)
    log.info(
        "%d members: val/accuracy %.4f, of the best member %.4f; test/accuracy %.4f on %s",
        len(chosen), result.metrics["val/accuracy"], _merit(chosen[0])[0], result.metrics["test/accuracy"],
        result.dataset,
    )  # fmt: skip
    print(result.path)
    return console.DONE


def make(chosen: Sequence[Result], folder: Path, tracking_uri: str | None) -> Result:
    """Put the networks together, measure them on validation and, once, on the test set, and keep the account of it.

    Args:
        chosen: finished runs, see `members`.
        folder: to be made; it is taken away again where that fails, so that the same command can be given again.
        tracking_uri: MLflow's store; None = the members' own, if they have one.

    Raises:
        RequestError: a checkpoint cannot be read, the folder not be made, or their data set is damaged or gone.
    """
    from mnist_sweep.training import trained_model as inspection

    started = time.monotonic()
    checkpoints = [Path(result.folder) / BEST for result in chosen]
    networks = [inspection.load(checkpoint) for checkpoint in checkpoints]
    config = networks[0].config
    digest = datasets.verify(config.data)
    if missing := datasets.missing(config.data):
        raise RequestError(
            f"data.root={config.data.root}: {missing[0]} is not there, but the members are measured on it; "
            "allowed: this command in the folder where they were trained, or the file put there"
        )
    with console.usable(str(folder), "a folder that can be written"):
        folder.mkdir()
    try:
        (folder / BEST).parent.mkdir()
        inspection.save_ensemble(checkpoints, folder / BEST)
        settings = _account(config, folder.parent.parent, tracking_uri)
        return _complete(chosen, folder, settings, digest, started)
    finally:
        if not (folder / "result.json").is_file():
            shutil.rmtree(folder, ignore_errors=True)


def _complete(chosen: Sequence[Result], folder: Path, settings: schema.Tracking, digest: str, started: float) -> Result:
    """The rest of `make`, from the ensemble's checkpoint to its result.

    Args:
        chosen, folder: as there.
        settings: where its account is kept.
        digest: of the data set's bytes.
        started: by the monotonic clock, in seconds.
    """
    import torch

    from mnist_sweep import run_report
    from mnist_sweep.training import data
    from mnist_sweep.training import trained_model as inspection

    ensemble = inspection.load(folder / BEST)
    assert isinstance(ensemble, inspection.Ensemble)
    config = ensemble.config
    _, validation = data.parts(config.data)
    opened = datetime.now(UTC).isoformat(timespec="seconds")
    log.info("the test set is opened (%s)", opened)
    found = _measured("val", ensemble, validation)
    ensemble.test = _measured("test", ensemble, data.test_set(config.data.name, config.data.root))
    with uninterrupted():
        tags = {"ensemble": "true", "members": " ".join(Path(result.folder).name for result in chosen)}
        account = tracking.Account(settings, folder.parent.parent, folder.name, tags=tags)
        again = f"{folder.name}-again"  # its own name is taken
        options = ["--name", again]
        if isinstance(settings, schema.MLflow) and settings != _account(config, folder.parent.parent, None):
            options += ["--tracking-uri", settings.uri]
        command = shlex.join([*_PROGRAM, *(result.folder for result in chosen), *options])
        result = Result(
            status="finished", reason=None, detail=None, objective=found.metrics["val/accuracy"],
            metrics=found.metrics | ensemble.test.metrics, best_epoch=None, epochs=0, seconds=0.0, train_seconds=0.0,
            parameters=sum(each.parameters or 0 for each in chosen), dataset=config.data.name, seed=config.seed,
            device="cpu", threads=torch.get_num_threads(), precision="32", mlflow_run_id=account.run_id, overrides=[],
            command=command, folder=str(folder), checkpoint=str(BEST),
            multiply_adds=sum(each.multiply_adds or 0 for each in chosen), test_opened_at=opened,
            confusion=found.confusion.tolist(),
        )  # fmt: skip
        try:
            account.tags({"command": command, "dataset": config.data.name, "test.opened_at": opened})
            account.metrics(found.metrics, 0)
            run_report.keep_ensemble(account, result, ensemble, validation, found, _table(chosen, result))
            run_report.keep_test(account, config, result, ensemble)
            account.file(folder / BEST, "checkpoints")
            account.end("FINISHED")
            tracking.register(settings, account.run_id, config.data.name, digest, result.metrics["test/accuracy"])
            result = replace(result, seconds=round(time.monotonic() - started, 3))
            result.write()
        except Exception as error:
            account.end("FAILED", "error", f"{type(error).__name__}: {error}")
            raise
    return result


def _measured(part: str, ensemble: Any, images: Any) -> metrics.Measured:
    """What the ensemble does on some images."""
    import numpy as np

    from mnist_sweep.config import network_shapes as shapes
    from mnist_sweep.training import trained_model as inspection

    probabilities, labels = inspection.probabilities(ensemble, images.images), images.labels.numpy()
    confusion = np.zeros((shapes.CLASSES, shapes.CLASSES), np.int64)
    np.add.at(confusion, (labels, probabilities.argmax(axis=1)), 1)
    right = np.maximum(probabilities[np.arange(len(labels)), labels].astype(np.float64), np.finfo(np.float32).tiny)
    values = {"loss": float(-np.log(right).mean()), **metrics.averages(confusion)}
    return metrics.Measured({f"{part}/{name}": value for name, value in values.items()}, confusion, probabilities)


def _account(config: schema.Config, output: Path, uri: str | None) -> schema.Tracking:
    """Where the account of an ensemble is kept: where its members' is, unless the user says where.

    Args:
        config: of a member.
        output: where the members are now, from wherever they were started; their store is where it was beside them.
        uri: what the user says.
    """
    members = config.tracking
    if uri:
        tracked = members if isinstance(members, schema.MLflow) else compose(["tracking=mlflow"]).tracking
        return tracked.model_copy(update={"uri": uri})
    if isinstance(members, schema.MLflow):
        here = members.uri.replace(f"sqlite:///{config.output}/", f"sqlite:///{output}/", 1)
        return members.model_copy(update={"uri": here})
    return members


def _table(chosen: Sequence[Result], result: Result) -> str:
    """The ensemble in Markdown: its scores, its members."""
    lines = [
        f"**val/accuracy {result.metrics['val/accuracy']:.4f}**, "
        f"**test/accuracy {result.metrics['test/accuracy']:.4f}** (opened {result.test_opened_at}): "
        f"the mean of {len(chosen)} networks' probabilities",
        "", "| member | val/accuracy | seed | command |", "|---|---:|---:|---|",
    ]  # fmt: skip
    lines += [
        f"| {Path(each.folder).name} | {each.metrics['val/accuracy']:.4f} | {each.seed} | `{each.command}` |"
        for each in chosen
    ]
    return "\n".join([*lines, "", "Again:", "", "```", result.command, "```"])


if __name__ == "__main__":
    console.leave(lambda: console.run(lambda: perform(sys.argv[1:])))
