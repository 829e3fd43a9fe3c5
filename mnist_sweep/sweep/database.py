"""Where studies are kept: opened or resumed, and only if it is still the same sweep; the best of another one."""

import contextlib
import json
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.study import StudyDirection
from optuna.trial import TrialState
from sqlalchemy import make_url
from sqlalchemy.exc import SQLAlchemyError

from mnist_sweep.config import schema
from mnist_sweep.config.sweep_options import Sweep
from mnist_sweep.errors import RequestError
from mnist_sweep.sweep.fingerprint import changes, conflict, fingerprint
from mnist_sweep.sweep.space import Space
from mnist_sweep.sweep.storage import Database, Mirror
from mnist_sweep.sweep.study import Study, kept, objectives


def open_study(config: schema.Config, space: Space, digest: str) -> Study:
    """The study of this name, new or resumed.

    Args:
        config: with its ``sweep``.
        space: what is searched.
        digest: of the data set.

    Raises:
        RequestError: the storage cannot be opened, or the study was begun with another space, objective, data set or
            other settings; each difference is named.
    """
    assert config.sweep is not None
    settings, goals = config.sweep, objectives(config)
    directions = [goal.direction for goal in goals]
    with _used(settings) as database:
        optuna.create_study(study_name=settings.name, storage=database, load_if_exists=True, directions=directions)
        storage = Mirror(database, settings.name)
        study = optuna.load_study(study_name=settings.name, storage=storage)
    now, before = fingerprint(config, goals, space, digest), study.user_attrs.get("fingerprint")
    if before is None:
        if study.trials or [direction.name.lower() for direction in study.directions] != directions:
            raise RequestError(
                f"sweep.name={settings.name}: this study was begun by another program; allowed: sweep.name=ANOTHER"
            )
        study.set_user_attr("fingerprint", now)
        study.set_user_attr("id", uuid.uuid4().hex)
    elif before != now:
        differences, bearable = changes(before, now)
        if settings.sampler.name == "grid" and any(line.startswith("sweep.space.") for line in differences):
            differences.append("another grid")
            bearable = False
        if bearable and (name := conflict(study.get_trials(deepcopy=False), space)):
            differences.append(f"Optuna cannot draw {name} otherwise than before")
            bearable = False
        refused = f"sweep.name={settings.name}: this study was begun otherwise ({'; '.join(differences)}); allowed: "
        if not bearable:
            raise RequestError(refused + "the settings it was begun with, or sweep.name=ANOTHER")
        if not settings.allow_changes:
            raise RequestError(refused + "sweep.name=ANOTHER, or sweep.allow_changes=true")
        study.set_user_attr("fingerprint", now)
    return Study(study, storage, goals, settings.constraints or {})


def storage_file(settings: Sweep) -> Path | None:
    """The file of ``sweep.storage``; None where that is a server.

    Raises:
        RequestError: it is no URL of a database, or of one in memory, or the package that talks to such is not
            installed.
    """
    try:
        url = make_url(settings.storage)
        url.get_dialect().import_dbapi()
    except (SQLAlchemyError, ImportError) as error:
        raise not_opened(settings, error) from error
    if url.get_backend_name() != "sqlite":
        return None
    if not url.database or url.database == ":memory:":
        raise not_opened(settings, ValueError("a study in memory could not be gone on with"))
    return Path(url.database)


@contextlib.contextmanager
def _used(settings: Sweep) -> Iterator[Database]:
    """The database of ``sweep.storage``.

    Raises:
        RequestError: it cannot be opened, or what is done with it in the block fails.
    """
    try:
        if file := storage_file(settings):
            file.parent.mkdir(parents=True, exist_ok=True)
        yield Database(settings.storage)
    except RequestError:
        raise
    except Exception as error:  # Optuna's, SQLAlchemy's and each driver's own
        raise not_opened(settings, error) from error


def not_opened(settings: Sweep, error: Exception) -> RequestError:
    """What is said where ``sweep.storage`` cannot be used."""
    line = " ".join(str(error).split())[:200]
    return RequestError(
        f"sweep.storage={settings.storage}: cannot be opened ({line}); allowed: a URL such as sqlite:///FILE"
    )


def best_of(settings: Sweep) -> list[Mapping[str, Any]]:
    """The drawn values of the best trials of ``sweep.warm_start``, the best first.

    Raises:
        RequestError: there is no such study, or no trial of it finished and kept its constraints.
    """
    assert settings.warm_start is not None
    file = storage_file(settings)
    names: list[str] = []
    trials: list[optuna.trial.FrozenTrial] = []
    sign = 1
    if file is None or file.exists():  # else to look would make it
        with _used(settings) as database, contextlib.ExitStack() as stack:
            stack.callback(database.engine.dispose)
            names = optuna.get_all_study_names(database)
            if settings.warm_start in names:
                study = optuna.load_study(study_name=settings.warm_start, storage=database)
                trials = [trial for trial in study.get_trials(states=(TrialState.COMPLETE,)) if kept(trial)]
                sign = -1 if study.directions[0] == StudyDirection.MAXIMIZE else 1
    if settings.warm_start not in names:
        raise RequestError(
            f"sweep.warm_start={settings.warm_start}: no such study in {settings.storage}; "
            f"there: {', '.join(names) or 'none yet'}"
        )
    ranked = sorted(trials, key=lambda trial: (sign * (trial.values or [0.0])[0], trial.number))
    drawn = [trial.user_attrs["values"] for trial in ranked if "values" in trial.user_attrs]
    if not drawn:
        raise RequestError(
            f"sweep.warm_start={settings.warm_start}: no trial of a sweep there finished and kept its constraints"
        )
    distinct = {json.dumps(values, sort_keys=True): values for values in drawn}
    return list(distinct.values())[: settings.warm_start_top]
