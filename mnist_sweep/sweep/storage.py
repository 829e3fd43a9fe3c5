"""Where a sweep is kept: its study is opened or resumed, and only if it is still the same sweep, by one process."""

import contextlib
import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock
from optuna.distributions import check_distribution_compatibility
from optuna.storages import BaseStorage, RDBStorage, get_storage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import create_engine, event, make_url
from sqlalchemy.exc import SQLAlchemyError

from mnist_sweep import run_folder
from mnist_sweep.config import schema
from mnist_sweep.config.command import CommandLine
from mnist_sweep.config.sweep_options import Sweep
from mnist_sweep.errors import RequestError
from mnist_sweep.result import is_run_of
from mnist_sweep.sweep.lease import Lease
from mnist_sweep.sweep.space import Space
from mnist_sweep.sweep.study import Study, objectives

#: User attribute of a study: what it was begun with.
_BEGUN = "begun with"
#: How long a database in a file is waited for while another program holds it.
_SECONDS = 120
#: What must never change between two sessions: the study's values would mean different things.
_FIXED = {"objective", "data", "data digest", "data.split_seed", "data.validation_share", "sweep.seeds"}


def at_work(settings: Sweep, output: Path) -> bool:
    """Whether a process is at a sweep."""
    file = output / f".sweep-{settings.name}.lock"
    if not file.exists():
        return False
    try:
        with locked(settings, output):  # such as that of a process that was killed
            return False
    except RequestError:
        return True


#: Databases whose drivers take ``connect_timeout``.
_SERVERS = ("postgresql", "mysql", "mariadb")
#: Seconds in which a server accepts a connection. A name may stand for two addresses, each of which is tried.
_CONNECT_SECONDS = 3
#: A connection over which nothing comes back is given up after half a minute, see PostgreSQL's libpq-connect.
_ALIVE = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 4, "tcp_user_timeout": 30_000}
_SERVER = "postgresql+psycopg://USER@HOST/DATABASE, with its password in PGPASSWORD"


def check(config: schema.Config) -> None:
    """Raise a RequestError where ``sweep.storage`` cannot be used, or its server does not answer within ten seconds.

    A SQLite file is for one machine, so it does not go together with workers on others.
    """
    settings, launcher = config.sweep, config.launcher
    assert settings is not None
    file = storage_file(settings)
    if launcher.name == "ray" and launcher.address:
        why = "a SQLite file is for one machine, and launcher=ray has workers on several"
        if file:
            raise RequestError(f"sweep.storage={settings.storage}: {why}; allowed: {_SERVER}")
        if config.tracking.name == "mlflow" and config.tracking.uri.startswith("sqlite:"):
            allowed = "allowed: the address of an MLflow server, or tracking=none"
            raise RequestError(f"tracking.uri={config.tracking.uri}: {why}; {allowed}")
    if not file:
        study_names(settings)


@contextlib.contextmanager
def locked(settings: Sweep, output: Path) -> Iterator[Lease | None]:
    """Hold the sweep's folder and its study, which may lie elsewhere; a RequestError where another process does.

    A study on a server is held by the lease.
    """
    folders = {output.resolve()}
    if file := storage_file(settings):
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _not_opened(settings, error) from error
        folders.add(file.parent.resolve())
    allowed = "allowed: to wait for its end, or sweep.name=ANOTHER"
    message = f"sweep.name={settings.name}: another process is at this sweep; {allowed}"
    with contextlib.ExitStack() as stack:
        for folder in sorted(folders):
            stack.enter_context(run_folder.lock(folder / f".sweep-{settings.name}.lock", message))
        if file:
            yield None
            return
        try:
            lease = Lease(create_engine(settings.storage, **_arguments(settings)), settings.name, output.resolve())
            stack.enter_context(lease)
        except SQLAlchemyError as error:
            raise _not_opened(settings, error) from error
        yield lease


def check_folders(settings: Sweep, folder: Path, *, new: bool) -> None:
    """Raise a RequestError if the sweep's folder holds a run, or if names of a new sweep's trials are taken."""
    for path in sorted(path.parent for path in folder.parent.glob("*/config.yaml")):
        own = path == folder and _holds_a_run(folder, new=new)
        if own or (new and is_run_of(folder.name, path.name)):
            where = f"{path} is there, but its study is not in {_shown(settings)}"
            raise RequestError(f"sweep.name={settings.name}: {where}; allowed: sweep.name=ANOTHER")


def _holds_a_run(folder: Path, *, new: bool) -> bool:
    """Whether this folder of a sweep is a run's; of one that cannot be read whether it is not the sweep's."""
    config = None
    with contextlib.suppress(RequestError):  # the code of a network of one's own is gone
        config = run_folder.RunFolder(folder).config()
    return new if config is None else not config.sweep


@contextlib.contextmanager
def database(settings: Sweep) -> Iterator[BaseStorage]:
    """The database of ``sweep.storage``; a RequestError where it cannot be opened, or what the block does fails."""
    try:
        with _alone(storage_file(settings)):
            storage = RDBStorage(settings.storage, engine_kwargs=_arguments(settings))
        if storage_file(settings):
            event.listen(storage.engine, "connect", _write_ahead)
            storage.engine.dispose()  # the connections that were opened before
        yield get_storage(storage)
    except RequestError:
        raise
    except Exception as error:  # Optuna's, SQLAlchemy's and each driver's own
        raise _not_opened(settings, error) from error


def _arguments(settings: Sweep) -> dict[str, Any]:
    """Of the database's engine: a server may be restarted, or be silent."""
    url = make_url(settings.storage)
    name = url.get_backend_name()
    limits: dict[str, Any] = {"connect_timeout": _CONNECT_SECONDS} if name in _SERVERS else {}
    limits |= _ALIVE if name == "postgresql" else {}
    limits |= {"timeout": _SECONDS} if name == "sqlite" else {}  # another program, such as a backup, may hold the file
    return {"pool_pre_ping": True, "connect_args": {key: limits[key] for key in limits.keys() - url.query.keys()}}


@contextlib.contextmanager
def _alone(file: Path | None) -> Iterator[None]:
    """Within, no other process makes the tables of this database. A folder that is read only has its database."""
    held = file and FileLock(file.with_name(f".{file.name}.lock"), mode=0o666)
    with contextlib.suppress(PermissionError):
        if held:
            held.acquire()
    try:
        yield
    finally:
        if held:
            held.release()


def _write_ahead(connection: Any, _: Any) -> None:
    """Let commits not wait for the disk. A power failure may take the last ones (https://sqlite.org/wal.html)."""
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")


def storage_file(settings: Sweep) -> Path | None:
    """The file of ``sweep.storage``; None where that is a server.

    Raises:
        RequestError: it is no URL of a database, one in memory, or one for which a package is missing.
    """
    try:
        url = make_url(settings.storage)
        url.get_dialect().import_dbapi()
    except (SQLAlchemyError, ImportError) as error:
        raise _not_opened(settings, error) from error
    if url.get_backend_name() != "sqlite":
        return None
    if not url.database or url.database == ":memory:":
        raise _not_opened(settings, ValueError("a study in memory cannot be resumed"))
    return Path(url.database)


def _not_opened(settings: Sweep, error: Exception) -> RequestError:
    cause: BaseException = error
    while cause.__cause__:  # what the driver of the database says
        cause = cause.__cause__
    missing = ' (pip install "mnist_sweep[postgres]")' if isinstance(cause, ImportError) else ""
    said = f"sweep.storage={_shown(settings)}: cannot be opened ({' '.join(str(cause).split())[:200]})"
    if "malformed" in said or "is not a database" in said:
        said += "; the file is damaged, and stays as it is: move it away, or recover it (sqlite3 FILE .recover)"
    if "readonly" in said:
        said += "; in a folder that several people share, each needs: umask 002"
    return RequestError(f"{said}; allowed: sqlite:///FILE, or {_SERVER}{missing}")


def _shown(settings: Sweep) -> str:
    """``sweep.storage`` without its password."""
    try:
        return make_url(settings.storage).render_as_string(hide_password=True)
    except SQLAlchemyError:  # it is no URL
        return settings.storage


def study_names(settings: Sweep) -> list[str]:
    """The studies in ``sweep.storage``. See `database` for what it raises."""
    file = storage_file(settings)
    if file and not file.exists():  # to look would make it
        return []
    with database(settings) as storage:
        return optuna.get_all_study_names(storage)


def open_study(
    config: schema.Config, space: Space, digest: str, common: CommandLine | None = None, lease: Lease | None = None
) -> Study:
    """The study of a sweep on a data set with this digest, new or resumed.

    Raises:
        RequestError: the storage cannot be opened, or the study was begun with another space, objective, data set or
            other settings; each difference is named.
    """
    assert config.sweep is not None
    settings, goals = config.sweep, objectives(config)
    directions = [goal.direction for goal in goals]
    with database(settings) as storage:
        optuna.create_study(study_name=settings.name, storage=storage, load_if_exists=True, directions=directions)
        study = Study(storage, settings.name, goals, settings.constraints or {}, space, config.seed, common, lease)
        now, before = _settings_of(config, space, digest), study.recall(_BEGUN)
        if before and "sweep.seeds" not in before:  # an earlier version did not note it
            was = max((trial.user_attrs.get("result", {}).get("seeds", 1) for trial in study.trials()), default=1)
            before = before | ({"sweep.seeds": str(was)} if was > 1 else {})
        if before is None:
            if study.trials() or [direction.name.lower() for direction in study.study.directions] != directions:
                by = "this study was begun by another program, or by an earlier version of this one"
                raise RequestError(f"sweep.name={settings.name}: {by}; allowed: sweep.name=ANOTHER")
            study.remember("id", uuid.uuid4().hex)
        elif before != now:
            _check_changes(settings, space, before, now, study.trials())
        if before != now:
            study.remember(_BEGUN, now)
    return study


def _settings_of(config: schema.Config, space: Space, digest: str) -> dict[str, str]:
    """What should not change between two sessions, by key, in words."""
    assert config.sweep is not None
    found: dict[str, Any] = {key: value for key, value in config.relevant().items() if key not in space.keys}
    found["objective"] = [f"{goal.direction} {goal.metric}" for goal in objectives(config)]
    found["data digest"] = digest
    if config.sweep.seeds > 1:
        found["sweep.seeds"] = config.sweep.seeds
    for name, bound in (config.sweep.constraints or {}).items():
        found[f"sweep.constraints.{name}"] = bound.model_dump(exclude_none=True)
    return {key: json.dumps(value, ensure_ascii=False) for key, value in found.items()} | space.fingerprint()


def _check_changes(
    settings: Sweep, space: Space, before: Mapping[str, str], now: Mapping[str, str], trials: Sequence[FrozenTrial]
) -> None:
    """Refuse changes, unless the user allows them and the study and its sampler can bear them."""
    changed = [key for key in sorted({*before, *now}) if before.get(key) != now.get(key)]
    lines = [f"{key}: {before.get(key, 'not there')} → {now.get(key, 'not there')}" for key in changed]
    faults = [f"{key} cannot change" for key in changed if key in _FIXED]
    drawn = {name: distribution for trial in trials for name, distribution in trial.distributions.items()}
    for name, distribution in drawn.items():
        try:
            check_distribution_compatibility(distribution, space.distribution(name) or distribution)
        except ValueError:
            faults.append(f"Optuna cannot draw {name} otherwise than before")
    another_space = any(key.startswith("sweep.space.") for key in changed)
    if another_space and not settings.sampler.changes:
        faults.append(f"sweep/sampler={settings.sampler.name} cannot go on in another space")
    if faults or not settings.allow_changes:
        allowed = "the settings it was begun with" if faults else "sweep.allow_changes=true"
        why = f"this study was begun otherwise ({'; '.join([*lines, *faults])})"
        raise RequestError(f"sweep.name={settings.name}: {why}; allowed: {allowed}, or sweep.name=ANOTHER")


def load_study(settings: Sweep, name: str | None = None) -> optuna.Study:
    """Optuna's study of this name in ``sweep.storage``; None = the sweep's own. See `database` for what it raises."""
    with database(settings) as storage:
        return optuna.load_study(study_name=name or settings.name, storage=storage)


def best_of(settings: Sweep) -> list[Mapping[str, Any]]:
    """The drawn values of the best trials of ``sweep.warm_start``, the best first; a RequestError without any."""
    name, names = settings.warm_start, study_names(settings)
    if name is None or name not in names:
        there = f"there: {', '.join(names) or 'none yet'}"
        raise RequestError(f"sweep.warm_start={name}: no such study in {_shown(settings)}; {there}")
    study = load_study(settings, name)
    sign = -1 if study.directions[0] == StudyDirection.MAXIMIZE else 1
    trials = sorted(study.get_trials(states=(TrialState.COMPLETE,)), key=lambda trial: sign * trial.values[0])
    kept = [trial for trial in trials if all(violation <= 0 for violation in trial.constraints.values())]
    drawn = [trial.user_attrs["values"] for trial in kept if "values" in trial.user_attrs]
    if not drawn:
        raise RequestError(f"sweep.warm_start={name}: no trial of a sweep there finished and kept its constraints")
    return [*{json.dumps(values, sort_keys=True): values for values in drawn}.values()][: settings.warm_start_top]
