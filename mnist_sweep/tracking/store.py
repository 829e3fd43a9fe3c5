"""MLflow's store: a client of it, the experiment in it."""

import logging
import os
import warnings
from pathlib import Path
from typing import Any

from filelock import FileLock

from mnist_sweep.config import schema


def client_of(uri: str) -> Any:
    """MLflow's client of a store, quiet and bounded in time."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # read while mlflow is imported
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"  # where only the result's path is to stand
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # a server that is down must not hold up a run
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow
    for noisy in ("mlflow", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    return mlflow.MlflowClient(tracking_uri=uri)


def is_server(uri: str) -> bool:
    """Whether a store is kept by a server of MLflow's, rather than in a database."""
    return uri.startswith(("http://", "https://"))


def opened(settings: schema.MLflow, output: Path) -> tuple[Any, str]:
    """A client and the experiment's id. Two processes that start together must not both create the database."""
    output.mkdir(parents=True, exist_ok=True)
    database = settings.uri.removeprefix("sqlite:///")  # beside which the lock lies, whatever the output
    file = output / "mlflow.db" if database == settings.uri else Path(database)
    with FileLock(file.with_name(f".{file.name}.lock")):
        client = client_of(settings.uri)
        found = client.get_experiment_by_name(settings.experiment)
        if found is not None:
            return client, str(found.experiment_id)
        # a server keeps artifacts where its own settings say
        own = not is_server(settings.uri)
        location = (output / "artifacts").resolve().as_uri() if own else None
        kind = {"mlflow.experimentKind": "custom_model_development"}  # else the UI takes it for one about agents
        return client, str(client.create_experiment(settings.experiment, artifact_location=location, tags=kind))


def active_run(client: Any, run_id: str) -> Any:
    """MLflow's run of this id; None where there is none, or it was deleted."""
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(run_id)
    except MlflowException:
        return None
    return run if run.info.lifecycle_stage == "active" else None


def history(client: Any, run_id: str, name: str) -> dict[int, set[float]]:
    """The values of a run's metric, by step."""
    found: dict[int, set[float]] = {}
    for metric in client.get_metric_history(run_id, name):
        found.setdefault(metric.step, set()).add(metric.value)
    return found


def line(error: Exception) -> str:
    """What went wrong, in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
