"""A session of a sweep: open or resume the study, recover, run trials, retrain the best, write the summary."""

import contextlib
import functools
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.trial import TrialState

from mnist_sweep import hardware, tracking
from mnist_sweep.config.command import CommandLine
from mnist_sweep.errors import RequestError, RunFailure, one_line
from mnist_sweep.result import BEST, STATES, Result, Status, is_run_of, run_name
from mnist_sweep.run_folder import RunFolder
from mnist_sweep.sweep import initial_trials, record, samplers, storage, summary, winner
from mnist_sweep.sweep.candidates import Candidates
from mnist_sweep.sweep.progress import Progress
from mnist_sweep.sweep.samplers_view import reason
from mnist_sweep.sweep.space import Space
from mnist_sweep.sweep.stopping import Stopping
from mnist_sweep.sweep.study import BASELINE, IDENTITY, Study, objectives
from mnist_sweep.sweep.tuner import Tuner
from mnist_sweep.sweep.workers import Workers
from mnist_sweep.sweep.workers.resources import Resources, divide, open_workers
from mnist_sweep.training import datasets

log = logging.getLogger(__name__)

#: Study attribute: the seconds of the search that are within those of the sessions that ended.
_COUNTED = "counted_seconds"
_STATUS: dict[tracking.State, Status] = {"FINISHED": "finished", "FAILED": "failed", "KILLED": "interrupted"}


def sweep(command: CommandLine, launch: Callable[[], Workers] | None = None) -> Path:
    """Run a sweep to its total, or go on with one, then train and test the winner; the path of ``sweep.json``.

    The data set is on disk. `launch` makes the workers; None = those of the config's ``launcher``.

    Raises:
        RequestError: another process is at this sweep, or the study was begun otherwise.
        RunFailure: no trial finished, or the same failure came again and again.
        Interrupted: after everything has been recorded.
    """
    with opened(command) as session:
        return session.run(launch)


@functools.lru_cache(maxsize=1)
def prepared(command: CommandLine) -> tuple[Space, Resources, CommandLine, list[initial_trials.Initial], list[str]]:
    """Space, resources, what all trials have in common, the first trials, and what is to be said of all this.

    It follows from the command line alone. For a sweep that is checked and then run, it is found out once.

    Raises:
        RequestError: the space, the sampler or the first trials do not fit, there is no GPU, or ``sweep.storage`` is no
            URL of a database.
    """
    config = command.config
    assert config.sweep is not None
    storage.check(config)
    space, resources, goals = Space.of(command), divide(command), objectives(config)
    explained = [resources.found, *samplers.check(config.sweep, space, len(goals))]
    if space.fixed:
        explained.append(f"set on the command line, so not searched: {', '.join(space.fixed)}")
    if space.inactive:
        explained.append(f"not searched, as their conditions hold in no trial: {', '.join(space.inactive)}")
    common: dict[str, Any] = {"trainer.precision": resources.precision}
    if resources.why:
        explained.append(hardware.precision_in_words(resources.precision, resources.why))
    if not config.trainer.threads:
        common["trainer.threads"] = resources.threads
    if config.launcher.name == "ray":  # whose workers start elsewhere
        places = {key: getattr(config.data, key) for key in config.data.places}
        common |= {f"data.{key}": str(Path(place).absolute()) for key, place in places.items()}
    if config.trainer.cuda_graphs is True and not resources.gpus:  # said once, rather than by each trial
        common["trainer.cuda_graphs"] = False
        explained.append("trained without CUDA graphs: they need a GPU (trainer.cuda_graphs)")
    judged = [goal.metric for goal in goals if goal.metric in config.epoch_metrics]
    if judged and judged[0] != config.objective:  # so that the best epoch and its checkpoint go by it
        common["objective"] = judged[0]
    shared = command.without("sweep", "name", "launcher").with_(common)
    return space, resources, shared, initial_trials.first(config.sweep, space, shared), explained


@contextlib.contextmanager
def opened(command: CommandLine) -> Iterator["Session"]:
    """A session of a sweep, which no other process works on; its data set is on disk. All that can be refused has been.

    Raises:
        RequestError: as in `prepared`; another process works on this sweep; or the study was begun otherwise.
    """
    space, resources, common, first, explained = prepared(command)
    config = command.config
    assert config.sweep is not None
    folder = Path(config.output) / "runs" / config.sweep.name
    with storage.locked(config.sweep, Path(config.output)) as lease:
        new = config.sweep.name not in storage.study_names(config.sweep)
        storage.check_folders(config.sweep, folder, new=new)
        study = storage.open_study(config, space, datasets.verify(config.data), common, lease)
        if config.trainer.precision == "auto":  # all trials of a sweep have the same, whatever machine it goes on with
            precision = study.recall("precision", resources.precision)
            if precision != resources.precision:
                explained.append(f"trained in {precision}: this sweep began so (trainer.precision)")
                common = common.with_({"trainer.precision": precision})
            study.remember("precision", precision)
        folder.mkdir(parents=True, exist_ok=True)
        for line in explained:
            log.info("%s", line)
        yield Session(command, common, space, study, folder, resources, first)


def has_best(study: Study) -> bool:
    """Whether there is a trial that can win."""
    return bool(study.ranking() if study.several else study.contenders())


def report(
    command: CommandLine,
    study: Study,
    winner: dict[str, Any] | None,
    folder: Path,
    seconds: float,
    run: tracking.MLflowRun,
) -> Path | None:
    """Write ``report.html`` by what there is, see `report.report`; without a winner whose folders are gone."""
    from mnist_sweep.sweep import report as page  # and with it torch, which takes seconds

    files = [folder.parent / Path(file).parents[1].name / BEST for file in winner["checkpoints"]] if winner else []
    if gone := [str(file) for file in files if not file.is_file()]:
        log.warning("the report leaves the winner out: %s is gone", gone[0])
        winner = None
    return page.report(command, study, winner, folder, seconds, run)


@dataclass
class Session:
    """One process's work on a sweep that may be resumed."""

    command: CommandLine  # of the sweep
    common: CommandLine  # what all its trials have in common
    space: Space  # what is searched
    study: Study  # opened, and locked
    folder: Path  # of the sweep; it exists
    resources: Resources  # what each worker gets of this machine
    first: Sequence[initial_trials.Initial]  # what is tried first: parameters, and attributes with their origin

    def __post_init__(self) -> None:
        self.config = self.command.config
        assert self.config.sweep is not None
        self.settings, self.started = self.config.sweep, time.monotonic()
        self.total = samplers.total(self.settings, self.space)
        recall = self.study.recall
        killed = recall("search_seconds", 0.0) - recall(_COUNTED, 0.0)  # of sessions that could not say how they ended
        self.before: float = recall("seconds", 0.0) + max(0.0, killed)
        self.mlflow = tracking.MLflowRun(None, self.folder, self.folder.name)

    def run(self, launch: Callable[[], Workers] | None = None) -> Path:
        """Trials up to the total, then the winner, then the summary. See `sweep`."""
        state: tracking.State = "KILLED"
        chosen: dict[str, Any] | None = None
        failure: RunFailure | None = None
        try:
            with launch() if launch else open_workers(self.command, self.resources, self.common) as workers:
                self.begin(workers)
                self.tune(workers)
                if not has_best(self.study):
                    raise RunFailure("error", self._no_winner())
                chosen = winner.choose(self.command, self.common, self.study, workers)
            state = "FINISHED"
        except Exception as error:
            state = "FAILED"
            if isinstance(error, RequestError):  # what was right when the sweep began is so no more
                failure = RunFailure("error", str(error))
                raise failure from error
            failure = error if isinstance(error, RunFailure) else RunFailure("error", one_line(error))
            raise
        finally:
            path, page = self._end(state, chosen, failure)
        summary.show(self.command, self.study, chosen, self.folder, self.mlflow.page)
        if page:
            log.info("%-18s %s", "the report", page)
        return path

    def begin(self, workers: Workers) -> None:
        """Open the MLflow run, recover from an earlier session that died, queue what is tried first."""
        if self.study.counted() < self.total:
            workers.open()  # they start meanwhile
        if self.study.recall(record.BEGAN) is None:
            self.study.remember(record.BEGAN, record.now())
        RunFolder(self.folder).describe(self.config, self.command.written(portable=True))
        self._open_mlflow()
        for trial in self.study.trials(TrialState.RUNNING):
            reopened = self.study.reopen(trial.number)
            if "digest" not in trial.user_attrs:
                self.study.fail(reopened, "foreign", "another program began it")
                continue
            left = Result.found(self.folder.parent / run_name(self.settings.name, trial.number))
            if left and self.settings.seeds > 1 and left.status == "finished":  # with its first seed
                left = None
            self.study.tell(reopened, left) if left else self.study.requeue(reopened)
        if self.settings.retry_failed:
            self.study.retry()
        self._send_unsent()
        self._close_runs()
        if added := ", ".join(map(str, self.study.foreign())):
            log.warning("trials %s were not made by this program: they are neither counted nor ranked", added)
        done = self.study.counted()
        if done:
            of = "" if math.isinf(self.total) else f" of {self.total:.0f}"
            log.info("resuming the study %s: %d%s trials are done", self.settings.name, done, of)
        self.study.own = next((known[IDENTITY] for _, known in self.first if BASELINE in known), None)
        if self.study.own is None and not done:
            outside = ", ".join(self.space.outside())
            why = f"outside of sweep.space: {outside}" if outside else "it does not keep sweep.constraints"
            log.info("no baseline trial of your config; %s", why)
        there = {trial.user_attrs.get(IDENTITY) for trial in self.study.trials()}
        for parameters, known in self.first:
            if known[IDENTITY] not in there:
                self.study.enqueue(parameters, known)

    def tune(self, workers: Workers) -> None:
        """Run the trials; see `Tuner.run`."""
        spent = self.study.recall("search_seconds", 0.0)
        self.stopping = Stopping(self.settings, self.study.goals[0].direction, spent)
        candidates = Candidates(self.common, self.settings.constraints or {})
        with Progress(self.config, self.study, self.stopping, self.total, workers.size) as shown:
            try:
                Tuner(self.config, self.study, self.space, candidates, self.stopping, workers, shown, self.mlflow).run()
            finally:
                self.study.remember("search_seconds", self.stopping.seconds())

    def _no_winner(self) -> str:
        if self.study.trials(TrialState.COMPLETE):
            return "every trial broke a constraint (sweep.constraints)"
        if not self.study.counted() and (why := self.stopping.over()):
            return f"no trial was begun: {why}"
        seen = Counter((reason(trial), trial.user_attrs["detail"]) for trial in self.study.trials(TrialState.FAIL))
        return "; ".join(["no trial finished", *(f"{n} × {why}: {what}" for (why, what), n in seen.most_common(1))])

    def seconds(self) -> float:
        """That all sessions have taken."""
        return self.before + time.monotonic() - self.started

    def _open_mlflow(self) -> None:
        """The sweep's own MLflow run: a new one, or that of the earlier sessions."""
        config, study, name = self.config, self.study, self.settings.name
        tags: dict[str, Any] = {"study": name, "study.id": study.id, "role": "sweep", "mlflow.source.type": "LOCAL"}
        resumed = study.recall("mlflow_run_id")
        where = config.tracking, Path(config.output), name
        self.mlflow = tracking.MLflowRun(*where, tags=tags, resume=resumed, key=study.id)
        if self.mlflow.run_id and self.mlflow.run_id != resumed:
            study.remember("mlflow_run_id", self.mlflow.run_id)
            known = {"objective": ", ".join(goal.metric for goal in study.goals), "data": config.data.label}
            space = {f"sweep.space.{key}": drawn for key, drawn, _ in self.space.describe()}
            self.mlflow.parameters(known | space)
        self.mlflow.tags({"mlflow.source.name": self.command.shell()})
        limits = {"sweep.trials": self.settings.trials, "sweep.budget_epochs": self.settings.budget_epochs}
        machine = {f"machine.{key}": value for key, value in hardware.machine().items()}
        divided: dict[str, Any] = {"workers": self.resources.workers, "threads": self.resources.threads}
        divided |= {"state": "running", "dataset": config.data.label, "command": self.command.shell()}
        self.mlflow.tags({**limits, **divided, **machine, **tracking.versions()})
        for file in ("config.yaml", "overrides.yaml"):
            self.mlflow.file(self.folder / file)

    def _send_unsent(self) -> None:
        """Tell MLflow what it could not be told of this sweep's trials."""
        runs = [path.parent for path in self.folder.parent.glob("*/unsent.jsonl")]
        if kept := sorted(path for path in runs if is_run_of(self.folder.name, path.name)):
            from mnist_sweep import run_report  # and with it torch, which takes seconds

            uri = getattr(self.config.tracking, "uri", None)  # with its password, which no file has
            sent = [run_report.send(RunFolder(path), uri) for path in kept]
            if not all(sent):
                log.warning("tracking: MLflow lacks something of %d runs; mnist-sweep sync sends it", sent.count(False))

    def _close_runs(self) -> None:
        """End the MLflow runs of this study that have no process any more."""
        tracking.close_running(self.config.tracking, self.study.id, "interrupted", self.mlflow.run_id, "KILLED")

    def _end(
        self, state: tracking.State, chosen: dict[str, Any] | None, failure: RunFailure | None
    ) -> tuple[Path, Path | None]:
        """Write ``sweep.json`` and the report, and end the MLflow run; the two files."""
        seconds = self.seconds()
        with contextlib.suppress(RunFailure):  # the disk is full; what is possible is done
            self.study.remember("seconds", seconds)
            self.study.remember(_COUNTED, self.study.recall("search_seconds", 0.0))
        self._send_unsent()
        self._close_runs()  # a run whose worker died could not end its own MLflow run
        best = chosen["network"]["run"] if chosen and "network" in chosen else None  # not of an earlier version
        if best and (network := RunFolder(self.folder.parent / best).result()):
            tracking.crown(self.config.tracking, self.study.id, network.mlflow_run_id)
        status = _STATUS[state]
        content = record.content(self.command, self.study, chosen, self.folder) | {
            "status": status,
            "reason": failure.reason if failure else None,
            "detail": failure.detail if failure else None,
            "ended_at": record.now(),
            "seconds": round(seconds, 3),
            "mlflow_run_id": self.mlflow.run_id,
        }
        try:
            path, page = record.write(self.folder, content), None
            if state != "FINISHED" and (again := summary.retry(self.study)):
                log.info("%s", again)
            if has_best(self.study):  # also of a sweep that was interrupted
                if state == "KILLED":
                    log.info("stopping; the report is made of what there is (a second Ctrl-C ends without it)")
                page = report(self.command, self.study, chosen, self.folder, seconds, self.mlflow)
        except OSError as error:
            self.mlflow.end("FAILED", "error", one_line(error))
            raise RunFailure("error", f"{self.folder} cannot be written ({error.strerror or error})") from error
        self.mlflow.file(path)
        self.mlflow.metrics(record.sortable(content), self.study.counted())
        self.mlflow.tags({"state": STATES[status]})
        self.mlflow.tags({f"trials.{name}": count for name, count in self.study.counts().items()})
        self.mlflow.tags({f"failures.{reason}": count for reason, count in self.study.failures().items()})
        self.mlflow.end(state, failure.reason if failure else None, failure.detail if failure else None)
        return path, page
