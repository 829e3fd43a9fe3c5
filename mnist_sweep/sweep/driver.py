"""One sitting of a sweep: opened, settled, searched, crowned, written down."""

import contextlib
import gc
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from optuna.trial import TrialState

from mnist_sweep import tracking
from mnist_sweep.config import metrics, schema
from mnist_sweep.config.overrides import override, replaced, without
from mnist_sweep.errors import RequestError, RunFailure, masked, uninterrupted
from mnist_sweep.result import Result, run_name
from mnist_sweep.sweep import initial_trials as queue
from mnist_sweep.sweep import lock as claim
from mnist_sweep.sweep import samplers as methods
from mnist_sweep.sweep import summary, winner
from mnist_sweep.sweep.candidates import Proposals
from mnist_sweep.sweep.database import open_study
from mnist_sweep.sweep.progress import View
from mnist_sweep.sweep.space import Space
from mnist_sweep.sweep.stopping import Budget
from mnist_sweep.sweep.study import BASELINE, IDENTITY, Study, objectives
from mnist_sweep.sweep.tuner import Search
from mnist_sweep.sweep.workers import Launcher
from mnist_sweep.sweep.workers import resources as machine
from mnist_sweep.sweep.workers.pool import Crew
from mnist_sweep.tracking import State
from mnist_sweep.training import datasets

log = logging.getLogger(__name__)


def sweep(
    config: schema.Config,
    given: Sequence[str],
    config_dir: str | None = None,
    launch: Callable[[], Launcher] | None = None,
) -> Path:
    """Run a sweep to its total, or go on with one, then train and test the winner.

    Args:
        config: with its ``sweep``; its data set is on disk.
        given: the overrides that composed it.
        config_dir: the further folder of configs that they were composed with.
        launch: opens the launcher that performs the runs; None = the config's.

    Returns:
        The path of ``sweep.json``.

    Raises:
        RequestError: another process is at this study, or the study was begun otherwise.
        RunFailure: no trial finished, or the same failure came again and again.
        Interrupted: after everything has been recorded.
    """
    with opened(config, given, config_dir) as driver:
        return driver.drive(launch)


@contextlib.contextmanager
def opened(config: schema.Config, given: Sequence[str], config_dir: str | None = None) -> Iterator["Driver"]:
    """The driver of a sweep that nobody else is at; all that can be refused has been.

    Args:
        config, given, config_dir: as for `sweep`.

    Raises:
        RequestError: another process is at this study, the study was begun otherwise, or there is no GPU.
    """
    assert config.sweep is not None
    name = config.sweep.name
    space = Space.of(config, given)
    explanations = methods.check(config.sweep, space, len(objectives(config)))
    divided = machine.share(config)
    items = common(config, given, divided)
    first = queue.first(config.sweep, space, items, config_dir)
    folder = Path(config.output) / "runs" / name
    with claim.alone(config.sweep, Path(config.output)):
        study = open_study(config, space, datasets.verify(config.data))
        claim.check_folder(config.sweep, folder, study)
        if divided.why:
            explanations.append(f"trained in {divided.precision}: {divided.why} (trainer.precision)")
        if config.trainer.cuda_graphs is True and not divided.gpus:
            explanations.append("trained without CUDA graphs: they need a GPU (trainer.cuda_graphs)")
        explanations += [
            f"sweep.objectives: {goal.metric} is to be {goal.direction}d, which is the worse of its two directions"
            for goal in objectives(config)
            if goal.direction != metrics.TRIAL_METRICS[goal.metric]
        ]
        for line in explanations:
            log.info("%s", line)
        yield Driver(config, items, config_dir, space, study, folder, divided, first)


def common(config: schema.Config, given: Sequence[str], divided: machine.Share) -> list[str]:
    """The overrides that all trials of a sweep have in common.

    Args:
        config: of the sweep.
        given: the overrides that composed it.
        divided: what a worker gets; the config's own ``trainer.threads`` goes before.
    """
    items = without(given, "sweep", "name", "launcher")
    judged = [goal.metric for goal in objectives(config) if goal.metric in metrics.EPOCH_METRICS]
    if judged and judged[0] != config.objective:  # so that the best epoch and its checkpoint go by it
        items = replaced(items, [override("objective", judged[0])])
    hardware: dict[str, Any] = {"trainer.precision": divided.precision}
    if not config.trainer.threads:
        hardware["trainer.threads"] = divided.threads
    if config.trainer.cuda_graphs is True and not divided.gpus:  # said once, rather than by each trial
        hardware["trainer.cuda_graphs"] = False
    return replaced(items, [override(key, value) for key, value in hardware.items()])


class Driver:
    """One sitting of a sweep.

    Args:
        config: of the sweep.
        items: the overrides that all trials have in common.
        config_dir: the further folder of configs.
        space: what is searched.
        study: opened, and held by nobody else.
        folder: of the sweep; it exists.
        divided: what each worker gets of this machine.
        first: what the study tries first: parameters, and attributes that say where they come from.
    """

    def __init__(
        self,
        config: schema.Config,
        items: Sequence[str],
        config_dir: str | None,
        space: Space,
        study: Study,
        folder: Path,
        divided: machine.Share,
        first: Sequence[queue.First],
    ) -> None:
        assert config.sweep is not None
        self.config, self.settings, self.config_dir = config, config.sweep, config_dir
        self.items, self.space, self.study, self.folder = items, space, study, folder
        self.divided, self.first = divided, first
        self.started = time.monotonic()
        self.account = tracking.Account(schema.NoTracking(name="none"), Path(config.output), self.settings.name)
        spent = study.recall("search_seconds", 0.0)
        self.budget = Budget(self.settings, study.goals[0].direction, spent)

    def drive(self, launch: Callable[[], Launcher] | None = None) -> Path:
        """Trials up to the total, then the winner, then the summary.

        Args:
            launch: opens the launcher that performs the runs; None = the config's.
        """
        launch = launch or machine.launcher(self.config, self.divided, self.items, self.config_dir)
        state: State = "KILLED"
        crowned: dict[str, Any] | None = None
        page: Path | None = None
        failure: RunFailure | None = None
        try:
            with Crew(launch) as crew:
                self.begin(crew)
                self.search(crew)
                if not self.study.ranking():
                    raise RunFailure("error", self._nothing())
                crowned = winner.crown(self.config, self.config_dir, self.study, crew)
            from mnist_sweep.sweep.report import report  # and with it torch, which takes seconds

            page = report(self.config, self.config_dir, self.study, crowned, self.folder, self._seconds(), self.account)
            state = "FINISHED"
        except RequestError as error:  # what was right when the sweep began is so no more
            failure = RunFailure("error", str(error))
            raise failure from error
        except Exception as error:
            if stopped := masked(error):
                raise stopped from error
            failure = error if isinstance(error, RunFailure) else RunFailure("error", " ".join(repr(error).split()))
            raise
        finally:
            with uninterrupted():
                path = self._end("FAILED" if failure else state, crowned, failure)
        summary.show(self.config, self.study, crowned, self.folder, self.config_dir)
        if page:
            log.info("%-18s %s", "the report", page)
        return path

    def begin(self, crew: Crew) -> None:
        """Open the account, settle what an earlier sitting left, queue what a new study tries first.

        Args:
            crew: its workers import what they need meanwhile, if there is something left to do.
        """
        with uninterrupted():  # so that no run is left open that nobody knows of
            if self.study.counted() < methods.total(self.settings, self.space):
                crew.open()
            self._open_account()
        self._settle()
        self._queue()

    def search(self, crew: Crew) -> None:
        """The trials."""
        self.budget.begin()
        proposals = Proposals(self.items, self.config_dir, self.settings.constraints or {})
        search = Search(self.config, self.study, self.space, proposals, self.budget, self.account)
        gc.collect()
        gc.freeze()  # else each collection goes through all that MLflow has imported: a tenth of a second
        try:
            total = methods.total(self.settings, self.space)
            with View(self.config, self.study, self.budget, total) as view:
                search.perform(crew, view)
        finally:
            gc.unfreeze()
            self.study.remember("search_seconds", self.budget.seconds())

    def _nothing(self) -> str:
        """Why there is no trial that could win."""
        if self.study.trials(TrialState.COMPLETE):
            return "no trial keeps the constraints (sweep.constraints)"
        if not self.study.counted() and (why := self.budget.over()):
            return f"no trial was begun: {why}"
        return f"no trial finished; {self.study.frequent_failure()}"

    def _end(self, state: State, crowned: dict[str, Any] | None, failure: RunFailure | None) -> Path:
        """``sweep.json``, and the end of the account."""
        seconds = self._seconds()
        self.study.remember("seconds", seconds)
        if state != "FINISHED":  # a run whose worker died could not end its own account
            self._close_runs()
        path = summary.write(self.config, self.study, crowned, self.folder, seconds, self.account.run_id)
        self.account.file(path)
        self.account.tags({f"trials.{state}": count for state, count in self.study.counts().items()})
        self.account.tags({f"failures.{reason}": count for reason, count in self.study.failures().items()})
        self.account.end(state, *((failure.reason, failure.detail) if failure else ()))
        return path

    def _seconds(self) -> float:
        """Of all sittings."""
        return float(self.study.recall("seconds", 0.0)) + time.monotonic() - self.started

    def _open_account(self) -> None:
        """The sweep's own run in MLflow: a new one, or that of the earlier sittings."""
        resumed = self.study.recall("mlflow_run_id")
        settings = self.settings
        tags = {"study": settings.name, "study.id": self.study.id}
        self.account = tracking.Account(
            self.config.tracking, Path(self.config.output), settings.name, tags=tags, resume=resumed
        )
        if self.account.run_id != resumed:
            self.account.parameters(
                {"objective": ", ".join(goal.metric for goal in self.study.goals), "data": self.config.data.name}
                | {f"sweep.space.{key}": said for key, said, _ in self.space.describe()}
            )
            if self.account.run_id:  # else a later sitting would open a second one
                self.study.remember("mlflow_run_id", self.account.run_id)
        untracked = sum(
            trial.user_attrs["result"]["mlflow_run_id"] is None
            for trial in self.study.trials(TrialState.COMPLETE, TrialState.PRUNED)
        )
        if self.account.run_id and untracked:
            log.warning("%d of the trials were made without MLflow, and are not in its account", untracked)
        self.account.tags({"sweep.trials": settings.trials, "dataset": self.config.data.name})

    def _settle(self) -> None:
        """Close what a sitting that died has left open: a run that came to its end is told, another one goes on."""
        for trial in self.study.trials(TrialState.RUNNING):
            asked = self.study.reopened(trial.number)
            if result := Result.found(self.folder.parent / run_name(self.settings.name, trial.number)):
                self.study.tell(asked, result)
            else:
                self.study.park(asked)
        self._close_runs()

    def _close_runs(self) -> None:
        """End the accounts of this study's runs that nobody is at any more."""
        tracking.close_running(
            self.config.tracking, self.study.id, "interrupted", keep=self.account.run_id, state="KILLED"
        )

    def _queue(self) -> None:
        """Say what is searched; queue what is to be tried first, and has not been."""
        done = self.study.counted()
        if self.space.fixed:
            log.info("set on the command line, so not searched: %s", ", ".join(self.space.fixed))
        if self.space.inactive:
            log.info("not searched, as their conditions hold in no trial: %s", ", ".join(self.space.inactive))
        if done:
            total = methods.total(self.settings, self.space)
            log.info("going on with the study %s: %d of %d trials are done", self.settings.name, done, total)
        own = [attributes[IDENTITY] for _, attributes in self.first if BASELINE in attributes]
        if not own and not done:
            log.info("the config's own values are not all within the space and its constraints: no baseline trial")
        self.study.own = own[0] if own else ""
        if self.study.recall("queued"):  # by an earlier version, which knew no identities
            return
        there = {trial.user_attrs.get(IDENTITY) for trial in self.study.trials()}
        new = [(parameters, known) for parameters, known in self.first if known[IDENTITY] not in there]
        for parameters, attributes in new:
            with uninterrupted():
                self.study.study.enqueue_trial(parameters, user_attrs=attributes)
        if new and done:
            log.info("%d trial%s more queued than before", len(new), "s" * (len(new) != 1))
