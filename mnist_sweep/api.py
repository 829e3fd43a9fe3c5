"""What ``import mnist_sweep`` offers: train a network, run a sweep, load a model, recognise pictures.

What is heavy is imported where it is needed, since each process of the package imports this module.
"""

import contextlib
import json
import os
import secrets
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnist_sweep.config.command import CommandLine
from mnist_sweep.config.overrides import key_of
from mnist_sweep.config.paths import expanded
from mnist_sweep.errors import Interrupted, RequestError, signals_as_flag

if TYPE_CHECKING:
    import optuna
    import pandas
    from torch import nn

    from mnist_sweep.inference.predict import Prediction
    from mnist_sweep.result import Result


def train(*overrides: str, config_dir: str | Path | None = None) -> "Result":
    """Train one network, as ``python -m mnist_sweep`` does, and measure it on the test set; or go on with that.

    With ``test=false`` the test set stays closed.

    Args:
        overrides: as on the command line: ``train("experiment=balanced", "seed=1")``.
        config_dir: a further folder of configs, as with ``--config-dir``.

    Returns:
        What came out: status, metrics, history, command, folder. Of a run that failed it says why.

    Raises:
        RequestError: the request cannot be carried out.
        KeyboardInterrupt: Ctrl-C, after everything has been recorded.
    """
    command = CommandLine.of(overrides, config_dir)
    if command.config.sweep:
        raise RequestError("sweep: these overrides are those of a sweep; allowed: mnist_sweep.sweep(…)")
    check(command)
    from mnist_sweep import run

    with _interruptible():
        return run.train(prepare(command), test=command.config.test is not False, resume=True)


@dataclass(frozen=True)
class Sweep:
    """A sweep that has come to its end."""

    folder: Path  #: holds ``sweep.json`` and the report
    best: dict[str, Any] | None  #: the trial with the best first score; None where several objectives leave a front
    winner: dict[str, Any] | None  #: the best when trained again, with its test accuracy and registered model, if any
    study: "optuna.Study"  #: Optuna's own

    def trials(self) -> "pandas.DataFrame":
        """A row for each trial: ``trial_list`` of ``sweep.json``, with ``values_…`` and ``params_…`` as columns."""
        import pandas

        content = json.loads((self.folder / "sweep.json").read_text(encoding="utf-8"))
        return pandas.json_normalize(content["trial_list"], sep="_", max_level=1)


def sweep(*overrides: str, config_dir: str | Path | None = None) -> Sweep:
    """Run a sweep, as ``python -m mnist_sweep +sweep=optuna`` does, or go on with one: ``sweep("sweep.trials=20")``.

    Raises:
        RequestError, KeyboardInterrupt: as for `train`, whose arguments these are.
        RunFailure: no trial finished, or the same failure came again and again.
    """
    chosen = any(key_of(item) == "sweep" for item in overrides)
    command = CommandLine.of(overrides if chosen else ("+sweep=optuna", *overrides), config_dir)
    if command.config.sweep and command.config.sweep.plan:
        raise RequestError("sweep.plan=true: a plan is made by the command line alone; allowed: sweep.plan=false")
    from mnist_sweep.sweep import session, storage

    session.prepared.cache_clear()  # of an earlier call: the configs and the images may have changed since
    check(command)
    with _interruptible():
        file = session.sweep(prepare(command))
    content = json.loads(file.read_text(encoding="utf-8"))
    assert command.config.sweep is not None
    return Sweep(file.parent, content["best"], content["winner"], storage.load_study(command.config.sweep))


def load(source: str | Path, tracking_uri: str | None = None) -> "nn.Module":
    """A trained network, on the CPU: images (B, C, H, W), 0 … 1, MNIST's (B, 1, 28, 28) → probabilities (B, classes).

    Its ``dataset`` is the name of the set that it was trained on, ``classes`` are the names of the classes, and
    ``data`` is the config of that set. A network of one's own, ``model=custom``, needs its code where it was.

    Args:
        source: ``models:/NAME@ALIAS``, ``models:/NAME/VERSION``, or the path of a run's best.ckpt.
        tracking_uri: MLflow's store of the model; None = ``$MLFLOW_TRACKING_URI``, else that of the runs in mlruns/.

    Raises:
        RequestError: there is no such model, or it cannot be read.
    """
    from mnist_sweep.inference.load import registered
    from mnist_sweep.training import trained_model

    in_mlflow = str(source).startswith("models:/")
    store = expanded(tracking_uri) if tracking_uri else default_store()
    model = registered(str(source), store) if in_mlflow else trained_model.read(Path(expanded(str(source))))
    data: Any = model.config.data
    network = trained_model.served(model.network, data.name)
    vars(network).update({"dataset": data.label, "classes": list(data.classes), "data": data})
    return network


def predict(network: "nn.Module", paths: Sequence[str | Path]) -> "list[Prediction]":
    """Recognise PNG and JPEG files with a network by `load`, as ``mnist-sweep predict`` does.

    Raises:
        PictureError: a file cannot be read, or is no picture of a digit.
    """
    from mnist_sweep.inference.predict import Prediction, predictions

    found: list[Prediction] = []
    for result in predictions(network, vars(network)["data"], [Path(path) for path in paths]):
        if not isinstance(result, Prediction):
            raise result
        found.append(result)
    return found


def default_store() -> str:
    """Where MLflow keeps runs and models, if nothing else is said. An empty variable counts as none."""
    return expanded(os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlruns/mlflow.db")


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Within, a signal ends the work once everything has been recorded, as a KeyboardInterrupt or a SystemExit."""
    try:
        with signals_as_flag():
            yield
    except Interrupted as error:
        raise (KeyboardInterrupt if error.exit_code == 130 else SystemExit)(error.exit_code) from error


def check(command: CommandLine) -> None:
    """Raise a RequestError for what can be known to be wrong with a request before anything is written."""
    from mnist_sweep import errors, hardware, tracking
    from mnist_sweep.run_folder import RunFolder
    from mnist_sweep.training import datasets

    config, folder = command.config, Path(command.config.output) / "runs"
    try:
        while not folder.exists():
            folder = folder.parent
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        why = f"{folder} cannot be written ({errors.why(error)})"
        raise RequestError(f"output={config.output}: {why}; allowed: a folder that can") from error
    if (start := config.trainer.init_from) and not Path(start).is_file():
        raise RequestError(f"trainer.init_from={start}: no such file; allowed: a run's checkpoints/best.ckpt")
    if not config.sweep or config.launcher.name != "ray":  # else it is the cluster that has GPUs, or none
        hardware.check_accelerator(config.trainer.accelerator)
    if config.sweep:
        from mnist_sweep.sweep import session

        session.prepared(command)
    elif config.name is not None:
        RunFolder.of(config).check(config)
    if config.metrics.extra:
        from mnist_sweep.training.own_code import check_metrics

        check_metrics(config.extra_metrics(), config.data.images.classes)
    datasets.verify(config.data)
    if config.tracking.name == "mlflow":
        tracking.check_store(config.tracking)


def prepare(command: CommandLine) -> CommandLine:
    """The command line to carry out: of a run it has a name, and its data set is on disk.

    A missing data set is downloaded. Where that fails, ``data.fallback`` takes its place, after a warning; without one,
    or where a file is damaged, a RequestError says so.
    """
    from mnist_sweep.training import datasets

    config = command.config
    used = datasets.obtain(config.data)
    if used != config.data.name:
        items = [item for item in command.overrides if key_of(item) != "data.name"]
        within = {"data.name": used} if "data.name" in command.assigned() else {}  # as data={name: mnist}
        command = CommandLine.of(items, command.config_dir).with_({"data": used, **within})
    if config.sweep is None and config.name is None:
        command = command.with_(name=f"{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}")
    return command
