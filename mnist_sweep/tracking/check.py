"""Whether MLflow's store can be used, found out before anything is trained and, of a database, without MLflow."""

import contextlib
import importlib.util
import logging
import os
import re
import sqlite3
from pathlib import Path

from mnist_sweep.config import options
from mnist_sweep.config.paths import database_file
from mnist_sweep.errors import RequestError, one_line, without_passwords
from mnist_sweep.tracking.journal import leave_alone

log = logging.getLogger(__name__)

_ALLOWED = "allowed: another tracking.uri, or tracking=none"


def check_store(settings: options.MLflow) -> None:
    """Raise a RequestError where a database is damaged or of another MLflow, or the experiment was deleted.

    One that was half made when its process was killed, and that holds no run, is not refused: see `half_made`.
    """
    on_server = settings.uri.startswith(("http://", "https://"))
    deleted = _deleted_on_server(settings) if on_server else _deleted_in_file(settings)
    if deleted:
        restore = f"MLFLOW_TRACKING_URI={settings.uri} mlflow experiments restore --experiment-id {deleted}"
        where = f"tracking.experiment={settings.experiment}: it was deleted in {settings.uri}"
        raise RequestError(f"{where}; to have it back: {restore}; allowed: another name, or tracking=none")


def _deleted_on_server(settings: options.MLflow) -> str | None:
    """The id of the experiment if it was deleted. A server that does not answer now is told later what happens.

    A RequestError says that it will not answer: nobody has its name, its certificate is not valid, or it does not let
    this user in.
    """
    from mnist_sweep.tracking.store import client_of

    try:
        found = client_of(settings.uri).get_experiment_by_name(settings.experiment)
    except Exception as error:  # MLflow's, and those of what it stands on
        said, uri = " ".join(str(error).split()), without_passwords(settings.uri)
        status = re.search(r"error code (\d+)", said)
        causes = re.findall(r"Caused by (\w+)\((.*?)\)*$", said) or re.findall(r"exception (\w+)?:?(.*)", said)
        why = " ".join(causes[0])[:200] if causes else said[:200]
        if status and status[1] in ("401", "403"):
            user = "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
            why = f"HTTP status {status[1]}, by {user}"
        elif not re.search("NameResolution|SSL|InvalidURL|LocationParse", why):
            leave_alone(settings.uri)
            log.warning("tracking: %s does not answer (%s); what it is not told is kept and sent later", uri, why)
            return None
        server = "an MLflow server that answers, a database such as sqlite:///FILE, or tracking=none"
        raise RequestError(f"tracking.uri={uri}: cannot be used ({why}); allowed: {server}") from error
    return str(found.experiment_id) if found and found.lifecycle_stage == "deleted" else None


def _deleted_in_file(settings: options.MLflow) -> str | None:
    """The id of the experiment if it was deleted."""
    file, where = database_file(settings.uri), f"tracking.uri={without_passwords(settings.uri)}"
    if not file or not file.is_file() or file.stat().st_size == 0:
        return None
    if not os.access(file, os.W_OK):
        shared = "in a folder that several people share, each needs: umask 002"
        raise RequestError(f"{where}: {file} cannot be written; {shared}; {_ALLOWED}")
    try:
        # what a process that was killed has left half written is taken back by who opens it next, which has to write
        with contextlib.closing(sqlite3.connect(f"{file.resolve().as_uri()}?mode=rw", uri=True, timeout=1)) as database:
            tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            revision, known = _revision(database, tables), _revisions()
            if revision != known[-1]:
                if _empty(database, tables):
                    return None
                upgrade = f"mlflow db upgrade {settings.uri} (after a backup)"
                remedy = upgrade if revision is None or revision in known else "pip install --upgrade mlflow"
                of = f"is of another version of MLflow (schema {revision}, allowed: {known[-1]})"
                raise RequestError(f"{where}: {of}; to use it: {remedy}; or {_ALLOWED}")
            query = "SELECT experiment_id FROM experiments WHERE name = ? AND lifecycle_stage = 'deleted'"
            found = database.execute(query, [settings.experiment]).fetchone()
            return str(found[0]) if found else None
    except sqlite3.OperationalError as error:
        if "locked" in str(error):  # it is in use, and waited for later
            return None
        raise RequestError(f"{where}: cannot be read ({error}); {_ALLOWED}") from error
    except sqlite3.DatabaseError as error:
        way = f"it stays as it is; move it away to begin anew, or recover it with: sqlite3 {file} .recover"
        raise RequestError(f"{where}: the database is damaged ({one_line(error)}); {way}; {_ALLOWED}") from error


def half_made(file: Path) -> bool:
    """Whether a database holds no run and is not whole: its process was killed while it made it."""
    with contextlib.closing(sqlite3.connect(file, timeout=60)) as database:
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        return _revision(database, tables) != _revisions()[-1] and _empty(database, tables)


def _empty(database: sqlite3.Connection, tables: set[str]) -> bool:
    """Whether there is nothing in a database that anybody has put there."""
    if tables and not tables & {"alembic_version", "experiments", "runs"}:
        return False  # some other program's
    kept = [name for name in ("runs", "registered_models", "logged_models", "datasets") if name in tables]
    return not any(database.execute(f"SELECT 1 FROM {name} LIMIT 1").fetchone() for name in kept)


def _revision(database: sqlite3.Connection, tables: set[str]) -> str | None:
    found = (
        database.execute("SELECT version_num FROM alembic_version").fetchone() if "alembic_version" in tables else None
    )
    return str(found[0]) if found else None


def _revisions() -> list[str]:
    """The versions of the schema that the installed MLflow knows, the newest last; its migrations name each one."""
    spec = importlib.util.find_spec("mlflow")
    assert spec is not None
    assert spec.origin is not None
    folder, after = Path(spec.origin).parent / "store" / "db_migrations" / "versions", dict[str, str]()
    for path in folder.glob("*.py"):
        text = path.read_text(encoding="utf-8")
        own, before = (
            re.search(rf"^{name} = [\"'](\w+)", text, re.MULTILINE) for name in ("revision", "down_revision")
        )
        if own:
            after[before[1] if before else ""] = own[1]
    found = [after[""]]
    while found[-1] in after:
        found.append(after[found[-1]])
    return found
