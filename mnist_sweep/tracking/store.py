"""MLflow's store: a client of it, the experiment in it, and what keeps its errors from a run."""

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock

from mnist_sweep.config import options
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


def be_patient() -> None:
    """Let requests of this process take longer, where no training waits for them; before its first client."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")


def client_of(uri: str) -> Any:
    """MLflow's client of a store, quiet and bounded in time. The first one imports MLflow, which takes seconds."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow
    for noisy in ("mlflow", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    return mlflow.MlflowClient(tracking_uri=uri)


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


def open_experiment(settings: options.MLflow, output: Path) -> tuple[Any, str]:
    """A client and the experiment's id. Two processes that start together must not both create the database."""
    output.mkdir(parents=True, exist_ok=True)
    database = settings.uri.removeprefix("sqlite:///")  # the lock lies beside it, whatever the output
    file = output / "mlflow.db" if database == settings.uri else Path(database)
    with FileLock(file.with_name(f".{file.name}.lock"), mode=0o666):
        if database != settings.uri and (not file.exists() or half_made(file)):
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
        return client, str(client.create_experiment(settings.experiment, artifact_location=location, tags=kind))


def model_of(client: Any, run_id: str | None) -> str | None:
    """MLflow's id of the model that a run has kept; None where it has none."""
    outputs = client.get_run(run_id).outputs
    models = outputs.model_outputs if outputs else []
    return str(models[-1].model_id) if models else None


@contextlib.contextmanager
def harmless(what: str) -> Iterator[None]:
    """Within, an exception becomes a warning that says what could not be done."""
    try:
        yield
    except Exception as error:
        log.warning("tracking: %s (%s)", what, one_line(error))
