"""The study as Optuna's own interactive plots (plotly)."""

import copy
import logging
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import optuna
from optuna import visualization
from optuna.trial import FrozenTrial, TrialState
from plotly.graph_objects import Figure, Scatter

from mnist_sweep.errors import one_line
from mnist_sweep.sweep.study import CURVE, Study

log = logging.getLogger(__name__)

_IN_A_ROW = 4


def draw(study: Study) -> dict[str, Any]:
    """The plots that the study allows, as plotly's figures by name, in the order of the report."""
    seen, goals = with_pruned(study), study.goals
    real = optuna.create_study(directions=[goal.direction for goal in goals])
    real.add_trials(study.trials())
    judged: dict[str, Any] = {"target": None, "target_name": goals[0].metric}
    weighed = dict(judged)
    if study.several:
        judged["target"] = lambda trial: trial.values[0]
        # the importance for a target is that for being among its lowest
        weighed["target"] = lambda trial: -goals[0].sign * trial.values[0]
    complete = seen.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    searched = list(dict.fromkeys(name for trial in complete for name in trial.params))
    plots: dict[str, Callable[[], Any]] = {}
    if study.recall(CURVE):
        plots["found"] = partial(_best_by_epochs, study)
    plots["history"] = partial(visualization.plot_optimization_history, real, **judged)
    if len(complete) > 1:
        plots["importances"] = partial(visualization.plot_param_importances, seen, **weighed)
    if 1 < len(goals) < 4:
        names = [goal.metric for goal in goals]
        plots["pareto_front"] = partial(visualization.plot_pareto_front, real, target_names=names)
    plots["parallel_coordinates"] = partial(visualization.plot_parallel_coordinate, seen, **judged)
    for start in range(0, len(searched), _IN_A_ROW):  # more in a row, and their labels would overlap
        some = searched[start : start + _IN_A_ROW]
        plots[f"slices_{1 + start // _IN_A_ROW}"] = partial(visualization.plot_slice, seen, params=some, **judged)
    if any(trial.intermediate_values for trial in study.trials()):
        plots["learning_curves"] = partial(visualization.plot_intermediate_values, real)
    plots["timeline"] = partial(visualization.plot_timeline, real)
    drawn: dict[str, Any] = {}
    for name, plot in plots.items():
        try:
            with warnings.catch_warnings(action="ignore"):  # Optuna's, on experimental plots and on small studies
                drawn[name] = plot()
        except Exception as error:  # a report lacks one plot rather than all
            log.warning("the plot %s could not be drawn (%s)", name, one_line(error))
        else:
            _make_legible(name, drawn[name], [goals[0].metric, *sorted(searched)])
    return drawn


def _make_legible(name: str, figure: Any, coordinates: list[str]) -> None:
    """Whole names and plain numbers."""
    figure.update_layout(title=None, width=None, margin={"t": 40}, template="plotly_white", font={"size": 13})
    if name == "parallel_coordinates":  # Optuna cuts names to 20 letters
        figure.update_layout(width=max(900, 130 * len(coordinates)), margin={"b": 90})
        figure.update_xaxes(ticktext=coordinates, tickangle=-20)
    if name == "learning_curves":  # a legend with a line for each trial would fill the picture
        figure.update_layout(showlegend=False, xaxis_title="epoch", yaxis_title=coordinates[0])
    if name.startswith("slices"):
        figure.update_xaxes(exponentformat="none")  # 0.0001 rather than 100µ


def _best_by_epochs(study: Study) -> Any:
    """The best value so far against the epochs that all trials had trained together."""
    curve = study.recall(CURVE)
    epochs, values, trials = zip(*curve, (study.epochs(), *curve[-1][1:]), strict=True)
    names = [f"trial {number}" for number in trials]
    figure = Figure(Scatter(x=epochs, y=values, text=names, mode="lines+markers", line={"shape": "hv"}))
    return figure.update_layout(xaxis_title="epochs spent", yaxis_title=f"best {study.goals[0].metric}")


def with_pruned(study: Study) -> optuna.Study:
    """A copy in memory in which pruned trials count as complete, with the best value that they reported.

    Optuna's plots and importances read complete trials alone; where most are pruned, most of what a sweep has found
    out would not be seen. With several objectives nothing is pruned.
    """
    seen = optuna.create_study(directions=[goal.direction for goal in study.goals])
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
    return sorted(found, key=lambda trial: -study.goals[0].sign * reached(study, trial))
