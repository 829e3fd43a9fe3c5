"""MLflow's store: a client of it, the experiment in it, and what keeps its errors from a run."""

import contextlib
import getpass
import itertools
import logging
import os
import sqlite3
import urllib.parse
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import url2pathname

from filelock import FileLock

from mnist_sweep.config import options
from mnist_sweep.config.paths import database_file
from mnist_sweep.errors import one_line
from mnist_sweep.tracking.check import half_made

log = logging.getLogger(__name__)

#: Read while MLflow is imported, and at each request. A server that is down must not hold up a run.
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # where only the result's path is to stand
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # what does not get through is kept, and sent later
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "2",
}
#: Answers that stay the same when a request is sent again, but for those that a user can mend at the server.
REFUSED = set(range(400, 500)) - {401, 403, 408, 429}
#: Columns of MLflow's database with addresses of artifacts.
_ADDRESSES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)


def be_patient() -> None:
    """Let requests of this process take longer, where no training waits for them; before its first client."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")


def client_of(uri: str) -> Any:
    """MLflow's client of a store, quiet and bounded in time. The first one imports MLflow, which takes seconds."""
    follow(uri)
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow
    for noisy in ("mlflow", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    # an error of its database is raised, too, and said by whoever asked; the machine's load is left out without a word
    for doubled in ("mlflow.store.db.utils", "mlflow.system_metrics"):
        logging.getLogger(doubled).setLevel(logging.CRITICAL)
    return mlflow.MlflowClient(tracking_uri=uri)


def status_of(error: Exception) -> int:
    """The HTTP status that an error of MLflow's stands for, also where there is no server; 0 for any other."""
    from mlflow.exceptions import MlflowException

    mlflows: Any = error if isinstance(error, MlflowException) else None
    return int(mlflows.get_http_status_code()) if mlflows else 0


def user() -> str | None:
    """Who starts this, as MLflow's own clients ask; None where the system does not know."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a user without a name, as in some containers
        return None


def is_server(uri: str) -> bool:
    """Whether a store is kept by a server of MLflow's, rather than in a database."""
    return uri.startswith(("http://", "https://"))


def page_of(uri: str, server: str) -> str:
    """The address of the page of MLflow's server that shows the latest run's experiment, as a table of its runs."""
    from mlflow.entities import ViewType

    client = client_of(uri)
    experiments = [each.experiment_id for each in client.search_experiments(ViewType.ACTIVE_ONLY)]
    latest = client.search_runs(experiments, max_results=1, order_by=["attributes.start_time DESC"])
    return server + (runs_page(latest[0].info.experiment_id) if latest else "")


def runs_page(experiment: str) -> str:
    """Within MLflow's UI, the page of an experiment's runs, with the menu for training rather than for agents."""
    return f"/#/experiments/{experiment}/runs?workflowType=machine_learning"


def follow(uri: str) -> None:
    """Tell a store in a file that was copied or moved where its artifacts are now: MLflow keeps absolute addresses.

    A folder ``artifacts`` beside the file is the store's own; so is one whose old place is no more.
    """
    found = database_file(uri)
    if found is None or not (file := found.resolve()).is_file():
        return
    with contextlib.closing(sqlite3.connect(file, timeout=20, isolation_level=None)) as database:
        if not _left(database, file.parent):
            return
        with harmless(f"{file} was moved, and cannot be told so"):
            database.execute("BEGIN IMMEDIATE")
            for before in (moved := _left(database, file.parent)):  # unless another process has done it meanwhile
                addresses = (f"{before.as_uri()}/", f"{file.parent.as_uri()}/"), (f"{before}/", f"{file.parent}/")
                for (old, new), (table, column) in itertools.product(addresses, _ADDRESSES):
                    replaced = f"{column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?"
                    database.execute(f"UPDATE {table} SET {replaced}", (new, len(old) + 1, len(old), old))
            database.execute("COMMIT")
            for before in moved:
                log.info("tracking: %s has come from %s; its artifacts are found beside it", file, before)


def _left(database: sqlite3.Connection, here: Path) -> list[Path]:
    """The folders in which the store was, if it is now in this one."""
    rows: list[tuple[str | None]] = []
    with contextlib.suppress(sqlite3.Error):  # no database of MLflow's, or none at all, as its own client will say
        rows = database.execute("SELECT DISTINCT artifact_location FROM experiments").fetchall()
    paths = [Path(url2pathname(urllib.parse.urlsplit(each).path)) for (each,) in rows if each and "file:/" in each]
    lost = [path.parent for path in paths if path.name == "artifacts" and path.parent != here]
    # other experiments' artifacts are here: the store was not moved, and one that is elsewhere is so by intention
    moved = (here / "artifacts").is_dir() and here / "artifacts" not in paths
    return [folder for folder in lost if moved or not folder.is_dir()]


def open_experiment(settings: options.MLflow, output: Path) -> tuple[Any, str]:
    """A client and the experiment's id. Two processes that start together must not both create the database."""
    output.mkdir(parents=True, exist_ok=True)
    database = database_file(settings.uri)
    file = database or output / "mlflow.db"  # the lock lies beside it, whatever the output
    with FileLock(file.with_name(f".{file.name}.lock"), mode=0o666):
        if database and (not file.exists() or half_made(file)):
            part = file.with_name(f".{file.name}.part")  # else a process that is killed would leave it half made
            part.unlink(missing_ok=True)
            client_of(f"sqlite:///{part}").search_experiments()
            part.replace(file)
        client = client_of(settings.uri)
        if found := client.get_experiment_by_name(settings.experiment):
            return client, str(found.experiment_id)
        # a server keeps artifacts where its own settings say
        location = None if is_server(settings.uri) else (output / "artifacts").resolve().as_uri()
        kind = {"mlflow.experimentKind": "custom_model_development"}  # else the UI takes it for one about agents
        try:
            return client, str(client.create_experiment(settings.experiment, artifact_location=location, tags=kind))
        except Exception:
            if found := client.get_experiment_by_name(settings.experiment):  # a process elsewhere has just made it
                return client, str(found.experiment_id)
            raise


def model_of(client: Any, run_id: str | None) -> str | None:
    """MLflow's id of the model that a run has kept; None where it has none."""
    outputs = client.get_run(run_id).outputs
    models = outputs.model_outputs if outputs else []
    return str(models[-1].model_id) if models else None


def artifact(client: Any, run_id: str, file: str) -> Path | None:
    """Where an artifact of a run lies on this machine; None where it lies elsewhere, or is not there."""
    folder = local(client.get_run(run_id).info.artifact_uri)
    return path if folder and (path := folder / file).is_file() else None


def local(uri: str) -> Path | None:
    """The folder on this machine that a URI stands for; None where it stands for another place."""
    parts = urllib.parse.urlparse(uri)
    return Path(urllib.parse.unquote(parts.path)) if parts.scheme in ("", "file") else None


@contextlib.contextmanager
def harmless(what: str) -> Iterator[None]:
    """Within, an exception becomes a warning that says what could not be done."""
    try:
        yield
    except Exception as error:
        log.warning("tracking: %s (%s)", what, one_line(error))
