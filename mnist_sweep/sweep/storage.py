"""Optuna's storage for a study that one process alone writes: in memory, written through to a database.

Optuna's own database storage spends one transaction on each parameter and reads the study anew for each proposal: about
60 ms of processor time a trial, most of it between a free worker and its next trial. Here proposals are made in memory,
and a trial reaches the database in one transaction once it is known to be worth training; from then on every report and
state follows at once, so that nothing is lost when the process dies.
"""

from collections.abc import Sequence
from typing import Any

from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.storages import BaseStorage, InMemoryStorage, RDBStorage
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState


class Database(RDBStorage):
    """A database that nobody else writes to meanwhile."""

    def _set_trial_param_without_commit(self, *arguments: Any) -> None:
        # Optuna's own looks, for each parameter, for the trial and for a trial that had the parameter before; `Mirror`
        # has compared them in memory. An Optuna that does not call this any more is slower, not wrong.
        session, trial_id, name, value, distribution, *_ = arguments
        session.add(
            models.TrialParamModel(
                trial_id=trial_id,
                param_name=name,
                param_value=value,
                distribution_json=distribution_to_json(distribution),
            )
        )


class Mirror(InMemoryStorage):
    """One study of a database, in memory; what changes is written to the database, but for proposals.

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
