"""Optuna's storage for a study that one process alone writes: in memory, written through to a database.

Optuna's own database storage spends one transaction on each parameter and reads the study anew for each proposal: about
60 ms of processor time a trial, most of it between a free worker and its next trial. Here proposals are made in memory,
and a trial reaches the database in one transaction once it is known to be worth training; from then on every report and
state follows at once, so that nothing is lost when the process dies.
"""

import json
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.storages import BaseStorage, InMemoryStorage, RDBStorage
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import event, insert, update


class Database(RDBStorage):
    """Optuna's tables, for a process that nobody else writes beside: what a trial needs, in single inserts.

    Optuna's own methods look, before they write a parameter or a value, for the trial and for what might be there
    already; `Mirror` knows that from memory. This takes a tenth of the processor time.

    Args:
        url: SQLAlchemy's, such as ``sqlite:///optuna.db``.
    """

    def __init__(self, url: str) -> None:
        super().__init__(url)
        if self.engine.dialect.name == "sqlite":
            event.listen(self.engine, "connect", _write_ahead)
            self.engine.dispose()  # the connections that were opened before

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        """Write a trial as it is, under the number that it has."""
        trial = template_trial
        if trial is None or trial.number < 0:
            return super().create_new_trial(study_id, template_trial)
        row = {
            "study_id": study_id,
            "number": trial.number,
            "state": trial.state,
            "datetime_start": trial.datetime_start,
            "datetime_complete": trial.datetime_complete,
        }
        with self.engine.begin() as connection:
            key = connection.execute(insert(models.TrialModel), row).inserted_primary_key
            assert key is not None
            trial_id = int(key[0])
            for table, rows in self._rows(trial):
                if rows:
                    connection.execute(insert(table), [{"trial_id": trial_id, **columns} for columns in rows])
        return trial_id

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """Write a state, and values that are not there yet; False where a trial to be run does not wait for that."""
        columns: dict[str, Any] = {"state": state}
        if state == TrialState.RUNNING:
            columns["datetime_start"] = datetime.now()
        elif state.is_finished():
            columns["datetime_complete"] = datetime.now()
        there = update(models.TrialModel).where(models.TrialModel.trial_id == trial_id).values(**columns)
        if state == TrialState.RUNNING:
            there = there.where(models.TrialModel.state == TrialState.WAITING)
        with self.engine.begin() as connection:
            changed = connection.execute(there).rowcount == 1
            if changed and values is not None:
                rows = [{"trial_id": trial_id, **_value(index, value)} for index, value in enumerate(values)]
                connection.execute(insert(models.TrialValueModel), rows)
        return changed

    @staticmethod
    def _rows(trial: FrozenTrial) -> Iterator[tuple[Any, list[dict[str, Any]]]]:
        """What stands in the tables beside a trial's own."""
        yield (
            models.TrialParamModel,
            [
                {
                    "param_name": name,
                    "param_value": trial.distributions[name].to_internal_repr(value),
                    "distribution_json": distribution_to_json(trial.distributions[name]),
                }
                for name, value in trial.params.items()
            ],
        )
        for table, attributes in (
            (models.TrialUserAttributeModel, trial.user_attrs),
            (models.TrialSystemAttributeModel, trial.system_attrs),
        ):
            yield table, [{"key": key, "value_json": json.dumps(value)} for key, value in attributes.items()]
        yield models.TrialValueModel, [_value(index, value) for index, value in enumerate(trial.values or [])]
        yield (
            models.TrialIntermediateValueModel,
            [_intermediate(step, value) for step, value in trial.intermediate_values.items()],
        )

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        """Write a value that is not there yet."""
        row = {"trial_id": trial_id, **_intermediate(step, intermediate_value)}
        with self.engine.begin() as connection:
            connection.execute(insert(models.TrialIntermediateValueModel), [row])

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Write an attribute, or write it anew."""
        self._attribute(models.TrialUserAttributeModel, trial_id, key, value)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Write an attribute, or write it anew."""
        self._attribute(models.TrialSystemAttributeModel, trial_id, key, value)

    def _attribute(self, table: Any, trial_id: int, key: str, value: Any) -> None:
        content = json.dumps(value)
        with self.engine.begin() as connection:
            there = update(table).where(table.trial_id == trial_id, table.key == key).values(value_json=content)
            if connection.execute(there).rowcount == 0:
                connection.execute(insert(table), [{"trial_id": trial_id, "key": key, "value_json": content}])


def _write_ahead(connection: Any, _: Any) -> None:
    """A commit that does not wait for the disk, and yet no transaction is lost when the process dies.

    What a power failure may take are the last transactions, never the database (https://sqlite.org/wal.html).
    """
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")


def _value(index: int, value: float) -> dict[str, Any]:
    stored, kind = models.TrialValueModel.value_to_stored_repr(value)
    return {"objective": index, "value": stored, "value_type": kind}


def _intermediate(step: int, value: float) -> dict[str, Any]:
    stored, kind = models.TrialIntermediateValueModel.intermediate_value_to_stored_repr(value)
    return {"step": step, "intermediate_value": stored, "intermediate_value_type": kind}


class Mirror(InMemoryStorage):
    """One study of a database, in memory; what changes is written to the database, except proposals.

    A proposal (`optuna.Study.ask`) is in memory only, until `commit` or its end. Trials must be committed in the order
    of their numbers, which the database counts for itself.

    Args:
        database: where the study is.
        name: of the study.

    Raises:
        KeyError: there is no such study.
    """

    def __init__(self, database: BaseStorage, name: str) -> None:
        super().__init__()
        self.database = database
        self._there = database.get_study_id_from_name(name)
        self._here = super().create_new_study(database.get_study_directions(self._there), name)
        for key, value in database.get_study_user_attrs(self._there).items():
            super().set_study_user_attr(self._here, key, value)
        for key, value in database.get_study_system_attrs(self._there).items():
            super().set_study_system_attr(self._here, key, value)
        #: The database's ids of the trials that are in it, by the ids they have here.
        self._committed: dict[int, int] = {}
        for trial in sorted(database.get_all_trials(self._there), key=lambda trial: trial.number):
            self._committed[super().create_new_trial(self._here, trial)] = trial._trial_id
            self._studies[self._here].param_distribution.update(trial.distributions)

    def commit(self, trial_id: int) -> None:
        """Write a proposal, with all its parameters and attributes, to the database: one transaction."""
        if trial_id not in self._committed:
            self._committed[trial_id] = self.database.create_new_trial(self._there, self.get_trial(trial_id))

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        super().set_study_user_attr(study_id, key, value)
        self.database.set_study_user_attr(self._there, key, value)

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        super().set_study_system_attr(study_id, key, value)
        self.database.set_study_system_attr(self._there, key, value)

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        trial_id = super().create_new_trial(study_id, template_trial)
        if template_trial is not None:  # put into the queue, or added as a whole: not a proposal
            self.commit(trial_id)
        return trial_id

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        super().set_trial_param(trial_id, param_name, param_value_internal, distribution)
        if trial_id in self._committed:
            there = self._committed[trial_id]
            self.database.set_trial_param(there, param_name, param_value_internal, distribution)

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        changed = super().set_trial_state_values(trial_id, state, values)
        if state == TrialState.WAITING:  # Optuna looks for such only behind the last one that it found
            number, first = self.get_trial_number_from_id(trial_id), self._prev_waiting_trial_number
            first[self._here] = min(first[self._here], number)
        if trial_id in self._committed:
            self.database.set_trial_state_values(self._committed[trial_id], state, values)
        elif state.is_finished():
            self.commit(trial_id)
        return changed

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        super().set_trial_intermediate_value(trial_id, step, intermediate_value)
        if trial_id in self._committed:
            self.database.set_trial_intermediate_value(self._committed[trial_id], step, intermediate_value)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        super().set_trial_user_attr(trial_id, key, value)
        if trial_id in self._committed:
            self.database.set_trial_user_attr(self._committed[trial_id], key, value)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        super().set_trial_system_attr(trial_id, key, value)
        if trial_id in self._committed:
            self.database.set_trial_system_attr(self._committed[trial_id], key, value)
