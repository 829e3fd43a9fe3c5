"""Whether MLflow's store can be used, found out before anything is trained and, of a database, without MLflow."""

import contextlib
import importlib.util
import os
import re
import sqlite3
from pathlib import Path

from mnist_sweep.config import options
from mnist_sweep.errors import RequestError, one_line

_ALLOWED = "allowed: another tracking.uri, or tracking=none"


def check_store(settings: options.MLflow) -> None:
    """Raise a RequestError where a database is damaged or of another MLflow, or the experiment was deleted.

    One that was half made when its process was killed, and that holds no run, is not refused: see `half_made`.
    """
    file = Path(settings.uri.removeprefix("sqlite:///"))
    if not settings.uri.startswith("sqlite:///") or not file.is_file() or file.stat().st_size == 0:
        return
    where = f"tracking.uri={settings.uri}"
    if not os.access(file, os.W_OK):
        shared = "in a folder that several people share, each needs: umask 002"
        raise RequestError(f"{where}: {file} cannot be written; {shared}; {_ALLOWED}")
    try:
        with contextlib.closing(sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True, timeout=1)) as database:
            tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            revision = _revision(database, tables)
            if revision != (newest := _revisions()[-1]) and not _empty(database, tables):
                known = revision in _revisions() or revision is None
                upgrade = f"mlflow db upgrade {settings.uri} (after a backup)"
                remedy = upgrade if known else "pip install --upgrade mlflow"
                of = f"is of another version of MLflow (schema {revision}, allowed: {newest})"
                raise RequestError(f"{where}: {of}; to use it: {remedy}; or {_ALLOWED}")
            query = "SELECT experiment_id FROM experiments WHERE name = ? AND lifecycle_stage = 'deleted'"
            found = database.execute(query, [settings.experiment]).fetchone() if revision == newest else None
    except sqlite3.OperationalError as error:
        if "locked" in str(error) or "busy" in str(error):  # it is in use, and waited for later
            return
        raise RequestError(f"{where}: cannot be read ({error}); {_ALLOWED}") from error
    except sqlite3.DatabaseError as error:
        way = f"it stays as it is; move it away to begin anew, or recover it with: sqlite3 {file} .recover"
        raise RequestError(f"{where}: the database is damaged ({one_line(error)}); {way}; {_ALLOWED}") from error
    if found:
        restore = f"MLFLOW_TRACKING_URI={settings.uri} mlflow experiments restore --experiment-id {found[0]}"
        where = f"tracking.experiment={settings.experiment}: it was deleted in {settings.uri}"
        raise RequestError(f"{where}; to have it back: {restore}; allowed: another name, or tracking=none")


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
