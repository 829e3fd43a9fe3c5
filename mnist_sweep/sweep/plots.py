"""The study as Optuna's own interactive plots (plotly)."""

import copy
import logging
import math
import statistics
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import optuna
from optuna import visualization
from optuna.trial import FrozenTrial, TrialState

from mnist_sweep.errors import one_line
from mnist_sweep.sweep.study import Study

log = logging.getLogger(__name__)

_IN_A_ROW = 4


def draw(study: Study) -> dict[str, Any]:
    """The plots that the study allows, as plotly's figures by name, in the order of the report."""
    seen, metric = with_pruned(study), study.goals[0].metric
    judged: dict[str, Any] = {
        "target": (lambda trial: trial.values[0]) if study.several else None,
        "target_name": metric,
    }
    # the importance for a target is that for being among its lowest
    cost = {"target": lambda trial: -study.goals[0].sign * trial.values[0]} if study.several else {}
    complete = seen.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    searched = list(dict.fromkeys(name for trial in complete for name in trial.params))
    plots: dict[str, Callable[[], Any]] = {
        "history": lambda: visualization.plot_optimization_history(study.study, **judged)
    }
    if len(complete) > 1:
        plots["importances"] = lambda: visualization.plot_param_importances(seen, **judged | cost)
    if 1 < len(study.goals) < 4:
        names = [goal.metric for goal in study.goals]
        plots["pareto_front"] = lambda: visualization.plot_pareto_front(study.study, target_names=names)
    plots["parallel_coordinates"] = lambda: visualization.plot_parallel_coordinate(seen, **judged)
    for start in range(0, len(searched), _IN_A_ROW):  # more in a row, and their labels would overlap
        some = searched[start : start + _IN_A_ROW]
        plots[f"slices_{1 + start // _IN_A_ROW}"] = partial(visualization.plot_slice, seen, params=some, **judged)
    if any(trial.intermediate_values for trial in study.trials()):
        plots["learning_curves"] = lambda: visualization.plot_intermediate_values(study.study)
    plots["timeline"] = lambda: visualization.plot_timeline(study.study)
    drawn: dict[str, Any] = {}
    for name, plot in plots.items():
        try:
            with warnings.catch_warnings(action="ignore"):  # Optuna's, on experimental plots and on small studies
                drawn[name] = plot()
        except Exception as error:  # a report lacks one plot rather than all
            log.warning("the plot %s could not be drawn (%s)", name, one_line(error))
        else:
            _make_legible(name, drawn[name], study, [metric, *sorted(searched)])
    return drawn


def _make_legible(name: str, figure: Any, study: Study, coordinates: list[str]) -> None:
    """Whole names, plain numbers, and no axis that one outlier decides."""
    figure.update_layout(title=None, width=None, margin={"t": 40}, template="plotly_white", font={"size": 13})
    kind = name.partition("_")[0]
    if kind == "parallel":  # Optuna cuts names to 20 letters
        figure.update_layout(width=max(900, 130 * len(coordinates)), margin={"b": 90})
        figure.update_xaxes(ticktext=coordinates, tickangle=-20)
    if kind == "learning":  # a legend with a line for each trial would fill the picture
        figure.update_layout(showlegend=False, xaxis_title="epoch", yaxis_title=study.goals[0].metric)
    if kind == "slices":
        figure.update_xaxes(exponentformat="none")  # 0.0001 rather than 100µ
        for trace in figure.data:
            axis = figure.layout[f"xaxis{(trace.xaxis or 'x')[1:]}"]
            if axis.type == "log" and max(trace.x) > 30 * min(trace.x):
                axis.dtick = 1  # only the powers of ten: there is room for no more
    if kind in ("history", "slices", "learning"):
        figure.update_yaxes(range=_range(study))


def with_pruned(study: Study) -> optuna.Study:
    """A copy in memory in which pruned trials count as complete, with the best value that they reported.

    Optuna's plots and importances read complete trials alone; where most are pruned, most of what a sweep has found
    out would not be seen. With several objectives nothing is pruned, and the study itself is returned.
    """
    if study.several:
        return study.study
    seen = optuna.create_study(direction=study.goals[0].direction)
    for trial in study.trials():  # all of them, so that each keeps its number
        counted = copy.copy(trial)
        if trial.state == TrialState.PRUNED and trial.intermediate_values:
            counted.state, counted.values = TrialState.COMPLETE, [reached(study, trial)]
        seen.add_trial(counted)
    return seen


def reached(study: Study, trial: FrozenTrial) -> float:
    """The best value of the first objective that a trial reported; it has reported one."""
    best = max if study.goals[0].direction == "maximize" else min
    return float(best(trial.intermediate_values.values()))


def pruned(study: Study) -> list[FrozenTrial]:
    """The pruned trials that reported a value, the one that reached the best first."""
    found = [trial for trial in study.trials(TrialState.PRUNED) if trial.intermediate_values]
    return sorted(found, key=lambda trial: (-study.goals[0].sign * reached(study, trial), trial.number))


def _range(study: Study) -> list[float] | None:
    """What of the first objective's axis is shown: without values that lie far below, or above, all the others.

    Far is by Tukey's fences (Exploratory Data Analysis, 1977), three quartile distances from the quartiles: one trial
    that learned nothing would press all others into a line. None = as plotly has it.
    """
    reported = [value for trial in study.trials() for value in trial.intermediate_values.values()]
    values = [float(value) for value in reported if math.isfinite(value)]
    if study.several or len(values) < 8:
        return None
    first, _, third = statistics.quantiles(values, n=4)
    away = 3 * (third - first)
    inside = [value for value in values if first - away <= value <= third + away]
    margin = 0.05 * (max(inside) - min(inside))
    return [min(inside) - margin, max(inside) + margin] if margin else None
