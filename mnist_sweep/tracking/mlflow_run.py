"""A run in MLflow. Nothing here fails a run: what a store does not take is kept beside it, and sent later."""

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from mnist_sweep.config import options
from mnist_sweep.errors import one_line, without_passwords
from mnist_sweep.tracking import logged_model, store
from mnist_sweep.tracking.journal import Journal, is_silent, leave_alone
from mnist_sweep.tracking.store import client_of, harmless, model_of, open_experiment, runs_page

log = logging.getLogger(__name__)

State = Literal["FINISHED", "FAILED", "KILLED"]

#: What a call raises whose file is gone, or whose arguments are damaged.
_DAMAGED = (FileNotFoundError, KeyError, TypeError)
#: The tag by which MLflow's UI finds tables.
_TABLES = "mlflow.loggedArtifacts"


class MLflowRun:
    """One run in MLflow, from its start to its end; without tracking, nothing.

    Calls that do not get through are kept in the run's folder, and sent in their order, once, when one gets through.
    Nobody waits longer than for one request of two seconds.

    Args:
        settings: the config's ``tracking``; None is the same as ``tracking=none``.
        output: the folder of everything that is written; artifacts go below it where the store is a database.
        parent: MLflow's id of the parent run; where it is not known, that of the sweep with the same ``study.id``.
        tags: of the run from its first moment, so that it is found if the process dies in the next.
        resume: MLflow's id of an earlier run to go on with; where it is gone, there is a new one.
        key: by which a run is found that was made, but whose id nobody noted.
        folder: of the run; None = the one of its name below the output.
        ended: the run is only completed, and stays as it ended.
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
        key: str | None = None,
        folder: Path | None = None,
        ended: bool = False,
    ) -> None:
        self.tracked = isinstance(settings, options.MLflow)  #: whether anything is kept
        self.run_id: str | None = None  #: MLflow's id of the run; None where there is none yet
        self.page = ""  #: within MLflow's UI, of the runs of its experiment
        self.waited = 0.0  #: seconds that MLflow has taken
        self._settings, self._output, self._ended, self._warned = settings, output, ended, False
        self._client: Any = None  # None until the store has answered
        self._machine: Any = None
        self._earlier: Any = None
        self._over = False  # whether an end has been told
        self._journal = Journal(folder or output / "runs" / name)
        if self.tracked:
            before = self._journal.run()
            key = before.get("tags", {}).get("key", key)  # by which the run may have been made already
            known = {"mlflow.parentRunId": parent, "key": key, **(tags or {})}
            known["mlflow.user"] = store.user()
            first = {name: str(value) for name, value in known.items() if value is not None}
            self.run_id, started = resume or before.get("resume"), before.get("started", _now())
            self._made_of = {"name": name, "tags": {**before.get("tags", {}), **first}, "started": started}
            self._send("begin")

    def _send(self, call: str, now: Callable[[], None] | None = None, **arguments: Any) -> bool:
        """Whether MLflow is told, `now` or by `_perform`, after all that it had not been; else the call is kept."""
        if not self.tracked:
            return False
        started = time.monotonic()
        try:
            if self._told(call, now, arguments):
                return True
            self._journal.add(call, arguments, {**self._made_of, "resume": self.run_id})
        except OSError as error:
            self.tracked = False
            log.warning("tracking: nothing more is kept of this run: %s", one_line(error))
        finally:
            self.waited += time.monotonic() - started
        return False

    def _told(self, call: str, now: Callable[[], None] | None, arguments: dict[str, Any]) -> bool:
        assert isinstance(self._settings, options.MLflow)
        if is_silent(self._settings.uri):
            return False
        try:
            self._connect()
            if self._journal.file.exists():
                self._journal.send(self._perform)
        except Exception as error:
            self._failed(error)
            return False
        try:
            if now:
                now()
            else:
                self._perform(call, arguments)
        except Exception as error:
            return self._refused(call, error) or self._failed(error)
        return True

    def flush(self, model: Callable[[], tuple[Any, Any, Path, int]] | None = None) -> bool:
        """Send what has been kept; whether nothing is left. `model` gives the arguments of the method, if needed."""
        try:
            self._connect()
            return self._journal.send(lambda call, arguments: self._perform(call, arguments, model))
        except Exception as error:
            return self._failed(error)

    def _failed(self, error: Exception) -> bool:
        assert isinstance(self._settings, options.MLflow)
        leave_alone(self._settings.uri)
        if not self._warned:
            where = f"kept in {self._journal.file} and sent later"
            log.warning("tracking: MLflow failed (%s); what it is not told is %s", one_line(error), where)
        self._warned = True
        return False

    @staticmethod
    def _refused(call: str, error: Exception) -> bool:
        """Whether to send a call again is of no use; that it is given up is said."""
        status = store.status_of(error)
        ours = isinstance(error, _DAMAGED)
        if call == "model":  # a network that torch cannot export; the errors of a store are of these two kinds
            ours = not status and not isinstance(error, OSError)
        if status not in store.REFUSED and not ours:
            return False
        why = "its server is of MLflow 2, which keeps none" if (call, status) == ("model", 404) else one_line(error)
        log.warning("tracking: MLflow does not take the %s of this run (%s)", call, why)
        return True

    def _connect(self) -> None:
        """Open the store, and find or make the run in it."""
        if self._client:
            return
        assert isinstance(self._settings, options.MLflow)
        client, experiment = open_experiment(self._settings, self._output)
        self.page, known = runs_page(experiment), self._made_of
        self._client = client  # for the two searches
        try:
            self._earlier = (self.run_id and self._reopened(self.run_id)) or self._found(experiment)
            if self._earlier:
                self.run_id = self._earlier.info.run_id
                return
            tags, started = known["tags"], known["started"]
            self.run_id = client.create_run(experiment, started, dict(tags), known["name"]).info.run_id
            if study := tags.get("study.id"):
                self._adopt(experiment, study, tags.get("role"))
        except BaseException:
            self._client = None
            raise

    def _found(self, experiment: str) -> Any:
        """The run with this one's key, whose maker has not noted its id."""
        key = self._made_of["tags"].get("key")
        runs = self._client.search_runs([experiment], f"tags.key = '{key}'", max_results=1) if key else []
        return runs[0] if runs else None

    def _adopt(self, experiment: str, study: str, role: str | None) -> None:
        """Make the sweep's run the parent of those that were made while it was not there."""
        if role != "sweep" and "mlflow.parentRunId" in self._made_of["tags"]:
            return
        parent, children = self.run_id, [self.run_id]
        runs = self._client.search_runs([experiment], f"tags.`study.id` = '{study}'")
        if role == "sweep":
            children = [run.info.run_id for run in runs if run.data.tags.get("role") != "sweep"]
        else:
            parent = next((run.info.run_id for run in runs if run.data.tags.get("role") == "sweep"), None)
        for child in children if parent else ():
            self._client.set_tag(child, "mlflow.parentRunId", parent)

    def _reopened(self, run_id: str) -> Any:
        """An earlier run; None where there is none, or it was deleted."""
        try:
            earlier = self._client.get_run(run_id)
        except Exception as error:
            if store.status_of(error) not in store.REFUSED:
                raise
            return None
        return earlier if earlier.info.lifecycle_stage == "active" else None

    def _forget_end(self, told: Collection[str]) -> None:
        """Remove the tags of an earlier attempt's end that are not told again."""
        tags = self._client.get_run(self.run_id).data.tags if self._earlier or self._over else ()
        for tag in ({"reason", "detail"} - {*told}) & {*tags}:
            self._client.delete_tag(self.run_id, tag)

    def _perform(
        self, call: str, known: dict[str, Any], model: Callable[[], tuple[Any, Any, Path, int]] | None = None
    ) -> bool:
        """Carry out a call; False where it has to wait for a model."""
        from mlflow.entities import Metric, Param, RunTag

        client, run_id = self._client, self.run_id
        try:
            match call:
                case "begin" if (self._earlier or self._over) and not self._ended:
                    self._forget_end(told=())
                    client.update_run(run_id, status="RUNNING")
                case "parameters":
                    there = self._earlier.data.params if self._earlier else {}
                    new = [Param(key, value) for key, value in known["values"].items() if key not in there]
                    client.log_batch(run_id, params=new, synchronous=True)
                case "tags":
                    tags = [RunTag(key, value) for key, value in known["values"].items()]
                    client.log_batch(run_id, tags=tags, synchronous=True)
                case "metrics":
                    of = model_of(client, run_id) if known["of_model"] else None
                    at = known["at"], known["step"]
                    found = [Metric(key, value, *at, model_id=of) for key, value in known["values"].items()]
                    client.log_batch(run_id, metrics=found, synchronous=True)
                case "file":
                    client.log_artifact(run_id, str(self._journal.folder / known["path"]), known["folder"])
                case "table":
                    self._log_table(known["columns"], known["file"])
                case "model" if not model:
                    return False
                case "model" if model:
                    try:
                        made = model()
                    except Exception as error:  # its checkpoint or its images are gone, which is no fault of MLflow's
                        log.warning("tracking: the model of this run cannot be made (%s)", one_line(error))
                        return False
                    self._log_model(*made)
                case "end":
                    self._forget_end(known["told"])
                    client.set_terminated(run_id, known["state"], known["at"])
                    self._over = True
        except Exception as error:
            if not self._refused(call, error):
                raise
        return True

    def parameters(self, values: Mapping[str, Any]) -> None:
        """Log parameters by dotted name, at most 100. Of a resumed run's, which cannot be changed, the first stay."""
        self._send("parameters", values={key: str(value) for key, value in values.items()})

    def tags(self, values: Mapping[str, Any]) -> None:
        """Set tags, at most 100; None values are left out."""
        found = {key: without_passwords(str(value)) for key, value in values.items() if value is not None}
        self._send("tags", values=found)

    def note(self, markdown: str) -> None:
        """Set what MLflow's UI shows as the run's description."""
        self.tags({"mlflow.note.content": markdown})

    def metrics(self, values: Mapping[str, float], step: int, *, of_model: bool = False) -> None:
        """Log metrics, at most 1,000, of an epoch, counted from 1; those `of_model` are the kept model's, too."""
        self._send("metrics", values=dict(values), step=step, of_model=of_model, at=_now())

    def watch_machine(self) -> None:
        """From now on MLflow logs the load of processor, memory, disk, network and GPU every five seconds."""
        if self._client and self.run_id:
            with harmless("the machine is not watched"):
                from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

                monitor: Any = SystemMetricsMonitor
                resumed, uri = self._earlier is not None, self._client.tracking_uri
                self._machine = monitor(self.run_id, sampling_interval=5, resume_logging=resumed, tracking_uri=uri)
                self._machine.start()

    def figure(self, figure: Any, file: str) -> None:
        """Keep a figure of matplotlib (.png) or plotly (.html) under this name."""
        html = file.endswith(".html")
        self._made(file, lambda path: figure.write_html(path, include_plotlyjs="cdn") if html else figure.savefig(path))

    def document(self, content: Any, file: str) -> None:
        """Keep plain data under this name (.json)."""
        self._made(file, lambda path: path.write_text(json.dumps(content, indent=2), encoding="utf-8"))

    def _made(self, file: str, write: Callable[[Path], Any]) -> None:
        """Keep a file that is written for this."""
        if self.tracked:
            path = self._journal.files / file
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                write(path)
            except OSError as error:  # the disk is full, which whoever writes the result will say
                log.warning("tracking: %s cannot be kept (%s)", file, one_line(error))
                return
            if self.file(path, file.rpartition("/")[0] or None):
                self._journal.drop(path)

    def file(self, path: Path, folder: str | None = None) -> bool:
        """Keep a copy of a file, in a folder of the run's artifacts; whether MLflow has it now."""
        return self._send("file", path=os.path.relpath(path, self._journal.folder), folder=folder)

    def table(self, columns: Mapping[str, Sequence[Any]], file: str) -> None:
        """Keep a table by its columns, as MLflow's UI shows them (.json); an earlier one of this name is replaced."""
        self._send("table", columns={name: list(values) for name, values in columns.items()}, file=file)

    def _log_table(self, columns: Mapping[str, Sequence[Any]], file: str) -> None:
        """As MLflow's own `log_table`, which adds rows to a table that is there, and needs a server of MLflow 3."""
        rows = [list(row) for row in zip(*columns.values(), strict=True)]
        self._client.log_dict(self.run_id, {"columns": list(columns), "data": rows}, file)
        shown = self._client.get_run(self.run_id).data.tags.get(_TABLES, "[]")
        if (table := {"path": file, "type": "table"}) not in json.loads(shown):
            self._client.set_tag(self.run_id, _TABLES, json.dumps([*json.loads(shown), table]))

    def model(self, module: Any, images: Any, checkpoint: Path, step: int) -> None:
        """Keep a network as the run's model: a graph without pickle, with the run's parameters and its metrics.

        Args:
            module: images (B, C, H, W), 0 … 1 → probabilities (B, classes); in evaluation mode, on the CPU.
            images: an example, an array (B, C, H, W) float32 with B > 1, so that a batch of any size is taken.
            checkpoint: our own file of the same network.
            step: the epoch that it is from, counted from 1; the metrics are those that were logged for it.
        """
        self._send("model", now=lambda: self._log_model(module, images, checkpoint, step))

    def _log_model(self, *model: Any) -> None:
        if not (self._earlier and model_of(self._client, self.run_id)):  # kept by an attempt whose process died later
            logged_model.keep(self._client, str(self.run_id), *model)

    def share(self, file: Path) -> None:
        """Have MLflow's copies of a file, which nobody writes to any more, take no room where they are on its disk."""
        if self._client and not self._journal.file.exists():
            with harmless("the checkpoint is on disk twice"):
                logged_model.share(self._client, str(self.run_id), file)

    def end(self, state: State, reason: str | None = None, detail: str | None = None) -> None:
        """Close the run, also where something could not be logged; a failure's reason and detail become tags."""
        if self._machine:  # it may be asking a server that does not answer
            ending = threading.Thread(target=self._machine.finish, daemon=True)
            ending.start()
            ending.join(timeout=2)
        told = {"reason": reason, "detail": detail}
        self.tags(told)
        self._send("end", state=state, at=_now(), told=[tag for tag, text in told.items() if text is not None])


def _now() -> int:
    return int(time.time() * 1000)  # milliseconds since 1970


def warm_up() -> None:
    """Import MLflow, which takes seconds."""
    client_of("sqlite://")
