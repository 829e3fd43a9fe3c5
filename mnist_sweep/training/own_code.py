"""Networks and metrics of the user's own, named ``my_package.nets:MyNet`` or ``path/to/nets.py:MyNet``.

A worker finds them as this process does: it has the same import path.
"""

import functools
import importlib
import importlib.util
import inspect
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnist_sweep.config import metrics
from mnist_sweep.config.network_shapes import Images, Layer
from mnist_sweep.config.options import Extra
from mnist_sweep.errors import RequestError, one_line

if TYPE_CHECKING:
    from torch import nn

#: A metric: counts (classes, classes), probabilities (N, classes), labels (N,) → a number; see `config.metrics`.
Metric = Callable[[Any, Any, Any], float]


def resolve(key: str, target: str) -> Any:
    """What ``MODULE:NAME`` or ``FILE.py:NAME`` means; RequestError, which begins with the key, where it is nothing."""
    where, _, name = target.rpartition(":")
    try:
        if where.endswith(".py"):
            module = _of_file(Path(where))
        else:
            if str(Path.cwd()) not in sys.path:  # a console script's has only its own folder
                sys.path.append(str(Path.cwd()))
            module = importlib.import_module(where)
        return functools.reduce(getattr, name.split("."), module)
    except (Exception, SystemExit) as error:  # whatever the user's code raises
        allowed = "MODULE:NAME on the import path, which a checkpoint of it needs as well, or FILE.py:NAME"
        raise RequestError(
            f"{key}={target}: cannot be imported ({one_line(error, 150)}); allowed: {allowed}"
        ) from error


def _of_file(file: Path) -> Any:
    """The module of a file, which is imported once."""
    name = f"{file.stem}@{file}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec is not None
        assert spec.loader is not None
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]


@functools.cache
def _network_class(target: str) -> "type[nn.Module]":
    from torch import nn

    found = resolve("model.target", target)
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise RequestError(f"model.target={target}: is no torch.nn.Module; allowed: a class of such")
    return found


def network(target: str, arguments: Mapping[str, Any], images: Images) -> "nn.Module":
    """The user's network with fresh weights: CLASS(in_channels, (height, width), classes, **arguments)."""
    kind = _network_class(target)
    try:
        return kind(images.channels, (images.height, images.width), images.classes, **arguments)
    except Exception as error:
        called = f"{kind.__name__}({images.channels}, {images.height, images.width}, {images.classes}, **{arguments})"
        raise RequestError(f"model.target={target}: {called} fails ({one_line(error, 200)})") from error


def defaults(target: str) -> dict[str, Any]:
    """The default values of the class's own arguments, as far as they are plain."""
    found = list(inspect.signature(_network_class(target)).parameters.values())[3:]
    plain = (bool, int, float, str, list, type(None))
    return {each.name: each.default for each in found if isinstance(each.default, plain)}


def layers(target: str, arguments: Mapping[str, Any], images: Images) -> list[Layer]:
    """The whole network as one row: its trainable numbers and multiply-adds, found by a pass of two black images.

    RequestError where it cannot be built, fails on them, has nothing to train, or returns no logits (2, classes).
    """
    return [_layer(target, json.dumps(arguments, sort_keys=True), images)]


@functools.lru_cache(maxsize=4096)
def _layer(target: str, arguments: str, images: Images) -> Layer:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    where, counter = f"model.target={target}", FlopCounterMode(display=False)
    with torch.random.fork_rng(devices=[]):  # a run's own draws must not depend on it
        built = network(target, json.loads(arguments), images)
        try:
            with torch.no_grad(), counter:
                logits = built(torch.zeros(2, *images.shape))
        except Exception as error:
            shape = " × ".join(map(str, (2, *images.shape)))
            raise RequestError(f"{where}: fails on images of {shape} ({one_line(error, 200)})") from error
    if not isinstance(logits, torch.Tensor) or logits.shape != (2, images.classes):
        got = f"a tensor of {tuple(logits.shape)}" if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise RequestError(f"{where}: returns {got} for two images; allowed: logits of (2, {images.classes})")
    parameters = sum(each.numel() for each in built.parameters() if each.requires_grad)
    if not parameters:
        raise RequestError(f"{where}: has no parameters; allowed: a network that can be trained")
    return Layer(type(built).__name__, (images.classes,), parameters, counter.get_total_flops() // 4)


def extra_metrics(wanted: Sequence[Extra]) -> dict[str, Metric]:
    """The functions of ``metrics.extra`` by the last part of their names; RequestError where one cannot be called."""
    found: dict[str, Metric] = {}
    for each in wanted:
        builtin = each.target == each.metric == "balanced_accuracy"
        function = metrics.balanced_accuracy if builtin else resolve("metrics.extra", each.target)
        if not callable(function):
            raise RequestError(f"metrics.extra={each.target}: is no function; allowed: one that can be called")
        found[each.metric] = function
    return found


def check_metrics(wanted: Sequence[Extra], classes: int) -> None:
    """Call each metric once, on a perfect answer for each class; RequestError where it fails or gives no number."""
    import numpy as np

    for name, function in extra_metrics(wanted).items():
        target = next(each.target for each in wanted if each.metric == name)
        try:
            value = float(
                function(np.eye(classes, dtype=np.int64), np.eye(classes, dtype=np.float32), np.arange(classes))
            )
        except Exception as error:
            called = "(confusion, probabilities, labels) of one image a class"
            raise RequestError(f"metrics.extra={target}: fails on {called} ({one_line(error, 200)})") from error
        if not math.isfinite(value):
            raise RequestError(f"metrics.extra={target}: gives {value} for a perfect answer; allowed: a finite number")
