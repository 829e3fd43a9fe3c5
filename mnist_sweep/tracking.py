"""The account in MLflow. The only place that imports it.

A run never fails because its account does: the first error of a store ends the account of that run, with a warning.
"""

import logging
import os
import time
import warnings
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, Literal, ParamSpec

from filelock import FileLock

from mnist_sweep import schema
from mnist_sweep.errors import uninterrupted

log = logging.getLogger(__name__)

State = Literal["FINISHED", "FAILED", "KILLED"]

#: What MLflow takes in one batch, and as one value (MLflow 3.17, mlflow.utils.validation).
_BATCHES = {"params": 100, "tags": 100, "metrics": 1000}
_PARAMETER_LENGTH, _TAG_LENGTH = 6000, 8000


def _client(uri: str) -> Any:
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # read while mlflow is imported
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # a server that is down must not hold up a run
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow
    for noisy in ("mlflow", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    return mlflow.MlflowClient(tracking_uri=uri)


def _experiment(client: Any, settings: schema.MLflow, output: Path) -> str:
    """The experiment's id. Two processes that start together must not both create the database."""
    output.mkdir(parents=True, exist_ok=True)
    with FileLock(output / ".mlflow.lock"):
        found = client.get_experiment_by_name(settings.experiment)
        if found is not None:
            return str(found.experiment_id)
        # a server keeps artifacts where its own settings say
        own = not settings.uri.startswith("http")
        location = (output / "artifacts").resolve().as_uri() if own else None
        kind = {"mlflow.experimentKind": "custom_model_development"}  # else the UI takes it for one about agents
        return str(client.create_experiment(settings.experiment, artifact_location=location, tags=kind))


P = ParamSpec("P")


def _guarded(method: Callable[Concatenate["Account", P], None]) -> Callable[Concatenate["Account", P], None]:
    """The method, but that a failing store ends the account rather than the run.

    A signal waits for its end: raised in the middle of a transaction, its traceback would keep the database locked.
    """

    @wraps(method)
    def safe(account: "Account", /, *args: P.args, **kwargs: P.kwargs) -> None:
        if account._client is None:
            return
        with uninterrupted():
            try:
                method(account, *args, **kwargs)
            except Exception as error:
                account._client = None
                log.warning("tracking: MLflow failed (%s); this run goes on without its account", _line(error))

    return safe


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


class Account:
    """One run in MLflow, from its start to its end; without tracking, nothing.

    Args:
        settings: the config's ``tracking``.
        output: the folder of everything that is written; artifacts go below it where the store is a database.
        name: of the run.
        parent: MLflow's id of the parent run, or None.
        tags: that the run has from its first moment, so that it can be found if the process dies in the next.
        resume: MLflow's id of an earlier run to go on with, or None; where it is gone, there is a new one.

    Attributes:
        run_id: MLflow's id of the run; None without tracking.
        resumed: whether it is the earlier one.
    """

    def __init__(
        self,
        settings: schema.Tracking,
        output: Path,
        name: str,
        parent: str | None = None,
        tags: Mapping[str, Any] | None = None,
        resume: str | None = None,
    ) -> None:
        self.run_id: str | None = None
        self.resumed = False
        self._parameters: set[str] = set()  # that cannot be logged any more
        self._client: Any = None
        if isinstance(settings, schema.MLflow):
            try:
                self._client = _client(settings.uri)
                self.run_id = self._open(settings, output, name, parent, tags or {}, resume)
            except Exception as error:
                self._client = None
                log.warning("tracking: %s cannot be used (%s); going on without it", settings.uri, _line(error))

    def _open(
        self,
        settings: schema.MLflow,
        output: Path,
        name: str,
        parent: str | None,
        tags: Mapping[str, Any],
        resume: str | None,
    ) -> str:
        experiment = _experiment(self._client, settings, output)
        if resume is not None and (earlier := _found(self._client, resume)):
            for tag in {"reason", "detail"} & set(earlier.data.tags):  # of an end that was none
                self._client.delete_tag(resume, tag)
            for tag, value in tags.items():
                self._client.set_tag(resume, tag, str(value))
            self._client.update_run(resume, status="RUNNING")
            self.resumed, self._parameters = True, set(earlier.data.params)
            return resume
        first = {key: str(value) for key, value in tags.items()} | ({"mlflow.parentRunId": parent} if parent else {})
        return str(self._client.create_run(experiment, run_name=name, tags=first).info.run_id)

    @_guarded
    def parameters(self, values: Mapping[str, Any]) -> None:
        """Log parameters by dotted name. They cannot be changed: of a resumed run's, the first value stays."""
        from mlflow.entities import Param

        new = {key: str(value)[:_PARAMETER_LENGTH] for key, value in values.items() if key not in self._parameters}
        self._batches("params", [Param(key, value) for key, value in new.items()])

    @_guarded
    def tags(self, values: Mapping[str, Any]) -> None:
        """Set tags; None values are left out."""
        self._tag(values)

    def _tag(self, values: Mapping[str, Any]) -> None:
        from mlflow.entities import RunTag

        tags = [RunTag(key, str(value)[:_TAG_LENGTH]) for key, value in values.items() if value is not None]
        self._batches("tags", tags)

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Log an epoch's metrics in one write; the step is the epoch, counted from 1."""
        self.epochs({step: values})

    @_guarded
    def epochs(self, values: Mapping[int, Mapping[str, float]]) -> None:
        """Log the metrics of several epochs in as few writes as possible, by epoch, counted from 1."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._batches(
            "metrics", [Metric(key, value, now, step) for step, epoch in values.items() for key, value in epoch.items()]
        )

    def _batches(self, kind: str, items: list[Any]) -> None:
        size = _BATCHES[kind]
        for start in range(0, len(items), size):
            self._client.log_batch(self.run_id, **{kind: items[start : start + size]})

    @_guarded
    def figure(self, figure: Any, file: str) -> None:
        """Keep a matplotlib figure under this name (PNG)."""
        self._client.log_figure(self.run_id, figure, file, save_kwargs={"dpi": 110})

    @_guarded
    def document(self, content: Any, file: str) -> None:
        """Keep plain data under this name (.json or .yaml)."""
        self._client.log_dict(self.run_id, content, file)

    @_guarded
    def text(self, content: str, file: str) -> None:
        """Keep a text under this name."""
        self._client.log_text(self.run_id, content, file)

    @_guarded
    def file(self, path: Path, folder: str | None = None) -> None:
        """Keep a copy of a file, in a folder of the run's artifacts."""
        self._client.log_artifact(self.run_id, str(path), folder)

    @_guarded
    def end(self, state: State, reason: str | None = None, detail: str | None = None) -> None:
        """Close the run; a failure's reason and detail become tags."""
        self._tag({"reason": reason, "detail": detail})
        self._client.set_terminated(self.run_id, state)


def warm_up() -> None:
    """Import MLflow, which takes seconds."""
    _client("sqlite://")


def find_run(settings: schema.Tracking, study: str, name: str) -> str | None:
    """MLflow's id of a run of a study, the newest of this name; None where there is none."""
    if not isinstance(settings, schema.MLflow):
        return None
    with uninterrupted():
        try:
            client = _client(settings.uri)
            experiment = client.get_experiment_by_name(settings.experiment)
            if experiment is None:
                return None
            query = f"tags.study = '{study}' and attributes.run_name = '{name}'"
            order = ["attributes.start_time DESC"]
            found = client.search_runs([experiment.experiment_id], query, order_by=order, max_results=1)
        except Exception as error:
            log.warning("tracking: the earlier run %s could not be found (%s)", name, _line(error))
            return None
    return str(found[0].info.run_id) if found else None


def close_running(
    settings: schema.Tracking, study: str, reason: str, keep: str | None, state: State = "FAILED"
) -> None:
    """Close the runs of a study whose process died.

    Args:
        settings: the config's ``tracking``.
        study: as in the runs' tag of this name.
        reason: becomes a tag.
        keep: the id of the run that is alive: the sweep's own.
        state: what they become.
    """
    if not isinstance(settings, schema.MLflow):
        return
    with uninterrupted():
        try:
            client = _client(settings.uri)
            experiment = client.get_experiment_by_name(settings.experiment)
            query = f"tags.study = '{study}' and attributes.status = 'RUNNING'"
            for found in client.search_runs([experiment.experiment_id], query):
                if found.info.run_id != keep:
                    client.set_tag(found.info.run_id, "reason", reason)
                    client.set_terminated(found.info.run_id, state)
        except Exception as error:
            log.warning("tracking: the runs of a sitting that died could not be closed (%s)", _line(error))


def _found(client: Any, run_id: str) -> Any:
    """MLflow's run of this id; None where there is none, or it was deleted."""
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(run_id)
    except MlflowException:
        return None
    return run if run.info.lifecycle_stage == "active" else None
