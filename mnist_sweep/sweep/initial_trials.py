"""What a study tries first: the config's own values, what the user asked for, what was best elsewhere."""

import contextlib
import json
import shlex
from collections.abc import Mapping
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from optuna.trial import FixedTrial

from mnist_sweep.config.command import CommandLine
from mnist_sweep.config.overrides import override, text
from mnist_sweep.config.sweep_options import Sweep
from mnist_sweep.errors import RequestError
from mnist_sweep.sweep.candidates import Candidates
from mnist_sweep.sweep.space import Space, same
from mnist_sweep.sweep.storage import best_of
from mnist_sweep.sweep.study import BASELINE, IDENTITY

#: Optuna's parameters, and user attributes that say where they come from.
Initial = tuple[dict[str, Any], dict[str, Any]]


def first(settings: Sweep, space: Space, common: CommandLine) -> list[Initial]:
    """What a study tries first, each point once: with the attributes of every entry that asks for it.

    Among the attributes is `IDENTITY`, by which a later session knows what has been queued.

    Args:
        settings: of the sweep.
        space: what is searched.
        common: what all trials have in common.

    Raises:
        RequestError: an entry of ``sweep.enqueue`` or the study of ``sweep.warm_start`` does not fit.
    """
    candidates = Candidates(common, settings.constraints or {})
    asked: list[Initial] = []
    for index, entry in enumerate(settings.enqueue):
        try:
            asked.append((_enqueued(entry, space, candidates), {"enqueued": index}))
        except RequestError as error:
            raise RequestError(f"sweep.enqueue[{index}]={text(entry)}: {error}") from error
    asked += _warm_start(settings, space) if settings.warm_start else []
    if (own := space.encode({})) is not None:
        with contextlib.suppress(RequestError):  # it breaks a constraint
            candidates.make(space.suggest(FixedTrial(own)))
            asked.append((own, {BASELINE: True}))
    found: dict[str, Initial] = {}
    for parameters, attributes in asked:
        known = found.setdefault(json.dumps(parameters, sort_keys=True), (parameters, {}))[1]
        known.update(attributes | known)
    # by what it would train, on every machine: after a change of the config the same parameters are something else
    alike = Candidates(common.with_({"trainer.precision": 32}), {})
    for point, (parameters, attributes) in found.items():
        attributes[IDENTITY] = point
        with contextlib.suppress(ValueError, RequestError):  # the sampler draws the rest
            attributes[IDENTITY] = alike.make(space.suggest(FixedTrial(parameters))).digest
    return list(found.values())


def _warm_start(settings: Sweep, space: Space) -> list[Initial]:
    """What was best in another study, as far as it is searched here."""
    ranked = [space.partial(values) for values in best_of(settings)]
    if not any(ranked):
        raise RequestError(
            f"sweep.warm_start={settings.warm_start}: nothing that its best trials drew is within sweep.space here; "
            f"allowed: a study that drew one of {', '.join(space.keys)}"
        )
    ranks = enumerate(ranked, start=1)
    return [(drawn, {"warm_start": f"{settings.warm_start}, rank {rank}"}) for rank, drawn in ranks if drawn]


def _enqueued(entry: str | list[str] | dict[str, Any], space: Space, candidates: Candidates) -> dict[str, Any]:
    """The parameters that propose what a run with these overrides would train.

    Raises:
        RequestError: the entry cannot be composed, is not a point of the space, or breaks a constraint.
    """
    searched = ", ".join(space.keys)
    wanted = candidates.common.add(*_overrides(entry)).config.parameters()
    parameters = space.encode(wanted)
    if parameters is None:
        raise RequestError(f"not within sweep.space; allowed: values that it can propose for {searched}")
    values = candidates.make(space.suggest(FixedTrial(parameters))).values
    proposed = candidates.common.with_(values).config.parameters()
    if lost := [key for key, value in wanted.items() if not same(value, proposed.get(key))]:
        never = [key for key in lost if key not in space.keys]
        why = f"{', '.join(never)} is not searched" if never else f"{', '.join(lost)} is not drawn beside the others"
        raise RequestError(f"{why}; allowed: {searched}, each under its condition")
    return parameters


def _overrides(entry: str | list[str] | dict[str, Any]) -> list[str]:
    if isinstance(entry, Mapping):
        return [override(key, value) for key, value in entry.items()]
    parser = OverridesParser.create()
    if isinstance(entry, str):
        with contextlib.suppress(HydraException):  # one override, whose quotes a shell would take away
            parser.parse_override(entry)
            return [entry]
    try:
        items = shlex.split(entry) if isinstance(entry, str) else entry
        parser.parse_overrides(items)
    except (ValueError, HydraException) as error:  # such as a quote without an end
        raise RequestError("allowed: overrides such as optimizer.lr=0.1") from error
    return items
