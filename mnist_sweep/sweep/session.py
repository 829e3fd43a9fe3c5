"""A session of a sweep: open or resume the study, recover, run trials, retrain the best, write the summary."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.trial import TrialState

from mnist_sweep import tracking
from mnist_sweep.config import metrics, schema
from mnist_sweep.config.command import CommandLine
from mnist_sweep.errors import RequestError, RunFailure, one_line
from mnist_sweep.result import Result, run_name
from mnist_sweep.sweep import initial_trials, lock, samplers, summary, winner
from mnist_sweep.sweep.candidates import Candidates
from mnist_sweep.sweep.progress import Progress
from mnist_sweep.sweep.space import Space
from mnist_sweep.sweep.stopping import Stopping
from mnist_sweep.sweep.storage import open_study
from mnist_sweep.sweep.study import BASELINE, IDENTITY, Study, objectives
from mnist_sweep.sweep.tuner import Tuner
from mnist_sweep.sweep.workers import Workers
from mnist_sweep.sweep.workers.resources import Resources, divide, open_workers
from mnist_sweep.training import datasets

log = logging.getLogger(__name__)


def sweep(command: CommandLine, launch: Callable[[], Workers] | None = None) -> Path:
    """Run a sweep to its total, or go on with one, then train and test the winner.

    Args:
        command: of the sweep; its data set is on disk.
        launch: makes the workers; None = those of the config's ``launcher``.

    Returns:
        The path of ``sweep.json``.

    Raises:
        RequestError: another process is at this sweep, or the study was begun otherwise.
        RunFailure: no trial finished, or the same failure came again and again.
        Interrupted: after everything has been recorded.
    """
    with opened(command) as session:
        return session.run(launch)


@contextlib.contextmanager
def opened(command: CommandLine) -> Iterator["Session"]:
    """A session of a sweep, which no other process works on. All that can be refused has been.

    Args:
        command: of the sweep; its data set is on disk.

    Raises:
        RequestError: another process is at this sweep, the study was begun otherwise, or there is no GPU.
    """
    config = command.config
    assert config.sweep is not None
    space, resources = Space.of(command), divide(command)
    explained = samplers.check(config.sweep, space, len(objectives(config)))
    shared = common(command, resources)
    first = initial_trials.first(config.sweep, space, shared)
    output = Path(config.output)
    folder = output / "runs" / config.sweep.name
    with lock.locked(config.sweep, output):
        study = open_study(config, space, datasets.verify(config.data))
        folder.mkdir(parents=True, exist_ok=True)
        for line in [*explained, *_explained(config, resources)]:
            log.info("%s", line)
        yield Session(command, shared, space, study, folder, resources, first)


def common(command: CommandLine, resources: Resources) -> CommandLine:
    """What all trials of a sweep have in common.

    Args:
        command: of the sweep.
        resources: what a worker gets; the config's own ``trainer.threads`` goes before.
    """
    config = command.config
    values: dict[str, Any] = {"trainer.precision": resources.precision}
    judged = [goal.metric for goal in objectives(config) if goal.metric in metrics.EPOCH_METRICS]
    if judged and judged[0] != config.objective:  # so that the best epoch and its checkpoint go by it
        values["objective"] = judged[0]
    if not config.trainer.threads:
        values["trainer.threads"] = resources.threads
    if config.trainer.cuda_graphs is True and not resources.gpus:  # said once, rather than by each trial
        values["trainer.cuda_graphs"] = False
    return command.without("sweep", "name", "launcher").with_(values)


def _explained(config: schema.Config, resources: Resources) -> Iterator[str]:
    """What is worth knowing before a sweep."""
    if resources.why:
        yield f"trained in {resources.precision}: {resources.why} (trainer.precision)"
    if config.trainer.cuda_graphs is True and not resources.gpus:
        yield "trained without CUDA graphs: they need a GPU (trainer.cuda_graphs)"
    for goal in objectives(config):
        if goal.direction != metrics.TRIAL_METRICS[goal.metric]:
            yield f"sweep.objectives: {goal.metric} is to be {goal.direction}d, the worse of its two directions"


@dataclass
class Session:
    """One process's work on a sweep that may be resumed.

    Attributes:
        command: of the sweep.
        common: what all its trials have in common.
        space: what is searched.
        study: opened, and locked.
        folder: of the sweep; it exists.
        resources: what each worker gets of this machine.
        first: what the study tries first: parameters, and attributes that say where they come from.
    """

    command: CommandLine
    common: CommandLine
    space: Space
    study: Study
    folder: Path
    resources: Resources
    first: Sequence[initial_trials.First]

    def __post_init__(self) -> None:
        self.config = self.command.config
        assert self.config.sweep is not None
        self.settings = self.config.sweep
        self.started = time.monotonic()
        self.mlflow = tracking.MLflowRun(None, self.folder, self.folder.name)
        spent = self.study.recall("search_seconds", 0.0)
        self.stopping = Stopping(self.settings, self.study.goals[0].direction, spent)

    def run(self, launch: Callable[[], Workers] | None = None) -> Path:
        """Trials up to the total, then the winner, then the summary; the path of ``sweep.json``. See `sweep`."""
        state: tracking.State = "KILLED"
        chosen: dict[str, Any] | None = None
        page: Path | None = None
        failure: RunFailure | None = None
        try:
            with launch() if launch else open_workers(self.command, self.resources, self.common) as workers:
                self.begin(workers)
                self.tune(workers)
                if not self.study.ranking():
                    raise RunFailure("error", self._nothing())
                chosen = winner.choose(self.command, self.study, workers)
            from mnist_sweep.sweep.report import report  # and with it torch, which takes seconds

            page = report(self.command, self.study, chosen, self.folder, self._seconds(), self.mlflow)
            state = "FINISHED"
        except RunFailure as error:
            failure = error
            raise
        except RequestError as error:  # what was right when the sweep began is so no more
            failure = RunFailure("error", str(error))
            raise failure from error
        except Exception as error:
            failure = RunFailure("error", one_line(error))
            raise
        finally:
            path = self._end("FAILED" if failure else state, chosen, failure)
        summary.show(self.command, self.study, chosen, self.folder)
        if page:
            log.info("%-18s %s", "the report", page)
        return path

    def begin(self, workers: Workers) -> None:
        """Open the MLflow run, recover from an earlier session that died, queue what is tried first.

        Args:
            workers: start meanwhile, if there is something left to do.
        """
        if self.study.counted() < self._total():
            workers.open()
        self._open_mlflow()
        for trial in self.study.trials(TrialState.RUNNING):
            asked = self.study.reopen(trial.number)
            if result := Result.found(self.folder.parent / run_name(self.settings.name, trial.number)):
                self.study.tell(asked, result)
            else:
                self.study.requeue(asked)
        self._close_runs()
        self._queue()

    def tune(self, workers: Workers) -> None:
        """Run the trials."""
        self.stopping.begin()
        candidates = Candidates(self.common, self.settings.constraints or {})
        with Progress(self.config, self.study, self.stopping, self._total()) as progress:
            tuner = Tuner(
                self.config, self.study, self.space, candidates, self.stopping, workers, progress, self.mlflow
            )
            try:
                tuner.run()
            finally:
                self.study.remember("search_seconds", self.stopping.seconds())

    def _total(self) -> int:
        return samplers.total(self.settings, self.space)

    def _nothing(self) -> str:
        """Why there is no trial that could win."""
        if self.study.trials(TrialState.COMPLETE):
            return "no trial keeps the constraints (sweep.constraints)"
        if not self.study.counted() and (why := self.stopping.over()):
            return f"no trial was begun: {why}"
        return f"no trial finished; {self.study.frequent_failure()}"

    def _seconds(self) -> float:
        """Of all sessions."""
        return float(self.study.recall("seconds", 0.0)) + time.monotonic() - self.started

    def _end(self, state: tracking.State, chosen: dict[str, Any] | None, failure: RunFailure | None) -> Path:
        """Write ``sweep.json`` and end the MLflow run."""
        seconds = self._seconds()
        self.study.remember("seconds", seconds)
        if state != "FINISHED":  # a run whose worker died could not end its own MLflow run
            self._close_runs()
        path = summary.write(self.config, self.study, chosen, self.folder, seconds, self.mlflow.run_id)
        self.mlflow.file(path)
        self.mlflow.tags({f"trials.{state}": count for state, count in self.study.counts().items()})
        self.mlflow.tags({f"failures.{reason}": count for reason, count in self.study.failures().items()})
        self.mlflow.end(state, failure.reason if failure else None, failure.detail if failure else None)
        return path

    def _open_mlflow(self) -> None:
        """The sweep's own MLflow run: a new one, or that of the earlier sessions."""
        study, settings = self.study, self.settings
        resumed = study.recall("mlflow_run_id")
        self.mlflow = tracking.MLflowRun(
            self.config.tracking,
            Path(self.config.output),
            settings.name,
            tags={"study": settings.name, "study.id": study.id},
            resume=resumed,
        )
        if self.mlflow.run_id is None:
            return
        if self.mlflow.run_id != resumed:
            self.mlflow.parameters(
                {"objective": ", ".join(goal.metric for goal in study.goals), "data": self.config.data.name}
                | {f"sweep.space.{key}": drawn for key, drawn, _ in self.space.describe()}
            )
            study.remember("mlflow_run_id", self.mlflow.run_id)
        done = study.trials(TrialState.COMPLETE, TrialState.PRUNED)
        if untracked := sum(trial.user_attrs["result"]["mlflow_run_id"] is None for trial in done):
            log.warning("%d of the trials were made without MLflow, and are not there", untracked)
        self.mlflow.tags({"sweep.trials": settings.trials, "dataset": self.config.data.name})

    def _close_runs(self) -> None:
        """End the MLflow runs of this study that have no process any more."""
        tracking.close_running(self.config.tracking, self.study.id, "interrupted", self.mlflow.run_id, "KILLED")

    def _queue(self) -> None:
        """Say what is searched; queue what is to be tried first, and has not been."""
        study, done = self.study, self.study.counted()
        if self.space.fixed:
            log.info("set on the command line, so not searched: %s", ", ".join(self.space.fixed))
        if self.space.inactive:
            log.info("not searched, as their conditions hold in no trial: %s", ", ".join(self.space.inactive))
        if done:
            log.info("going on with the study %s: %d of %d trials are done", self.settings.name, done, self._total())
        baseline = [attributes[IDENTITY] for _, attributes in self.first if BASELINE in attributes]
        if not baseline and not done:
            log.info("the config's own values are not all within the space and its constraints: no baseline trial")
        study.own = baseline[0] if baseline else ""
        there = {trial.user_attrs.get(IDENTITY) for trial in study.trials()}
        new = [(parameters, attributes) for parameters, attributes in self.first if attributes[IDENTITY] not in there]
        for parameters, attributes in new:
            study.enqueue(parameters, attributes)
        if new and done:
            log.info("%d trial%s more queued than before", len(new), "s" * (len(new) != 1))
