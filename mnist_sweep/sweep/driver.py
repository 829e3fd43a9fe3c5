"""The loop of a sweep: ask → run → report → tell. Only the driver writes the study."""

import logging
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock, Timeout
from optuna.trial import TrialState

from mnist_sweep import datasets, schema
from mnist_sweep.composition import compose
from mnist_sweep.errors import Interrupted, RequestError, RunFailure, uninterrupted
from mnist_sweep.overrides import override, replaced, without
from mnist_sweep.result import Result, Status, write_json
from mnist_sweep.sweep import study as studies
from mnist_sweep.sweep import summary
from mnist_sweep.sweep.space import Space

log = logging.getLogger(__name__)

#: So many impossible proposals in a row mean that the space holds hardly anything else.
MOST_IMPOSSIBLE = 100

_TOLD: dict[Status, TrialState] = {
    "finished": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "failed": TrialState.FAIL,
    "interrupted": TrialState.FAIL,
}


def sweep(config: schema.Config, given: Sequence[str], config_dir: str | None = None) -> Path:
    """Run a sweep to its total, or go on with one, then train and test the winner.

    Args:
        config: with its ``sweep``; its data set is on disk.
        given: the overrides that composed it.
        config_dir: the further folder of configs that they were composed with.

    Returns:
        The path of ``sweep.json``.

    Raises:
        RequestError: another process is at this study, or the study was begun otherwise.
        RunFailure: no trial finished.
        Interrupted: after everything has been recorded.
    """
    assert config.sweep is not None
    space = Space.of(config, given)
    folder = Path(config.output) / "runs" / config.sweep.name
    lock = FileLock(Path(config.output) / f".{config.sweep.name}.lock")
    Path(config.output).mkdir(parents=True, exist_ok=True)
    try:
        with lock.acquire(timeout=0):
            study = studies.open_study(config, space, datasets.verify(config.data))
            first = folder.parent / f"{folder.name}-0000"
            if first.exists() and not study.get_trials(deepcopy=False):
                optuna.delete_study(study_name=config.sweep.name, storage=config.sweep.storage)
                raise RequestError(
                    f"sweep.name={config.sweep.name}: {first} is there, but its study is not in "
                    f"{config.sweep.storage}; allowed: sweep.name=ANOTHER"
                )
            folder.mkdir(parents=True, exist_ok=True)
            return Driver(config, given, config_dir, space, study, folder).drive()
    except Timeout as error:
        raise RequestError(
            f"sweep.name={config.sweep.name}: another process is at this sweep; allowed: sweep.name=ANOTHER"
        ) from error


class Driver:
    """One sitting of a sweep.

    Args:
        config, given, config_dir: as for `sweep`.
        space: what is searched.
        study: opened, and held by nobody else.
        folder: of the sweep; it exists.
    """

    def __init__(
        self,
        config: schema.Config,
        given: Sequence[str],
        config_dir: str | None,
        space: Space,
        study: optuna.Study,
        folder: Path,
    ) -> None:
        assert config.sweep is not None
        self.config, self.settings, self.config_dir = config, config.sweep, config_dir
        self.space, self.study, self.folder = space, study, folder
        self.given = without(given, "sweep", "name")
        self.started = time.monotonic()

    def _open_account(self) -> None:
        """The sweep's own run in MLflow: a new one, or that of the earlier sittings."""
        from mnist_sweep import tracking  # like run and winner a heavy import: after all that can be refused

        resumed = self.study.user_attrs.get("mlflow_run_id")
        settings = self.settings
        self.account = tracking.Account(
            self.config.tracking, Path(self.config.output), settings.name, tags={"study": settings.name}, resume=resumed
        )
        if self.account.run_id != resumed:
            self.account.parameters(
                {"objective": self.config.objective, "data": self.config.data.name}
                | {f"sweep.space.{dimension.key}": dimension.leaf for dimension in self.space.dimensions}
            )
            self.study.set_user_attr("mlflow_run_id", self.account.run_id)
        self.account.tags({"sweep.trials": settings.trials, "dataset": self.config.data.name})

    def drive(self) -> Path:
        """Trials up to the total, then the winner, then the summary."""
        from mnist_sweep.sweep import winner

        state, crowned = "KILLED", None
        try:
            with uninterrupted():  # so that no run is left open that nobody knows of
                self._open_account()
            self._settle()
            self._begin()
            self._trials()
            ranking = studies.ranking(self.study)
            if not ranking:
                raise RunFailure("error", f"no trial finished; {self._failures()}")
            crowned = winner.crown(self.config, self.config_dir, self.study, ranking[0])
            state = "FINISHED"
        except RunFailure:
            state = "FAILED"
            raise
        finally:
            with uninterrupted():
                path = self._write(crowned)
                self.account.file(path)
                self.account.end(state)  # type: ignore[arg-type]
        overlay = winner.overlay(ranking[0], self.config.objective, self.folder, self.config_dir)
        summary.show(self.config, self.study, crowned, overlay)
        return path

    def _settle(self) -> None:
        """Close what a sitting that died has left open; a run that came to its end is told as it ended."""
        from mnist_sweep import tracking

        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            try:
                result = Result.read(self.folder.parent / self._name(trial.number))
            except FileNotFoundError:
                open_trial = optuna.Trial(self.study, trial._trial_id)
                open_trial.set_user_attr("reason", "crashed")
                self.study.tell(trial.number, state=TrialState.FAIL)
            else:
                self._tell(optuna.Trial(self.study, trial._trial_id), result)
        tracking.close_running(self.config.tracking, self.settings.name, "crashed", keep=self.account.run_id)
        studies.propose_again(self.study)

    def _begin(self) -> None:
        """Say what is searched; the first trial of a new study is the config's own defaults."""
        done = studies.counted(self.study)
        if self.space.fixed:
            log.info("set on the command line, so not searched: %s", ", ".join(self.space.fixed))
        if done:
            log.info(
                "going on with the study %s: %d of %d trials are done", self.settings.name, done, self.settings.trials
            )
        if self.study.get_trials(deepcopy=False):
            return
        baseline = self.space.encode({})
        if baseline is None:
            log.info("the config's own values are not all within the space: no baseline trial")
        else:
            self.study.enqueue_trial(baseline, user_attrs={"baseline": True})

    def _trials(self) -> None:
        impossible = 0
        with summary.progress(self.settings.trials, studies.counted(self.study)) as advance:
            while (done := studies.counted(self.study)) < self.settings.trials:
                number = len(self.study.get_trials(deepcopy=False))
                self.study.sampler = studies.sampler(self.settings, self.config.seed, number)
                trial = self.study.ask()
                result = self._perform(trial)
                impossible = 0 if result else impossible + 1
                if impossible == MOST_IMPOSSIBLE:
                    raise RunFailure("infeasible", f"{impossible} impossible proposals in a row; {self._failures()}")
                if result:
                    log.info("%s", summary.line(self.config, self.study, done + 1, trial.number, result))
                    if ranking := studies.ranking(self.study):
                        self.account.metrics({"best/objective": float(ranking[0].value or 0)}, done + 1)
                    advance()

    def _name(self, number: int) -> str:
        return f"{self.settings.name}-{number:04d}"

    def _perform(self, trial: optuna.Trial) -> Result | None:
        """Run one proposal and tell the study; None where it is impossible."""
        from mnist_sweep.run import run

        values = self.space.suggest(trial)
        proposed = [override(key, value) for key, value in values.items()]
        items = [*replaced(self.given, proposed), override("name", self._name(trial.number))]
        trial.set_user_attr("proposed", proposed)
        try:
            config = compose(items, self.config_dir)
        except RequestError as error:
            self._fail(trial, "infeasible", str(error))
            return None

        def report(epoch: int, value: float) -> bool:
            trial.report(value, epoch)
            return epoch == config.trainer.max_epochs or not trial.should_prune()

        tags = {"study": self.settings.name, "trial": trial.number}
        try:
            result = run(
                config, items, config_dir=self.config_dir, report=report, parent=self.account.run_id, tags=tags
            )
        except Interrupted:
            try:
                self._tell(trial, Result.read(self.folder.parent / str(config.name)))
            except FileNotFoundError:  # interrupted before the run began its own record
                self._fail(trial, "interrupted", "before its first epoch")
            raise
        except RequestError as error:  # what only a run can tell, such as that there is no GPU
            self._fail(trial, "error", str(error))
            raise
        self._tell(trial, result)
        return result

    def _tell(self, trial: optuna.Trial, result: Result) -> None:
        with uninterrupted():
            reason = result.reason or ("interrupted" if result.status == "interrupted" else None)
            for key in ("overrides", "command", "mlflow_run_id", "folder", "detail", "metrics", "seconds"):
                trial.set_user_attr(key, getattr(result, key))
            trial.set_user_attr("reason", reason)
            value = result.objective if result.status == "finished" else None
            self.study.tell(trial.number, value, state=_TOLD[result.status])

    def _fail(self, trial: optuna.Trial, reason: str, detail: str) -> None:
        with uninterrupted():
            trial.set_user_attr("reason", reason)
            trial.set_user_attr("detail", detail)
            self.study.tell(trial.number, state=TrialState.FAIL)

    def _failures(self) -> str:
        """The most frequent failure, as a few words."""
        failed = self.study.get_trials(deepcopy=False, states=(TrialState.FAIL,))
        seen = Counter((studies.reason(trial), trial.user_attrs.get("detail")) for trial in failed)
        if not seen:
            return "none was begun"
        (reason, detail), count = seen.most_common(1)[0]
        return f"{count} × {reason}: {detail}"

    def _write(self, crowned: dict[str, Any] | None) -> Path:
        """``sweep.json``."""
        seconds = float(self.study.user_attrs.get("seconds", 0.0)) + time.monotonic() - self.started
        self.study.set_user_attr("seconds", seconds)
        self.started = time.monotonic()
        failed = self.study.get_trials(deepcopy=False, states=(TrialState.FAIL,))
        ranking = studies.ranking(self.study)
        best = ranking[0] if ranking else None
        return write_json(
            self.folder / "sweep.json",
            {
                "study": self.settings.name,
                "direction": self.config.direction,
                "objective": self.config.objective,
                "trials": studies.counts(self.study),
                "failures": dict(Counter(str(studies.reason(trial)) for trial in failed)),
                "best": best
                and {
                    "trial": best.number,
                    "value": best.value,
                    "params": best.params,
                    "command": best.user_attrs["command"],
                    "mlflow_run_id": best.user_attrs["mlflow_run_id"],
                },
                "winner": crowned,
                "seconds": round(seconds, 3),
                "dataset": self.config.data.name,
                "mlflow_run_id": self.account.run_id,
            },
        )
