"""The axes of plots: errors rather than accuracies where these are high, and logarithmic ones with round numbers."""

import math
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from mnist_sweep.config import metrics

#: From this accuracy on errors are drawn, on a logarithmic axis: 99.0 and 99.5% are far apart there.
_ERRORS = 0.95
_FINE = (1, 1.2, 1.4, 1.6, 1.8, *range(2, 10))


@dataclass(frozen=True)
class Axis:
    """How the values of a metric are drawn."""

    title: str
    place: Callable[[float], float]  # of a value on the axis
    layout: dict[str, Any]

    @classmethod
    def of(cls, metric: str, values: Iterable[float]) -> "Axis":
        """Errors on a logarithmic axis where half of the values of a share are above 95%, else the values themselves.

        What spans more than a factor of twenty, such as a count of parameters, has a logarithmic axis, too.
        """
        known = sorted(values)
        if not known:
            return cls(metric, float, {"title": metric})
        low, high = known[0], known[-1]
        if metric in metrics.SHARES and statistics.median(known) > _ERRORS and high < 1:
            title = f"error: 1 − {metric}"
            marks = ticks(1 - high, 1 - low)
            labels = {"tickvals": marks, "ticktext": [f"{100 * mark:.3g}%" for mark in marks]}
            return cls(title, lambda value: 1 - value, {"title": title, "type": "log", **labels})
        if metric not in metrics.SHARES and 0 < 20 * low < high:
            return cls(metric, float, {"title": metric, "type": "log", "tickvals": ticks(low, high)})
        return cls(metric, float, {"title": metric})


def ticks(low: float, high: float, most: int = 8) -> list[float]:
    """Round numbers for a logarithmic axis from `low` to `high`, both above 0: about as many as there is room for."""
    powers = range(math.floor(math.log10(low)), math.floor(math.log10(high)) + 1)
    inside: list[float] = []
    for steps in (_FINE, (1, 1.5, 2, 3, 4, 5, 7), (1, 2, 5), (1,)):
        inside = [mark for power in powers for step in steps if low <= (mark := step * 10.0**power) <= high]
        if len(inside) <= most:
            break
    return inside if len(inside) > 1 else [low, high]
