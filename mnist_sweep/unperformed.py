"""The records of runs that are not performed here: their process died, they were given up, or an equal run was made.

Without torch, so that the driver of a sweep can keep them.
"""

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mnist_sweep.config import schema
from mnist_sweep.errors import RequestError, uninterrupted
from mnist_sweep.result import Result, noted
from mnist_sweep.run_record import Record, begun, ended, folder_of


def abandon(
    config: schema.Config,
    given: Sequence[str],
    *,
    config_dir: str | None,
    parent: str | None,
    tags: Mapping[str, Any],
    reason: str,
    detail: str,
) -> Result:
    """The record of a run whose process died or hung: failed, with as much of its history as it noted.

    Args:
        config, given, config_dir: as for `Record`.
        parent, tags: as for `Record.open`.
        reason: one word for programs: ``crashed``, ``timeout`` or ``error``.
        detail: one line for people.

    Returns:
        The result; the run's own, where its process died after it had come to its end.
    """
    if own := ended(config):
        return own
    before = noted(folder_of(config))
    record = Record(config, given, config_dir, before.get("device", "cpu"), before.get("threads", 1))
    known: dict[str, Any] = {"history": before.get("history", []), "parameters": before.get("parameters")}
    known |= {key: round(before.get(key, 0.0), 3) for key in ("seconds", "train_seconds")}
    with uninterrupted():
        _open_for(record, parent, tags, before.get("attempts", 1), known["parameters"])
        record.epoch(known["history"], known["parameters"], known["train_seconds"])
        return record.close(record.result("failed", reason=reason, detail=detail, **known))


def give_up(
    folder: Path,
    tracking: schema.Tracking,
    *,
    config_dir: str | None,
    parent: str | None,
    tags: Mapping[str, Any],
    detail: str,
) -> None:
    """Close the record of a run that was interrupted and will not go on; nothing where none was begun.

    Args:
        folder: of the run, wherever it was started from.
        tracking: where its account is from here.
        config_dir: as for `Record`.
        parent, tags: as for `Record.open`.
        detail: one line for people.
    """
    if there := begun(folder):
        here = {"output": str(folder.parent.parent), "name": folder.name, "tracking": tracking}
        config = there[0].model_copy(update=here)
        abandon(config, there[1], config_dir=config_dir, parent=parent, tags=tags, reason="error", detail=detail)


def repeat(
    config: schema.Config,
    given: Sequence[str],
    earlier: Result,
    *,
    config_dir: str | None,
    parent: str | None,
    tags: Mapping[str, Any],
) -> Result:
    """The record of a run that is not performed because an equal one was: the same numbers, marked as taken over.

    Args:
        config, given, config_dir: as for `Record`.
        earlier: of the equal run.
        parent, tags: as for `Record.open`.
    """
    original = earlier.duplicate_of or Path(earlier.folder).name
    record = Record(config, given, config_dir, earlier.device, earlier.threads)
    with uninterrupted():
        _open_for(record, parent, {**tags, "duplicate_of": original}, 1, earlier.parameters)
        record.epoch(earlier.history, earlier.parameters, 0.0)
        own: dict[str, Any] = {"seconds": 0.0, "train_seconds": 0.0, "checkpoint": None, "attempts": 1}
        own |= {"overrides": record.overrides, "command": record.command, "folder": str(record.folder)}
        own |= {"mlflow_run_id": record.account.run_id, "duplicate_of": original, "seed": config.seed}
        return record.close(dataclasses.replace(earlier, **own))


def _open_for(
    record: Record, parent: str | None, tags: Mapping[str, Any], attempt: int, parameters: int | None
) -> None:
    """Open the record of a run that may have been begun, but is not performed here, which is no attempt."""
    record.make_folder(resume=True)
    record.attempt = attempt
    record.open(parent, tags)
    record.account.tags({"parameters": parameters})
    with contextlib.suppress(RequestError):  # a damaged file is the business of those that read it
        record.describe()
