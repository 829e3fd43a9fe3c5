"""Models in MLflow: that of a run, and the registered ones with their champion."""

import contextlib
import importlib.metadata
import json
import logging
import re
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mnist_sweep.config import schema
from mnist_sweep.errors import RequestError, uninterrupted
from mnist_sweep.tracking.store import client_of, line

log = logging.getLogger(__name__)

#: The alias of the best registered version.
CHAMPION = "champion"
#: The folder within a model that holds our own checkpoint.
CHECKPOINT = "checkpoint"
#: What a served model needs; the versions are those that it was trained with.
_REQUIRED = ("mlflow", "torch", "numpy")


@dataclass(frozen=True)
class SavedModel:
    """A trained network, ready to be kept.

    Attributes:
        module: a torch module: images (B, 1, 28, 28), 0 … 1 → probabilities (B, 10); in evaluation mode, on the CPU.
        images: an input example, (B, 1, 28, 28) float32 with B > 1, so that a batch of any size is taken.
        probabilities: its output, (B, 10) float32.
        checkpoint: our own file of the same network.
        parameters: to be found by, dotted names.
    """

    module: Any
    images: Any
    probabilities: Any
    checkpoint: Path
    parameters: Mapping[str, str] = field(default_factory=dict)


def log_model(client: Any, run_id: str, saved: SavedModel, step: int) -> None:
    """Keep a model with its run: an exported graph, without pickle, with signature, example and requirements."""
    import mlflow.pytorch
    from mlflow.entities import LoggedModelOutput
    from mlflow.models import Model, infer_signature

    run = client.get_run(run_id)
    model = client.create_logged_model(
        run.info.experiment_id, "model", run_id, params=dict(saved.parameters), model_type="classifier"
    )
    try:
        with tempfile.TemporaryDirectory() as scratch, _quiet():
            folder = Path(scratch) / "model"
            described = Model(
                artifact_path=model.artifact_location, model_uuid=model.model_id, run_id=run_id, model_id=model.model_id
            )
            mlflow.pytorch.save_model(
                saved.module,
                str(folder),
                mlflow_model=described,
                signature=infer_signature(saved.images, saved.probabilities),
                input_example=saved.images,
                pip_requirements=[f"{name}=={importlib.metadata.version(name)}" for name in _REQUIRED],
                serialization_format="pt2",
            )
            (folder / CHECKPOINT).mkdir()
            (folder / CHECKPOINT / saved.checkpoint.name).write_bytes(saved.checkpoint.read_bytes())
            client.log_model_artifacts(model.model_id, str(folder))
    except BaseException:
        client.finalize_logged_model(model.model_id, "FAILED")
        raise
    client.finalize_logged_model(model.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step)])


def link_metrics(client: Any, run_id: str, names: Sequence[str], step: int) -> None:
    """Say of metrics that a run has logged at a step that they are those of its model."""
    from mlflow.entities import Metric

    if (model_id := model_of(client, run_id)) is None:
        return
    reached = [
        # with its own time, or the run would have it twice
        Metric(name, logged.value, logged.timestamp, step, model_id=model_id)
        for name in names
        for logged in client.get_metric_history(run_id, name)
        if logged.step == step
    ]
    client.log_batch(run_id, metrics=reached)


def model_of(client: Any, run_id: str) -> str | None:
    """MLflow's id of the model that a run has left; None where it has none."""
    outputs = client.get_run(run_id).outputs
    models = outputs.model_outputs if outputs else []
    return str(models[-1].model_id) if models else None


def has_model(client: Any, run_id: str, step: int) -> bool:
    """Whether a run has left a model of this epoch; one that its process died over is deleted."""
    run = client.get_run(run_id)
    whole = {output.model_id: output.step for output in (run.outputs.model_outputs if run.outputs else [])}
    for model in client.search_logged_models([run.info.experiment_id], f"source_run_id = '{run_id}'"):
        if model.model_id not in whole:
            client.delete_logged_model(model.model_id)
    return step in whole.values()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's remark on the weights of an exported graph."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*No complete tensor found.*")
        yield


def registered_name(dataset: str) -> str:
    """Under which name the networks for a data set are registered."""
    return "mnist_sweep" if dataset == "mnist" else f"mnist_sweep_{dataset}"


def register(
    settings: schema.Tracking, run_id: str | None, dataset: str, digest: str, accuracy: float
) -> dict[str, Any] | None:
    """Register a run's model; it becomes the champion if it is better than the present one on the same test set.

    Args:
        settings: the config's ``tracking``.
        run_id: MLflow's id of the run that has the model.
        dataset: its data set.
        digest: of the data set's bytes.
        accuracy: on its test set.

    Returns:
        ``name``, ``version``, ``champion`` (whether it is) and ``uri``; None without tracking, or where it fails.
    """
    if not isinstance(settings, schema.MLflow) or run_id is None:
        return None
    name = registered_name(dataset)
    with uninterrupted():
        try:
            version, champion = _register(client_of(settings.uri), name, run_id, digest, accuracy)
        except Exception as error:
            log.warning("tracking: the winner could not be registered (%s)", line(error))
            return None
    return {"name": name, "version": version, "champion": champion, "uri": f"models:/{name}/{version}"}


def _register(client: Any, name: str, run_id: str, digest: str, accuracy: float) -> tuple[int, bool]:
    from mlflow.exceptions import MlflowException

    try:
        client.get_registered_model(name)
    except MlflowException:
        client.create_registered_model(name, description="The winners of sweeps; the best of them is the champion.")
    known = [each.version for each in client.search_model_versions(f"name='{name}'") if each.run_id == run_id]
    version = known[0] if known else _version(client, name, run_id, digest, accuracy)  # of an earlier sitting, or new
    present = _alias(client, name)
    if present is None:
        why = "the first"
    elif str(present.version) == str(version):
        return int(version), True
    elif present.tags.get("dataset.digest") != digest:
        log.info("%-18s %s version %s; version %s stays champion: it was measured on another test set",
                 "registered", name, version, present.version)  # fmt: skip
        return int(version), False
    elif accuracy <= float(present.tags["test/accuracy"]):
        log.info("%-18s %s version %s; version %s stays champion: test/accuracy %.4f, not below %.4f",
                 "registered", name, version, present.version, float(present.tags["test/accuracy"]),
                 accuracy)  # fmt: skip
        return int(version), False
    else:
        why = f"test/accuracy {accuracy:.4f}, version {present.version} has {float(present.tags['test/accuracy']):.4f}"
    client.set_registered_model_alias(name, CHAMPION, version)
    log.info("%-18s %s version %s, the new champion: %s", "registered", name, version, why)
    return int(version), True


def _version(client: Any, name: str, run_id: str, digest: str, accuracy: float) -> Any:
    """Make a version of a run's model."""
    model_id = model_of(client, run_id)
    if model_id is None:
        raise RuntimeError(f"run {run_id} has no model")
    tags = {"test/accuracy": str(accuracy), "dataset.digest": digest}
    source = client.get_logged_model(model_id).artifact_location  # MLflow looks models:/ID up in its default store
    version = client.create_model_version(name, source, run_id, tags=tags, model_id=model_id).version
    # a version in a database does not know its model; the model says which versions it became, for MLflow's UI
    became = json.dumps([{"name": name, "version": version}])
    client.set_logged_model_tags(model_id, {"mlflow.modelVersions": became})
    return version


def _alias(client: Any, name: str) -> Any:
    """The champion's version; None where there is none."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_model_version_by_alias(name, CHAMPION)
    except MlflowException:
        return None


#: What a SQLite database begins with (https://www.sqlite.org/fileformat.html); an empty file is one, too.
_SQLITE = b"SQLite format 3\0"
_STORES = "sqlite:///FILE of a run or a sweep, or the address of MLflow's server"


def is_there(tracking_uri: str) -> bool:
    """Whether there is a store; of any but a file, which MLflow would make, the first request tells.

    Raises:
        RequestError: the file cannot be read, which MLflow tries for minutes, or is no database.
    """
    if not tracking_uri.startswith("sqlite:///"):
        return True
    try:
        with Path(tracking_uri.removeprefix("sqlite:///")).open("rb") as file:
            head = file.read(len(_SQLITE))
    except FileNotFoundError:
        return False
    except OSError as error:
        raise RequestError(f"--tracking-uri={tracking_uri}: {error.strerror}; allowed: {_STORES}") from error
    if head not in (_SQLITE, b""):
        raise RequestError(f"--tracking-uri={tracking_uri}: the file is no SQLite database; allowed: {_STORES}")
    return True


def _answering(tracking_uri: str) -> Any:
    """The client of a store that answers.

    Raises:
        RequestError: it does not, or there can be no such store.
    """
    try:
        client = client_of(tracking_uri)
        client.search_registered_models(max_results=1)
    except Exception as error:  # MLflow's, and those of what it stands on
        said = f"--tracking-uri={tracking_uri}: cannot be used ({line(error)})"
        raise RequestError(f"{said}; allowed: {_STORES}") from error
    return client


def checkpoint_of(uri: str, tracking_uri: str, folder: Path) -> Path:
    """Fetch the checkpoint of a model in MLflow.

    Args:
        uri: such as ``models:/mnist_sweep@champion`` or ``models:/mnist_sweep/3``.
        tracking_uri: of the store.
        folder: where to put it.

    Raises:
        RequestError: there is no such store or model, or it is not one of ours.
    """
    makes = "python -m mnist_sweep +sweep=optuna makes one"
    if not is_there(tracking_uri):
        database = tracking_uri.removeprefix("sqlite:///")
        raise RequestError(f"{uri}: no model is registered yet, there is no {database}; {makes}")
    client = _answering(tracking_uri)
    from mlflow.exceptions import MlflowException

    try:
        with uninterrupted():
            found = _download(client, uri, folder)
    except (MlflowException, OSError) as error:
        names = ", ".join(f"models:/{each.name}@{CHAMPION}" for each in client.search_registered_models()) or "none"
        raise RequestError(f"{uri}: no such model ({line(error)}); registered: {names}; {makes}") from error
    files = sorted(Path(found).rglob("*.ckpt"))
    if not files:
        raise RequestError(f"{uri}: not a model of mnist_sweep; allowed: one that a sweep registered")
    return files[0]


_ADDRESS = re.compile(r"models:/(?P<name>[^/@]+)(@(?P<alias>[^/@]+)|/(?P<version>\d+))")


def _download(client: Any, uri: str, folder: Path) -> str:
    """Fetch a model's checkpoint by the store that was named; MLflow itself would ask its default one."""
    import mlflow.artifacts

    address = _ADDRESS.fullmatch(uri)
    if address is None:
        raise RequestError(f"{uri}: allowed: models:/NAME@ALIAS or models:/NAME/VERSION")
    name, alias, version = address["name"], address["alias"], address["version"]
    found = client.get_model_version_by_alias(name, alias) if alias else client.get_model_version(name, version)
    return str(
        mlflow.artifacts.download_artifacts(
            f"{found.source}/{CHECKPOINT}", dst_path=str(folder), tracking_uri=client.tracking_uri
        )
    )


def registered(tracking_uri: str, names: list[str]) -> str | None:
    """The address of the first of these that has a champion; None where none has.

    Raises:
        RequestError: the store cannot be used.
    """
    if not is_there(tracking_uri):
        return None
    client = _answering(tracking_uri)
    return next((f"models:/{name}@{CHAMPION}" for name in names if _alias(client, name)), None)
