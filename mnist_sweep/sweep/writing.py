"""Writing to the database of a study: what goes wrong is one line, and a server that starts again is waited for."""

import logging
import time
from collections.abc import Callable

from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import InterfaceError, OperationalError, SQLAlchemyError

from mnist_sweep.errors import RunFailure, one_line
from mnist_sweep.sweep.lease import Lease

log = logging.getLogger(__name__)

#: Seconds between attempts to write to a server that does not answer: over two minutes in all.
_PAUSES = (0.5, 1, 2, 4, 8, 15, 30, 30, 30)


def written(lease: Lease | None, write: Callable[[], None]) -> None:
    """Write; to a server, on which the study is held by the lease, also while it starts again.

    What is written twice must be the same. A RunFailure says that it cannot be written, as on a full disk; that a
    server did not answer for minutes; or that another driver has taken over.
    """
    for pause in (*_PAUSES, None) if lease else (None,):
        try:
            if lease:
                lease.check()
            return write()
        except (StorageInternalError, SQLAlchemyError) as error:
            cause: BaseException = error
            while cause.__cause__:
                cause = cause.__cause__
            said = one_line(cause, 200)
            driver = error if isinstance(error, SQLAlchemyError) else error.__cause__
            if lease is None or not isinstance(driver, OperationalError | InterfaceError):
                raise RunFailure("error", f"sweep.storage cannot be written ({said})") from error
            if pause is None:
                raise RunFailure("error", f"sweep.storage does not answer ({said})") from error
            log.warning("sweep.storage does not answer (%s); again in %g s", one_line(cause, 100), pause)
            time.sleep(pause)
    return None
