"""What a new study tries first: the config's own values, what the user asked for, what was best elsewhere."""

import contextlib
import json
import logging
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from optuna.trial import FixedTrial

from mnist_sweep.config.command import compose
from mnist_sweep.config.overrides import override, replaced, text
from mnist_sweep.config.sweep_options import Sweep
from mnist_sweep.errors import RequestError
from mnist_sweep.sweep.candidates import Proposals
from mnist_sweep.sweep.database import best_of
from mnist_sweep.sweep.space import Space
from mnist_sweep.sweep.study import BASELINE, IDENTITY

log = logging.getLogger(__name__)

Entry = str | list[str] | dict[str, Any]
#: Parameters, and attributes that say where they come from.
First = tuple[dict[str, Any], dict[str, Any]]


def first(settings: Sweep, space: Space, given: Sequence[str], config_dir: str | None) -> list[First]:
    """What a study tries first, each point once: with the attributes of every entry that asks for it.

    Among the attributes is `IDENTITY`, by which a later sitting knows what has been queued.

    Args:
        settings: of the sweep.
        space: what is searched.
        given: the overrides that all trials have in common.
        config_dir: the further folder of configs.

    Raises:
        RequestError: an entry of ``sweep.enqueue`` or the study of ``sweep.warm_start`` does not fit.
    """
    proposals = Proposals(given, config_dir, settings.constraints or {})
    asked = enqueued(settings.enqueue, space, proposals)
    entries: list[First] = [(parameters, {"enqueued": index}) for index, parameters in enumerate(asked)]
    entries += _warm(settings, space) if settings.warm_start else []
    if (own := baseline(space)) is not None:
        with contextlib.suppress(RequestError):  # it breaks a constraint
            proposals.make(space.suggest(FixedTrial(own)))
            entries.append((own, {BASELINE: True}))
    found: list[First] = []
    for parameters, attributes in entries:
        if same := next((known for point, known in found if point == parameters), None):
            same |= {key: value for key, value in attributes.items() if key not in same}
        else:
            found.append((parameters, dict(attributes)))
    # by what it would train: after a change of the config, the same parameters are something else
    alike = Proposals(replaced(given, [override("trainer.precision", 32)]), config_dir, {})
    for parameters, attributes in found:
        attributes[IDENTITY] = _identity(parameters, space, alike)
    return found


def _identity(parameters: Mapping[str, Any], space: Space, proposals: Proposals) -> str:
    """What tells one thing to try from another, on every machine."""
    try:
        return proposals.make(space.suggest(FixedTrial(dict(parameters)))).digest
    except (ValueError, RequestError):  # the sampler draws the rest
        return json.dumps(parameters, sort_keys=True)


def _warm(settings: Sweep, space: Space) -> list[First]:
    """What was best in another study, as far as it is searched here."""
    ranked = [space.partial(values) for values in best_of(settings)]
    if not any(ranked):
        searched = ", ".join(dimension.key for dimension in space.dimensions)
        raise RequestError(
            f"sweep.warm_start={settings.warm_start}: nothing that its best trials drew is within sweep.space here; "
            f"allowed: a study that drew one of {searched}"
        )
    return [
        (parameters, {"warm_start": f"{settings.warm_start}, rank {rank}"})
        for rank, parameters in enumerate(ranked, start=1)
        if parameters
    ]


def baseline(space: Space) -> dict[str, Any] | None:
    """The parameters that propose the config's own values; None where the space does not hold them."""
    return space.encode({})


def enqueued(entries: Sequence[Entry], space: Space, proposals: Proposals) -> list[dict[str, Any]]:
    """The parameters that propose each entry of ``sweep.enqueue``: what a run with it among its overrides would train.

    Args:
        entries: each the overrides of one trial, as one text, a list of texts, or a mapping.
        space: what is searched.
        proposals: makes them, of the overrides that all trials have in common.

    Raises:
        RequestError: an entry cannot be composed, is not a point of the space, or breaks a constraint.
    """
    return [
        _encoded(f"sweep.enqueue[{index}]={text(entry)}", _overrides(index, entry), space, proposals)
        for index, entry in enumerate(entries)
    ]


def _overrides(index: int, entry: Entry) -> list[str]:
    if isinstance(entry, Mapping):
        return [override(key, value) for key, value in entry.items()]
    refused = f"sweep.enqueue[{index}]={text(entry)}: allowed: overrides such as optimizer.lr=0.1"
    try:
        items = shlex.split(entry) if isinstance(entry, str) else list(entry)
    except ValueError as error:  # a quote without an end
        raise RequestError(refused) from error
    if isinstance(entry, str):  # a shell's word loses the quotes of Hydra's grammar; whole, it may be one override
        try:
            OverridesParser.create().parse_overrides([entry])
        except HydraException:
            pass
        else:
            items = [entry]
    try:
        OverridesParser.create().parse_overrides(items)
    except HydraException as error:
        raise RequestError(refused) from error
    return items


def _encoded(name: str, items: Sequence[str], space: Space, proposals: Proposals) -> dict[str, Any]:
    searched = ", ".join(dimension.key for dimension in space.dimensions)
    try:
        wanted = compose(replaced(proposals.given, items), proposals.config_dir).parameters()
        parameters = space.encode(wanted)
        if parameters is None:
            raise RequestError(f"not within sweep.space; allowed: values that it can propose for {searched}")
        proposal = proposals.make(space.suggest(FixedTrial(parameters)))
        proposed = proposals.config(proposal.values).parameters()
    except RequestError as error:
        raise RequestError(f"{name}: {error}") from error
    lost = [key for key, value in wanted.items() if not _same(value, proposed.get(key))]
    if lost:
        never = [key for key in lost if key not in {dimension.key for dimension in space.dimensions}]
        said = f"{', '.join(never)} is not searched" if never else f"{', '.join(lost)} is not drawn beside the others"
        raise RequestError(f"{name}: {said}; allowed: {searched}, each under its condition")
    return parameters


def _same(wanted: Any, proposed: Any) -> bool:
    """Whether both mean the same: one number stands for all blocks."""
    if isinstance(proposed, list) and not isinstance(wanted, list):
        return all(item == wanted for item in proposed)
    return bool(wanted == proposed)
