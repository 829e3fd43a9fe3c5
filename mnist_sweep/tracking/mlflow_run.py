"""The account of a run in MLflow.

A run never fails because its account does: the first error of a store ends the account of that run, with a warning.
"""

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, Literal, ParamSpec

from mnist_sweep.config import schema
from mnist_sweep.errors import uninterrupted
from mnist_sweep.tracking.registry import SavedModel, has_model, link_metrics, log_model
from mnist_sweep.tracking.store import active_run, client_of, history, line, opened

log = logging.getLogger(__name__)

State = Literal["FINISHED", "FAILED", "KILLED"]

#: What MLflow takes in one batch, and as one value (MLflow 3.17, mlflow.utils.validation).
_BATCHES = {"params": 100, "tags": 100, "metrics": 1000}
_PARAMETER_LENGTH, _TAG_LENGTH = 6000, 8000


P = ParamSpec("P")


def _guarded(method: Callable[Concatenate["Account", P], None]) -> Callable[Concatenate["Account", P], None]:
    """Wrap a method so that a failing store ends the account rather than the run: all that comes is its `end`.

    A signal waits for its end: raised in the middle of a transaction, its traceback would keep the database locked.
    """

    @wraps(method)
    def safe(account: "Account", /, *args: P.args, **kwargs: P.kwargs) -> None:
        if account._client is None or (account._failed and method.__name__ != "end"):
            return
        with uninterrupted():
            try:
                method(account, *args, **kwargs)
            except Exception as error:
                if account._failed:
                    return
                account._failed = True
                log.warning("tracking: MLflow failed (%s); this run goes on without its account", line(error))

    return safe


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
        self._failed = False
        self._parameters: set[str] = set()  # that cannot be logged any more
        self._there: dict[str, Mapping[int, set[float]]] = {}  # metrics of earlier attempts, see `_earlier`
        self._client: Any = None
        self._machine: Any = None
        if isinstance(settings, schema.MLflow):
            try:
                self._client, experiment = opened(settings, output)
                self.run_id = self._open(experiment, name, parent, tags or {}, resume)
            except Exception as error:
                self._client = None
                log.warning("tracking: %s cannot be used (%s); going on without it", settings.uri, line(error))

    @property
    def tracked(self) -> bool:
        """Whether anything is kept."""
        return self._client is not None and not self._failed

    def _open(self, experiment: str, name: str, parent: str | None, tags: Mapping[str, Any], resume: str | None) -> str:
        if resume is not None and (earlier := active_run(self._client, resume)):
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

    @_guarded
    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Log metrics in one write; the step is the epoch, counted from 1. What an earlier attempt logged stays."""
        self._log({step: {name: value for name, value in values.items() if step not in self._earlier(name)}})

    @_guarded
    def epochs(self, values: Mapping[int, Mapping[str, float]]) -> None:
        """Log the metrics of several epochs in as few writes as possible, by epoch, counted from 1.

        Of an epoch that an earlier attempt did as well, nothing.
        """
        self._log(
            {
                step: {name: value for name, value in epoch.items() if value not in self._earlier(name).get(step, ())}
                for step, epoch in values.items()
            }
        )

    def _earlier(self, name: str) -> Mapping[int, set[float]]:
        """What earlier attempts have logged of a metric, by epoch: the store knows, whatever their process noted."""
        if self.resumed and name not in self._there:
            self._there[name] = history(self._client, str(self.run_id), name)
        return self._there.get(name, {})

    def _log(self, values: Mapping[int, Mapping[str, float]]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        found = [Metric(key, value, now, step) for step, epoch in values.items() for key, value in epoch.items()]
        if self._machine and found:
            found += [Metric(f"system/{key}", value, now, max(values)) for key, value in self._load().items()]
        self._batches("metrics", found)

    def _load(self) -> dict[str, float]:
        """The machine's load since the last time, by MLflow's own collectors: processor, memory, disk, network, GPU.

        Taken with an epoch's metrics rather than by MLflow's thread, which would write to the store between our own
        writes and says nothing of runs of less than ten seconds.
        """
        self._machine.collect_metrics()
        measured: dict[str, float] = self._machine.aggregate_metrics()
        for monitor in self._machine.monitors:
            monitor.clear_metrics()
        return measured

    def _batches(self, kind: str, items: list[Any]) -> None:
        size = _BATCHES[kind]
        for start in range(0, len(items), size):
            self._client.log_batch(self.run_id, **{kind: items[start : start + size]})

    @_guarded
    def figure(self, figure: Any, file: str) -> None:
        """Keep a matplotlib figure under this name (PNG); its layout is made for good."""
        if engine := figure.get_layout_engine():  # with which `savefig` would draw everything twice
            engine.execute(figure)
            figure.set_layout_engine(None)
        self._client.log_figure(self.run_id, figure, file, save_kwargs={"dpi": "figure"})

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
    def table(self, columns: Mapping[str, Sequence[Any]], file: str) -> None:
        """Keep a table by its columns, as MLflow's UI shows them (.json).

        In the form of MLflow's own `log_table`, which would add the rows to those of an interrupted attempt.
        """
        from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_ARTIFACTS

        rows = [list(row) for row in zip(*columns.values(), strict=True)]
        self._client.log_dict(self.run_id, {"columns": list(columns), "data": rows}, file)
        shown = json.loads(self._client.get_run(self.run_id).data.tags.get(MLFLOW_LOGGED_ARTIFACTS, "[]"))
        if (entry := {"path": file, "type": "table"}) not in shown:
            self._tag({MLFLOW_LOGGED_ARTIFACTS: json.dumps([*shown, entry])})

    @_guarded
    def note(self, markdown: str) -> None:
        """What MLflow's UI shows as the run's description."""
        self._tag({"mlflow.note.content": markdown})

    @_guarded
    def watch_machine(self) -> None:
        """From now on the machine's load is logged with each epoch, below ``system/``."""
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        self._machine = SystemMetricsMonitor(self.run_id, tracking_uri=self._client.tracking_uri)  # type: ignore[no-untyped-call]
        self._load()  # what a rate is measured from

    @_guarded
    def dataset(self, name: str, digest: str, source: str, context: str, profile: Mapping[str, Any]) -> None:
        """Log a data set as an input of the run.

        Args:
            name: of the set.
            digest: of its bytes and of what was taken of them, at most 36 characters.
            source: the folder of its files.
            context: what it was used for: ``training`` or ``testing``.
            profile: what there is to know of it.
        """
        from mlflow.entities import Dataset, DatasetInput, InputTag

        described = Dataset(name, digest, "local", json.dumps({"uri": source}), profile=json.dumps(profile))
        self._client.log_inputs(self.run_id, [DatasetInput(described, [InputTag("mlflow.data.context", context)])])

    @_guarded
    def model(self, saved: SavedModel, step: int) -> None:
        """Keep a model as MLflow's LoggedModel; the step is the epoch that it is from, counted from 1."""
        if not (self.resumed and has_model(self._client, str(self.run_id), step)):
            log_model(self._client, str(self.run_id), saved, step)

    @_guarded
    def link_metrics(self, names: Sequence[str], step: int) -> None:
        """Say of metrics that were logged at a step that they are those of the run's model."""
        link_metrics(self._client, str(self.run_id), names, step)

    @_guarded
    def end(self, state: State, reason: str | None = None, detail: str | None = None) -> None:
        """Close the run; a failure's reason and detail become tags.

        Tried also where something could not be logged, so that no run stays open for a picture.
        """
        try:
            self._tag({"reason": reason, "detail": detail})
        finally:
            self._client.set_terminated(self.run_id, state)


def warm_up() -> None:
    """Import MLflow, which takes seconds."""
    client_of("sqlite://")


def find_run(settings: schema.Tracking, study: str, name: str) -> str | None:
    """MLflow's id of a run of a study, by the study's id, the newest of this name; None where there is none."""
    if not isinstance(settings, schema.MLflow):
        return None
    with uninterrupted():
        try:
            found = _runs(client_of(settings.uri), settings, study, f"attributes.run_name = '{name}'")
        except Exception as error:
            log.warning("tracking: the earlier run %s could not be found (%s)", name, line(error))
            return None
    return str(found[0].info.run_id) if found else None


def close_running(settings: schema.Tracking, study: str, reason: str, keep: str | None, state: State) -> None:
    """Close the runs of a study whose process died.

    Args:
        settings: the config's ``tracking``.
        study: its id, as in the runs' tag ``study.id``.
        reason: becomes a tag.
        keep: the id of the run that is alive: the sweep's own.
        state: what they become.
    """
    if not isinstance(settings, schema.MLflow):
        return
    with uninterrupted():
        try:
            client = client_of(settings.uri)
            for found in _runs(client, settings, study, "attributes.status = 'RUNNING'"):
                if found.info.run_id != keep:
                    client.set_tag(found.info.run_id, "reason", reason)
                    client.set_terminated(found.info.run_id, state)
        except Exception as error:
            log.warning("tracking: the runs of a sitting that died could not be closed (%s)", line(error))


def _runs(client: Any, settings: schema.MLflow, study: str, condition: str) -> list[Any]:
    """The runs of a study, by its id, that a condition holds for, the newest first."""
    experiment = client.get_experiment_by_name(settings.experiment)
    if experiment is None:
        return []
    query = f"tags.`study.id` = '{study}' and {condition}"
    return list(client.search_runs([experiment.experiment_id], query, order_by=["attributes.start_time DESC"]))
