"""Writing to the database of a study: what goes wrong is one line, and a server that starts again is waited for."""

import logging
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState
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


def write_new(now: Mapping[Any, Any], before: Mapping[Any, Any], write: Callable[[Any, Any], None]) -> None:
    """Write the entries that were not there before, or were others."""
    for key, value in now.items():
        if key not in before or before[key] != value:
            write(key, value)


def write_trial(storage: BaseStorage, study: int, trial: FrozenTrial, *, new: bool) -> None:
    """Write what is new of a trial of the study with this id. A `new` one is not there yet, but for an earlier attempt.

    A RunFailure says that another program has used Optuna's own tools meanwhile: it has added a trial of this number,
    or has ended this one. Nothing of that is written over.
    """
    beside = "meanwhile; the same command goes on beside it"
    added = RunFailure("error", f"another program added trial {trial.number} {beside}")
    try:
        there = storage.get_trial_id_from_study_id_trial_number(study, trial.number)
    except KeyError:
        if storage.get_trial_number_from_id(storage.create_new_trial(study, trial)) != trial.number:
            raise added from None
        return
    before = storage.get_trial(there)
    if new and (before.params, before.user_attrs) != (trial.params, trial.user_attrs):
        raise added
    try:
        _update(storage, there, before, trial)
    except UpdateFinishedTrialError as error:
        raise RunFailure("error", f"another program ended trial {trial.number} {beside}") from error


def _update(storage: BaseStorage, there: int, before: FrozenTrial, trial: FrozenTrial) -> None:
    for name, drawn in trial.distributions.items():  # in their order, which samplers keep to
        if name not in before.params:
            storage.set_trial_param(there, name, drawn.to_internal_repr(trial.params[name]), drawn)
    write_new(trial.user_attrs, before.user_attrs, partial(storage.set_trial_user_attr, there))
    write_new(trial.system_attrs, before.system_attrs, partial(storage.set_trial_system_attr, there))
    values = trial.intermediate_values, before.intermediate_values
    write_new(*values, partial(storage.set_trial_intermediate_value, there))
    if before.state == TrialState.WAITING and trial.state.is_finished():  # which notes when it began
        storage.set_trial_state_values(there, TrialState.RUNNING)
    if trial.state != before.state:
        storage.set_trial_state_values(there, trial.state, trial.values)
