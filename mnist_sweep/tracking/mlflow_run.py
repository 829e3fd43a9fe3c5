"""A run in MLflow. Nothing here fails a run: the first error of a store ends tracking for that run, with a warning."""

import contextlib
import functools
import getpass
import importlib.metadata
import logging
import os
import platform
import subprocess
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Concatenate, Literal, ParamSpec

from mnist_sweep.config import options
from mnist_sweep.errors import one_line, without_passwords
from mnist_sweep.tracking.store import client_of, harmless, local, model_of, open_experiment, runs_page
from mnist_sweep.version import __version__

log = logging.getLogger(__name__)

State = Literal["FINISHED", "FAILED", "KILLED"]

#: What a served model needs; the versions are those that it was trained with.
_REQUIRED = ("mlflow", "torch", "numpy")
#: The packages that bear on the numbers.
_PACKAGES = ("torch", "torchvision", "pytorch-lightning", "optuna", "mlflow", "hydra-core", "numpy")

P = ParamSpec("P")


def _guarded(method: Callable[Concatenate["MLflowRun", P], None]) -> Callable[Concatenate["MLflowRun", P], None]:
    """Wrap a method so that a failing store ends tracking rather than the run; from then on it does nothing."""

    @functools.wraps(method)
    def safe(run: "MLflowRun", /, *args: P.args, **kwargs: P.kwargs) -> None:
        if run.tracked:
            try:
                method(run, *args, **kwargs)
            except Exception as error:
                run.tracked = False
                log.warning("tracking: MLflow failed (%s); this run goes on without it", one_line(error))

    return safe


class MLflowRun:
    """One run in MLflow, from its start to its end; without tracking, nothing.

    Args:
        settings: the config's ``tracking``; None is the same as ``tracking=none``.
        output: the folder of everything that is written; artifacts go below it where the store is a database.
        parent: MLflow's id of the parent run.
        tags: of the run from its first moment, so that it is found if the process dies in the next.
        resume: MLflow's id of an earlier run to go on with; where it is gone, there is a new one.
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
        self.run_id: str | None = None  #: MLflow's id of the run; None without tracking
        self.tracked = False  #: whether anything is kept
        self.page = ""  #: within MLflow's UI, of the runs of its experiment
        self._client: Any = None
        self._machine: Any = None
        self._earlier: Any = None
        if isinstance(settings, options.MLflow):
            with harmless(f"{settings.uri} cannot be used; going on without it"):
                self._client, experiment = open_experiment(settings, output)
                self.page = runs_page(experiment)
                self._earlier = self._reopened(resume) if resume else None
                known = {"mlflow.parentRunId": parent, "mlflow.user": _user(), **(tags or {})}
                first = {key: str(value) for key, value in known.items() if value is not None}
                run = self._earlier or self._client.create_run(experiment, run_name=name, tags=first)
                self.run_id, self.tracked = run.info.run_id, True

    def _reopened(self, run_id: str) -> Any:
        """An earlier run, which goes on; None where there is none, or it was deleted."""
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
        new = [Param(key, str(value)) for key, value in values.items() if key not in there]
        self._client.log_batch(self.run_id, params=new, synchronous=True)

    @_guarded
    def tags(self, values: Mapping[str, Any]) -> None:
        """Set tags, at most 100; None values are left out."""
        from mlflow.entities import RunTag

        tags = [RunTag(key, without_passwords(str(value))) for key, value in values.items() if value is not None]
        self._client.log_batch(self.run_id, tags=tags, synchronous=True)

    def note(self, markdown: str) -> None:
        """Set what MLflow's UI shows as the run's description."""
        self.tags({"mlflow.note.content": markdown})

    @_guarded
    def metrics(self, values: Mapping[str, float], step: int, *, of_model: bool = False) -> None:
        """Log metrics, at most 1,000, of an epoch, counted from 1; those `of_model` are the kept model's, too."""
        from mlflow.entities import Metric

        now, model = int(time.time() * 1000), model_of(self._client, self.run_id) if of_model else None
        found = [Metric(key, value, now, step, model_id=model) for key, value in values.items()]
        self._client.log_batch(self.run_id, metrics=found, synchronous=True)

    @_guarded
    def watch_machine(self) -> None:
        """From now on MLflow logs the load of processor, memory, disk, network and GPU every five seconds."""
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        monitor: Any = SystemMetricsMonitor
        resumed, uri = self._earlier is not None, self._client.tracking_uri
        self._machine = monitor(self.run_id, sampling_interval=5, resume_logging=resumed, tracking_uri=uri)
        self._machine.start()

    @_guarded
    def figure(self, figure: Any, file: str) -> None:
        """Keep a figure of matplotlib (.png) or plotly (.html) under this name."""
        self._client.log_figure(self.run_id, figure, file)

    @_guarded
    def document(self, content: Any, file: str) -> None:
        """Keep plain data under this name (.json or .yaml)."""
        self._client.log_dict(self.run_id, content, file)

    @_guarded
    def file(self, path: Path, folder: str | None = None) -> None:
        """Keep a copy of a file, in a folder of the run's artifacts."""
        self._client.log_artifact(self.run_id, str(path), folder)

    @_guarded
    def table(self, columns: Mapping[str, Sequence[Any]], file: str) -> None:
        """Keep a table by its columns, as MLflow's UI shows them (.json); an earlier one of this name is replaced."""
        folder = file.rpartition("/")[0]
        if file in [
            each.path for each in self._client.list_artifacts(self.run_id, folder)
        ]:  # MLflow would add the rows to it
            rows = [list(row) for row in zip(*columns.values(), strict=True)]
            self._client.log_dict(self.run_id, {"columns": list(columns), "data": rows}, file)
        else:
            self._client.log_table(self.run_id, dict(columns), file)

    @_guarded
    def model(self, module: Any, images: Any, checkpoint: Path, step: int) -> None:
        """Keep a network as the run's model: a graph without pickle, with the run's parameters and its metrics.

        Args:
            module: images (B, C, H, W), 0 … 1 → probabilities (B, classes); in evaluation mode, on the CPU.
            images: an example, an array (B, C, H, W) float32 with B > 1, so that a batch of any size is taken.
            checkpoint: our own file of the same network.
            step: the epoch that it is from, counted from 1; the metrics are those that were logged for it.
        """
        import mlflow.pytorch
        from mlflow.models import Model

        if self._earlier and model_of(self._client, self.run_id):  # kept by an attempt whose process died later
            return
        # what a package index has is 2.15.0, whichever build of it, such as 2.15.0+cpu, is here
        required = [f"{name}=={importlib.metadata.version(name).partition('+')[0]}" for name in _REQUIRED]
        outer: Any = os.environ.get("MLFLOW_TRACKING_URI")  # which MLflow sets together with its own
        mlflow.set_tracking_uri(self._client.tracking_uri)  # of the whole process: MLflow logs models by no client
        mlflow.set_experiment(experiment_id=self._client.get_run(self.run_id).info.experiment_id)  # else the first one
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*No complete tensor found.*")  # of an exported graph
                Model.log(
                    *(None, mlflow.pytorch), name="model", run_id=self.run_id, step=step, model_type="classifier",
                    pytorch_model=module, input_example=images, extra_files=[str(checkpoint)],
                    pip_requirements=required, serialization_format="pt2",
                )  # fmt: skip
        finally:
            mlflow.set_tracking_uri(outer)

    @_guarded
    def share(self, file: Path) -> None:
        """Have MLflow's copies of a file, which nobody writes to any more, take no room where they are on its disk."""
        kept = [self._client.get_run(self.run_id).info.artifact_uri]
        if model := model_of(self._client, self.run_id):
            kept.append(self._client.get_logged_model(model).artifact_location)
        for copy in [copy for folder in map(local, kept) if folder for copy in folder.rglob(file.name)]:
            link = copy.with_name(f".{copy.name}.link")
            with contextlib.suppress(OSError):
                link.hardlink_to(file)
                link.replace(copy)

    def end(self, state: State, reason: str | None = None, detail: str | None = None) -> None:
        """Close the run, also where something could not be logged; a failure's reason and detail become tags."""
        if self._machine:
            self._machine.finish()
        self.tags({"reason": reason, "detail": detail})
        if self.run_id:
            with harmless(f"the run {self.run_id} could not be closed"):
                self._client.set_terminated(self.run_id, state)


def _user() -> str | None:
    """Who starts this, as MLflow's own clients ask; None where the system does not know."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a user without a name, as in some containers
        return None


def warm_up() -> None:
    """Import MLflow, which takes seconds."""
    client_of("sqlite://")


def close_running(settings: options.Tracking, study: str, reason: str, keep: str | None, state: State) -> None:
    """Close the runs of a study, by its id, whose process died, with a reason; `keep` is the sweep's own run."""
    if isinstance(settings, options.MLflow):
        with harmless("the runs of a session that died could not be closed"):
            client = client_of(settings.uri)
            experiment = client.get_experiment_by_name(settings.experiment)
            query = f"tags.`study.id` = '{study}' and attributes.status = 'RUNNING'"
            for run in client.search_runs([experiment.experiment_id], query) if experiment else []:
                if run.info.run_id != keep:
                    client.set_tag(run.info.run_id, "reason", reason)
                    client.set_tag(run.info.run_id, "state", "failed" if state == "FAILED" else "stopped")
                    client.set_terminated(run.info.run_id, state)


def crown(settings: options.Tracking, study: str, run_id: str | None) -> None:
    """Make this run the one of its study, by its id, with the role ``winner``; an earlier one is ``final`` again."""
    if isinstance(settings, options.MLflow) and run_id is not None:
        with harmless("the winner's run could not be marked"):
            client = client_of(settings.uri)
            experiments = [client.get_run(run_id).info.experiment_id]
            for run in client.search_runs(experiments, f"tags.`study.id` = '{study}' and tags.role = 'winner'"):
                client.set_tag(run.info.run_id, "role", "final")
            client.set_tag(run_id, "role", "winner")


def delete_runs(settings: options.Tracking, study: str) -> int:
    """Delete the runs of a study, by its id, as MLflow's UI does: ``mlflow gc`` frees their space. How many there were.

    An error of MLflow's is raised where the store cannot be used.
    """
    if not isinstance(settings, options.MLflow):
        return 0
    client, deleted = client_of(settings.uri), 0
    experiment = client.get_experiment_by_name(settings.experiment)
    while runs := client.search_runs([experiment.experiment_id], f"tags.`study.id` = '{study}'") if experiment else []:
        for run in runs:  # a page of them
            client.delete_run(run.info.run_id)
        deleted += len(runs)
    return deleted


@functools.cache
def versions() -> dict[str, str]:
    """Tags: the versions of Python, of this package and of those that bear on the numbers; the checkout's commit."""
    found = {"version.python": platform.python_version(), "version.mnist_sweep": __version__}
    found |= {f"version.{package}": importlib.metadata.version(package) for package in _PACKAGES}
    try:
        _git("ls-files", "--error-unmatch", Path(__file__).name)  # installed inside somebody else's checkout?
        commit, changes = _git("rev-parse", "HEAD"), _git("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return found
    return found | {"git.commit": commit, "git.dirty": str(bool(changes)).lower(), "mlflow.source.git.commit": commit}


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
