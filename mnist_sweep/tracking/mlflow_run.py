"""A run in MLflow. Nothing here fails a run: the first error of a store ends tracking for that run, with a warning."""

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec

from mnist_sweep.config import options
from mnist_sweep.errors import one_line
from mnist_sweep.tracking.logged_model import log_model, model_of
from mnist_sweep.tracking.store import client_of, harmless, open_experiment

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

log = logging.getLogger(__name__)

State = Literal["FINISHED", "FAILED", "KILLED"]

#: The most characters of a parameter and of a tag (MLflow 3.17, mlflow.utils.validation).
_PARAMETER_LENGTH, _TAG_LENGTH = 6000, 8000

P = ParamSpec("P")


def _guarded(method: Callable[Concatenate["MLflowRun", P], None]) -> Callable[Concatenate["MLflowRun", P], None]:
    """Wrap a method so that a failing store ends tracking rather than the run; from then on it does nothing."""

    @wraps(method)
    def safe(run: "MLflowRun", /, *args: P.args, **kwargs: P.kwargs) -> None:
        if run.tracked:
            try:
                method(run, *args, **kwargs)
            except Exception as error:
                run.failed(error)

    return safe


class MLflowRun:
    """One run in MLflow, from its start to its end; without tracking, nothing.

    Metrics of one epoch have one time. MLflow keeps equal metrics once, so that a resumed run may log an epoch again.

    Args:
        settings: the config's ``tracking``; None is the same as ``tracking=none``.
        output: the folder of everything that is written; artifacts go below it where the store is a database.
        name: of the run.
        parent: MLflow's id of the parent run.
        tags: that the run has from its first moment, so that it can be found if the process dies in the next.
        resume: MLflow's id of an earlier run to go on with; where it is gone, there is a new one.

    Attributes:
        run_id: MLflow's id of the run; None without tracking.
        tracked: whether anything is kept.
    """

    def __init__(
        self,
        settings: options.Tracking | None,
        output: Path,
        name: str,
        *,
        parent: str | None = None,
        tags: Mapping[str, Any] | None = None,
        resume: str | None = None,
    ) -> None:
        self.run_id: str | None = None
        self.tracked = False
        self._earlier: Run | None = None
        self._times: dict[int, int] = {}
        self._machine: SystemMetricsMonitor | None = None
        if isinstance(settings, options.MLflow):
            with harmless(f"{settings.uri} cannot be used; going on without it"):
                self._client, experiment = open_experiment(settings, output)
                self._earlier = self._resumed(resume) if resume else None
                if self._earlier:
                    self.run_id = self._earlier.info.run_id
                    self._tag(tags or {})
                else:
                    first = {**(tags or {}), **({"mlflow.parentRunId": parent} if parent else {})}
                    text = {key: str(value) for key, value in first.items()}
                    self.run_id = self._client.create_run(experiment, run_name=name, tags=text).info.run_id
                self.tracked = True

    def _resumed(self, run_id: str) -> "Run | None":
        """Reopen an earlier run; None where there is none, or it was deleted."""
        from mlflow.exceptions import MlflowException

        try:
            earlier = self._client.get_run(run_id)
        except MlflowException:
            return None
        if earlier.info.lifecycle_stage != "active":
            return None
        for tag in {"reason", "detail"} & set(earlier.data.tags):  # of an end that was none
            self._client.delete_tag(run_id, tag)
        self._client.update_run(run_id, status="RUNNING")
        return earlier

    @_guarded
    def parameters(self, values: Mapping[str, Any]) -> None:
        """Log parameters by dotted name, at most 100. Of a resumed run's, which cannot be changed, the first stay."""
        from mlflow.entities import Param

        there = self._earlier.data.params if self._earlier else {}
        new = [Param(key, str(value)[:_PARAMETER_LENGTH]) for key, value in values.items() if key not in there]
        self._client.log_batch(str(self.run_id), params=new, synchronous=True)

    @_guarded
    def tags(self, values: Mapping[str, Any]) -> None:
        """Set tags, at most 100; None values are left out."""
        self._tag(values)

    def _tag(self, values: Mapping[str, Any]) -> None:
        from mlflow.entities import RunTag

        tags = [RunTag(key, str(value)[:_TAG_LENGTH]) for key, value in values.items() if value is not None]
        self._client.log_batch(str(self.run_id), tags=tags, synchronous=True)

    @_guarded
    def metrics(
        self, values: Mapping[str, float], step: int, *, time_ms: int | None = None, of_model: bool = False
    ) -> None:
        """Log metrics, at most 1,000.

        Args:
            values: by name.
            step: the epoch, counted from 1.
            time_ms: when the epoch ended, in milliseconds since 1970; None = at the first call for this step.
            of_model: the metrics are those of the model that the run has kept, too.
        """
        from mlflow.entities import Metric

        when = self._times.setdefault(step, time_ms or int(time.time() * 1000))
        model = model_of(self._client, str(self.run_id)) if of_model else None
        found = [Metric(key, value, when, step, model_id=model) for key, value in values.items()]
        if self._machine:
            found += [Metric(f"system/{key}", value, when, step) for key, value in _load(self._machine).items()]
        self._client.log_batch(str(self.run_id), metrics=found, synchronous=True)

    @_guarded
    def watch_machine(self) -> None:
        """From now on the machine's load is logged with each epoch's metrics, below ``system/``.

        MLflow's own thread would write to the store between our writes, and says nothing of runs of less than ten
        seconds.
        """
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        self._machine = SystemMetricsMonitor(self.run_id, tracking_uri=self._client.tracking_uri)  # type: ignore[no-untyped-call]
        _load(self._machine)  # rates are measured from here

    @_guarded
    def figure(self, figure: Any, file: str) -> None:
        """Keep a figure of matplotlib (.png) or plotly (.html) under this name."""
        self._client.log_figure(str(self.run_id), figure, file)

    @_guarded
    def document(self, content: Any, file: str) -> None:
        """Keep plain data under this name (.json or .yaml)."""
        self._client.log_dict(str(self.run_id), content, file)

    @_guarded
    def text(self, content: str, file: str) -> None:
        """Keep a text under this name."""
        self._client.log_text(str(self.run_id), content, file)

    @_guarded
    def file(self, path: Path, folder: str | None = None) -> None:
        """Keep a copy of a file, in a folder of the run's artifacts."""
        self._client.log_artifact(str(self.run_id), str(path), folder)

    @_guarded
    def table(self, columns: Mapping[str, Sequence[Any]], file: str) -> None:
        """Keep a table by its columns, as MLflow's UI shows them (.json); an earlier one of this name is replaced."""
        client, run_id = self._client, str(self.run_id)
        if file in [each.path for each in client.list_artifacts(run_id)]:  # to which MLflow would add the rows
            rows = [list(row) for row in zip(*columns.values(), strict=True)]
            client.log_dict(run_id, {"columns": list(columns), "data": rows}, file)
        else:
            client.log_table(run_id, dict(columns), file)

    @_guarded
    def note(self, markdown: str) -> None:
        """Set what MLflow's UI shows as the run's description."""
        self._tag({"mlflow.note.content": markdown})

    @_guarded
    def dataset(self, name: str, digest: str, source: Path, context: str, profile: Mapping[str, Any]) -> None:
        """Log a data set as an input of the run.

        Args:
            name: of the set.
            digest: of its bytes and of what was taken of them, at most 36 characters.
            source: the folder of its files.
            context: what it was used for: ``training`` or ``testing``.
            profile: what there is to know of it. MLflow keeps the first one of a name and digest.
        """
        from mlflow.entities import Dataset, DatasetInput, InputTag

        uri = json.dumps({"uri": str(source.resolve())})
        dataset = Dataset(name, digest, "local", uri, profile=json.dumps(dict(profile)))
        inputs = [DatasetInput(dataset, [InputTag("mlflow.data.context", context)])]
        self._client.log_inputs(str(self.run_id), inputs)

    @_guarded
    def model(self, module: Any, images: Any, checkpoint: Path, parameters: Mapping[str, str], step: int) -> None:
        """Keep a network as the run's model, unless an earlier attempt has; see `logged_model.log_model`."""
        if not (self._earlier and model_of(self._client, str(self.run_id))):
            log_model(self._client, str(self.run_id), module, images, checkpoint, parameters, step)

    def end(self, state: State, reason: str | None = None, detail: str | None = None) -> None:
        """Close the run; a failure's reason and detail become tags.

        This is tried also where something could not be logged, so that no run stays open for a picture.
        """
        self.tags({"reason": reason, "detail": detail})
        if self.run_id:
            try:
                self._client.set_terminated(self.run_id, state)
            except Exception as error:
                self.failed(error)

    def failed(self, error: Exception) -> None:
        """End tracking, with one warning."""
        if self.tracked:
            log.warning("tracking: MLflow failed (%s); this run goes on without it", one_line(error))
        self.tracked = False


def _load(machine: "SystemMetricsMonitor") -> dict[str, float]:
    """The load of processor, memory, disk, network and GPU since the last time, by MLflow's own collectors."""
    machine.collect_metrics()
    measured: dict[str, float] = machine.aggregate_metrics()
    for monitor in machine.monitors:
        monitor.clear_metrics()
    return measured


def warm_up() -> None:
    """Import MLflow, which takes seconds."""
    client_of("sqlite://")


def close_running(settings: options.Tracking, study: str, reason: str, keep: str | None, state: State) -> None:
    """Close the runs of a study whose process died.

    Args:
        settings: the config's ``tracking``.
        study: its id, as in the runs' tag ``study.id``.
        reason: becomes a tag.
        keep: the id of the run that is alive: the sweep's own.
        state: what they become.
    """
    if isinstance(settings, options.MLflow):
        with harmless("the runs of a session that died could not be closed"):
            client = client_of(settings.uri)
            experiment = client.get_experiment_by_name(settings.experiment)
            query = f"tags.`study.id` = '{study}' and attributes.status = 'RUNNING'"
            for run in client.search_runs([experiment.experiment_id], query) if experiment else []:
                if run.info.run_id != keep:
                    client.set_tag(run.info.run_id, "reason", reason)
                    client.set_terminated(run.info.run_id, state)
