"""A study on a database server belongs to one driver at a time, wherever that runs: it holds a lease.

A file can be locked on one machine; a row of a table beside Optuna's own can be held from any. By the server's clock,
so that those of the machines need not agree.
"""

import contextlib
import logging
import os
import socket
import threading
import time
import uuid
from pathlib import Path
from typing import Self

from sqlalchemy import Column, Engine, Float, Integer, MetaData, String, Table, and_, delete, func, insert, or_, select
from sqlalchemy import update as change
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from mnist_sweep.errors import RequestError, RunFailure, one_line

log = logging.getLogger(__name__)

#: Seconds after which a driver that has not been heard of is taken for dead.
SECONDS = 60.0
_EVERY = 15.0
_ROWS = Table(
    "mnist_sweep_lease",
    MetaData(),
    Column("study", String(512), primary_key=True),
    Column("token", String(32)),  # of the driver
    Column("host", String(256)),
    Column("process", Integer),
    Column("folder", String(1024)),  # which a driver on the same machine has locked
    Column("until", Float(53)),  # seconds since 1970
)


class Lease:
    """Holds a study while the context lasts, and says so every quarter of a minute.

    Args:
        engine: of the database; it is the lease's own.
        study: its name.
        folder: that this process has locked. A driver that had the same one has died.
    """

    def __init__(self, engine: Engine, study: str, folder: Path) -> None:
        self._engine, self._study = engine, study
        known = folder.stat()  # the same path in two containers is not the same folder
        where = f"{known.st_dev}:{known.st_ino}:{folder}"
        self._mine = {"token": uuid.uuid4().hex, "host": socket.gethostname(), "process": os.getpid()}
        self._mine["folder"] = where[:1024]
        self._renewed = 0.0
        self._lost: str | None = None
        self._ended, self._renewing = threading.Event(), threading.Lock()

    def __enter__(self) -> Self:
        """Take the lease; a RequestError names who has it."""
        with contextlib.suppress(SQLAlchemyError):  # two drivers make the table at once
            _ROWS.metadata.create_all(self._engine)
        if holder := self._taken():
            raise RequestError(
                f"sweep.name={self._study}: another process is at this sweep ({holder}); allowed: sweep.name=ANOTHER, "
                f"or to wait for its end; one that has died loses the sweep {SECONDS:g} s after its last sign of life"
            )
        threading.Thread(target=self._keep, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        with contextlib.suppress(SQLAlchemyError), self._renewing, self._engine.begin() as connection:
            connection.execute(delete(_ROWS).where(_ROWS.c.study == self._study, _ROWS.c.token == self._mine["token"]))
        self._engine.dispose()

    def check(self) -> None:
        """Raise a RunFailure where another driver has taken over, as after this one was halted for minutes."""
        if not self._lost and time.monotonic() > self._renewed + SECONDS / 2:
            self._taken()
        if self._lost:
            raise RunFailure("error", f"another process has taken over this sweep ({self._lost})")

    def _keep(self) -> None:
        while not self._ended.wait(_EVERY) and not self._lost:
            try:
                self._taken()
            except SQLAlchemyError as error:
                log.info("the lease of the sweep could not be renewed (%s)", one_line(error, 100))

    def _taken(self) -> str | None:
        """Take the lease, or hold it for longer; if another driver has it, which."""
        rows, held = _ROWS.c, self._renewed > 0
        with self._renewing, self._engine.begin() as connection:
            if self._ended.is_set():
                return None
            now = connection.execute(select(func.now())).scalar_one().timestamp()
            values, ours = {**self._mine, "until": now + SECONDS}, rows.token == self._mine["token"]
            left = or_(rows.until < now, and_(rows.host == self._mine["host"], rows.folder == self._mine["folder"]))
            where = and_(rows.study == self._study, ours if held else or_(ours, left))
            if connection.execute(change(_ROWS).where(where).values(values)).rowcount == 0:
                row = connection.execute(select(_ROWS).where(rows.study == self._study)).one_or_none()
                try:
                    if row is None:  # nobody has it; or a restored database has forgotten that we do
                        with connection.begin_nested():
                            connection.execute(insert(_ROWS).values(study=self._study, **values))
                except IntegrityError:  # another one has just taken it
                    row = connection.execute(select(_ROWS).where(rows.study == self._study)).one()
                if row is not None:
                    holder = f"host {row.host}, process {row.process}"
                    self._lost = holder if held else None
                    return holder
            self._renewed = time.monotonic()
        return None
