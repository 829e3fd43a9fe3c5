"""The registered models: the winners of sweeps, and the champion, the best of them."""

import json
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mnist_sweep.config import options
from mnist_sweep.config.paths import database_file
from mnist_sweep.errors import RequestError, one_line
from mnist_sweep.tracking.journal import is_silent
from mnist_sweep.tracking.store import be_patient, client_of, harmless, model_of

log = logging.getLogger(__name__)

#: The alias of the best registered version.
CHAMPION = "champion"
_STORES = "sqlite:///FILE of a run or a sweep, or the address of MLflow's server"
_MADE_BY = "python -m mnist_sweep +sweep=optuna makes one"


def registered_name(dataset: str) -> str:
    """Under which name the networks for a data set are registered."""
    return "mnist_sweep" if dataset == "mnist" else f"mnist_sweep_{dataset}"


@dataclass(frozen=True)
class Measured:
    """What a model is registered with. Models are compared by validation; the test set's accuracy is only told."""

    validation: float  #: val/accuracy, the mean over `seeds`
    seeds: int
    split: str  #: the data set's digest and the seed of its division: which images these are
    test: float  #: test/accuracy of this network


def register(settings: options.Tracking, run_id: str | None, dataset: str, measured: Measured) -> dict[str, Any] | None:
    """Register the model of a run; it is the champion if it is better than the present one on the same validation set.

    `run_id` is MLflow's.

    Returns:
        ``name``, ``version``, ``champion`` (whether it is) and ``uri``; None without tracking, or where it fails.
    """
    if isinstance(settings, options.MLflow) and run_id is not None and not is_silent(settings.uri):
        name = registered_name(dataset)
        with harmless("the model could not be registered"):
            client = client_of(settings.uri)
            tags = {"val/accuracy": measured.validation, "seeds": measured.seeds, "split": measured.split}
            version = _version(client, name, run_id, {**tags, "test/accuracy": measured.test})
            champion, why = _compared(_champion(client, name), version, measured)
            if champion:
                client.set_registered_model_alias(name, CHAMPION, str(version))
            log.info("%-18s %s version %d; %s", "registered", name, version, why)
            return {"name": name, "version": version, "champion": champion, "uri": f"models:/{name}/{version}"}
    return None


def _version(client: Any, name: str, run_id: str, tags: dict[str, Any]) -> int:
    """The version that a run's model is registered as; a new one, unless an earlier session has made it."""
    if not client.search_registered_models(f"name='{name}'"):
        client.create_registered_model(name, description="The winners of sweeps; the best of them is the champion.")
    for version in client.search_model_versions(f"name='{name}'"):
        if version.run_id == run_id:
            return int(version.version)
    if (model_id := model_of(client, run_id)) is None:
        raise RuntimeError(f"run {run_id} has no model")
    source = client.get_logged_model(model_id).artifact_location  # MLflow looks models:/ID up in its default store
    known = {key: str(value) for key, value in tags.items()}
    number = client.create_model_version(name, source, run_id, tags=known, model_id=model_id).version
    # a version in a database does not know its model; the model says which versions it became, for MLflow's UI
    client.set_logged_model_tags(model_id, {"mlflow.modelVersions": json.dumps([{"name": name, "version": number}])})
    return int(number)


def _compared(present: Any, version: int, measured: Measured) -> tuple[bool, str]:
    """Whether a version is to be the champion rather than the present one, and why."""
    if present is None:
        return True, "now champion (there was none)"
    if int(present.version) == version:
        return True, "the champion"
    stays = f"version {present.version} stays champion"
    if present.tags.get("split") != measured.split:
        return False, f"{stays}: it was measured on other validation images"
    before, now = float(present.tags["val/accuracy"]), measured.validation
    if now <= before:
        return False, f"{stays}: mean val/accuracy {before:.4f}, not below {now:.4f}"
    return True, f"now champion: mean val/accuracy {now:.4f}, version {present.version} has {before:.4f}"


def _champion(client: Any, name: str) -> Any:
    """The champion's version; None where there is none, rather than where the store fails to say so."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_model_version_by_alias(name, CHAMPION)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        return None


def is_there(tracking_uri: str) -> bool:
    """Whether there is a store; of any but a file, which MLflow would make, the first request tells.

    A RequestError says that the file cannot be read, which MLflow tries for minutes, or is no database.
    """
    if (path := database_file(tracking_uri)) is None:
        return True
    try:
        with path.open("rb") as file:
            if file.read(16) in (b"SQLite format 3\0", b""):  # an empty file is a database, too
                return True
            why = "the file is no SQLite database"
    except FileNotFoundError:
        return False
    except OSError as error:
        why = str(error.strerror)
    raise RequestError(f"--tracking-uri={tracking_uri}: {why}; allowed: {_STORES}")


def _client(tracking_uri: str) -> Any:
    """The client of a store that answers; None where its file is not there. It raises as `checkpoint_of` does."""
    if not is_there(tracking_uri):
        return None
    be_patient()
    try:
        client = client_of(tracking_uri)
        client.search_registered_models(max_results=1)
    except Exception as error:  # MLflow's, and those of what it stands on
        what = f"--tracking-uri={tracking_uri}: cannot be used ({one_line(error)})"
        raise RequestError(f"{what}; allowed: {_STORES}") from error
    return client


def registered(tracking_uri: str, names: list[str]) -> str | None:
    """The address of the first of these that has a champion; None where none has. It raises as `checkpoint_of` does."""
    client = _client(tracking_uri)
    return next((f"models:/{name}@{CHAMPION}" for name in names if client and _champion(client, name)), None)


def checkpoint_of(uri: str, tracking_uri: str, folder: Path) -> Path:
    """Fetch a model, such as ``models:/mnist_sweep@champion``, into a folder; our own checkpoint in it.

    A RequestError says that there is no such store or model, or that it is not one of ours.
    """
    address = re.fullmatch(r"models:/(?P<name>[^/@]+)(@(?P<alias>[^/@]+)|/(?P<version>\d+))", uri)
    if address is None:
        raise RequestError(f"{uri}: allowed: models:/NAME@ALIAS or models:/NAME/VERSION")
    if (client := _client(tracking_uri)) is None:
        where = database_file(tracking_uri)
        raise RequestError(f"{uri}: no model is registered yet, there is no {where}; {_MADE_BY}")
    import mlflow.artifacts
    from mlflow.exceptions import MlflowException

    name, alias, number = address["name"], address["alias"], address["version"]
    try:
        found = client.get_model_version_by_alias(name, alias) if alias else client.get_model_version(name, number)
        mlflow.artifacts.download_artifacts(found.source, dst_path=str(folder), tracking_uri=tracking_uri)
    except (MlflowException, OSError) as error:
        names = ", ".join(f"models:/{each.name}@{CHAMPION}" for each in client.search_registered_models()) or "none"
        raise RequestError(f"{uri}: no such model ({one_line(error)}); registered: {names}; {_MADE_BY}") from error
    if not (files := sorted(folder.rglob("*.ckpt"))):
        raise RequestError(f"{uri}: not a model of mnist_sweep; allowed: one that a sweep registered")
    return files[0]
