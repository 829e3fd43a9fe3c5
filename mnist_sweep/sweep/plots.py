"""The study as pictures: Optuna's own, interactive and as PNG."""

import copy
import io
import logging
import math
import statistics
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from mnist_sweep.sweep.study import Study

log = logging.getLogger(__name__)

_FAR = "Values far from all others are outside of the picture."
#: What each plot shows, in the order of the report.
CAPTIONS = {
    "history": f"The objective of each complete trial, and the best so far. {_FAR}",
    "importances": "How much each hyperparameter decides whether a trial is among the best (PED-ANOVA); pruned trials "
    "count with the best value that they reached.",
    "pareto_front": "The objectives against each other; the front is what no other trial beats in all.",
    "parallel_coordinates": "Each line is a trial, pruned ones with the best value that they reached; "
    "the best are dark.",
    "slices": f"The objective over each hyperparameter; pruned trials with the best value that they reached. {_FAR}",
    "learning_curves": f"The objective of every trial after each epoch; short lines were pruned. {_FAR}",
    "timeline": "When each trial ran, and how it ended.",
}
_DPI = 100
_IN_A_ROW = 4


def interactive(study: Study) -> dict[str, Any]:
    """The plots that the study allows, by name, as plotly figures."""
    from optuna import visualization

    seen = with_pruned(study)
    figures = _draw(study, seen, visualization)
    for name, figure in figures.items():
        figure.update_layout(title=None, margin={"t": 40}, template="plotly_white", font={"size": 13})
        if name == "parallel_coordinates":
            named = _coordinates(study, seen)
            figure.update_layout(width=max(900, 130 * len(named)), margin={"b": 90})
            figure.update_xaxes(ticktext=named, tickangle=-20)
        if name == "learning_curves":
            figure.update_layout(showlegend=False, xaxis_title="epoch", yaxis_title=study.goals[0].metric)
        if family(name) == "slices":
            for trace in figure.data:
                axis = figure.layout[f"xaxis{(trace.xaxis or 'x')[1:]}"]
                if axis.type == "log":
                    ticks = log_ticks(min(trace.x), max(trace.x))
                    axis.update(tickvals=ticks, ticktext=[f"{tick:g}" for tick in ticks])
        if family(name) in ("history", "slices", "learning_curves"):
            figure.update_yaxes(range=_range(study))
    return figures


def pictures(study: Study) -> dict[str, bytes]:
    """The same plots as PNG files."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot
    from optuna.visualization import matplotlib as visualization

    seen = with_pruned(study)
    found: dict[str, bytes] = {}
    try:
        for name, drawn in _draw(study, seen, visualization).items():
            figure = _figure(drawn)
            _legible(name, figure, study, seen)
            file = io.BytesIO()
            figure.savefig(file, format="png", dpi=_DPI, bbox_inches="tight", facecolor="white")
            found[name] = file.getvalue()
    finally:
        pyplot.close("all")
    return found


def _legible(name: str, figure: Any, study: Study, seen: optuna.Study) -> None:
    """Give a plot of Optuna's the size, the ticks and the names that can be read."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

    first = figure.axes[0]
    width, height = 9.0, 5.0
    match family(name):
        case "parallel_coordinates":
            named = _coordinates(study, seen)
            width, height = 1.5 * max(len(named), 4) + 1.5, 6.0
            first.set_xticks(range(len(named)), named, rotation=20, ha="right")
        case "slices":
            width = 2.8 * (len(figure.axes) - 1) + 1.6  # the last one is the scale
            for axes in figure.axes[:-1]:
                axes.tick_params(axis="x", labelrotation=30, labelsize=9)
                axes.xaxis.label.set_size(10)
                if axes.get_xscale() == "log":
                    axes.xaxis.set_major_locator(FixedLocator(log_ticks(*axes.get_xlim())))
                    axes.xaxis.set_major_formatter(FuncFormatter(lambda tick, _: f"{tick:g}"))
                    axes.xaxis.set_minor_locator(NullLocator())
            first.set_ylim(_range(study))
        case "timeline":
            height = max(3.0, 0.16 * len(study.trials()) + 1.5)
        case "history":
            first.xaxis.set_major_locator(MaxNLocator(integer=True))
            first.set_ylim(_range(study))
        case "learning_curves":
            first.xaxis.set_major_locator(MaxNLocator(integer=True))
            first.set(xlabel="epoch", ylabel=study.goals[0].metric, ylim=_range(study))
            if legend := first.get_legend():
                legend.remove()  # a line for each trial would fill the picture
    figure.set_size_inches(width, height)


def _figure(drawn: Any) -> Any:
    """The figure of an axes, or of an array of axes."""
    return getattr(drawn, "figure", None) or drawn.ravel()[0].figure


def _coordinates(study: Study, seen: optuna.Study) -> list[str]:
    """The names of the parallel coordinates in Optuna's order; it cuts them to 20 letters."""
    return [study.goals[0].metric, *sorted(_parameters(seen))]


def with_pruned(study: Study) -> optuna.Study:
    """A copy in memory in which pruned trials count as complete, with the best value that they reported.

    Optuna's plots and importances read complete trials alone; where most are pruned, most of what a sweep has found
    out would not be seen. With several objectives nothing is pruned, and the study itself is returned.
    """
    if study.several:
        return study.study
    with quiet():
        seen = optuna.create_study(direction=study.goals[0].direction)
        for trial in study.trials():  # all of them, so that each keeps its number
            counted = copy.copy(trial)
            if trial.state == TrialState.PRUNED and trial.intermediate_values:
                counted.state = TrialState.COMPLETE
                counted.values = [reached(study, trial)]
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


def log_ticks(low: float, high: float) -> list[float]:
    """Marks of a logarithmic axis: the powers of ten within these bounds, with their doubles and fives where few."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found: list[float] = []
    for factors in ((1,), (1, 2, 5)):
        found = [factor * 10.0**power for power in powers for factor in factors]
        found = [tick for tick in found if low <= tick <= high]
        if len(found) > 1:
            break
    return found


def _range(study: Study) -> list[float] | None:
    """What of the first objective's axis is shown: without values that lie far below, or above, all the others.

    Far is by Tukey's fences (Exploratory Data Analysis, 1977), three quartile distances from the quartiles: one trial
    that learned nothing would press all others into a line. None = as the plotting library has it.
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


def _parameters(seen: optuna.Study) -> list[str]:
    names: dict[str, None] = {}
    for trial in seen.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        names |= dict.fromkeys(trial.params)
    return list(names)


def _draw(study: Study, seen: optuna.Study, visualization: Any) -> dict[str, Any]:
    """What Optuna can draw of this study, and of it `with_pruned`, with one of its two libraries."""
    name = study.goals[0].metric
    judged: dict[str, Any] = {"target_name": name}
    cost: dict[str, Any] = {}
    if study.several:
        judged["target"] = first_value
        # of a target, the importance is for being among the lowest
        cost["target"] = lambda trial: -study.goals[0].sign * first_value(trial)
    plots: dict[str, Callable[[], Any]] = {
        "history": lambda: visualization.plot_optimization_history(study.study, **judged),
        "importances": lambda: visualization.plot_param_importances(seen, **judged | cost),
        "parallel_coordinates": lambda: visualization.plot_parallel_coordinate(seen, **judged),
        "timeline": lambda: visualization.plot_timeline(study.study),
    }
    if study.several:
        names = [goal.metric for goal in study.goals]
        if len(names) <= 3:
            plots["pareto_front"] = lambda: visualization.plot_pareto_front(study.study, target_names=names)
    if any(trial.intermediate_values for trial in study.trials()):
        plots["learning_curves"] = lambda: visualization.plot_intermediate_values(study.study)
    if len(seen.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))) < 2:
        del plots["importances"]
    searched = _parameters(seen)
    for start in range(0, len(searched), _IN_A_ROW):  # a few each, or their labels would overlap
        some = searched[start : start + _IN_A_ROW]
        plots[f"slices_{1 + start // _IN_A_ROW}"] = partial(visualization.plot_slice, seen, params=some, **judged)
    found: dict[str, Any] = {}
    with quiet():
        for title in sorted(plots, key=lambda each: list(CAPTIONS).index(family(each))):
            try:
                found[title] = plots[title]()
            except Exception as error:  # of two plotting libraries; a report lacks a picture rather than all
                log.warning("the plot %s could not be drawn (%s)", title, " ".join(str(error).split())[:200])
    return found


def family(name: str) -> str:
    """The key of `CAPTIONS` that a plot belongs to."""
    return name.rstrip("0123456789").rstrip("_")


def first_value(trial: FrozenTrial) -> float:
    """The value of the first objective."""
    return float(trial.values[0])


def importances(study: Study, targets: Mapping[str, Callable[[FrozenTrial], float]]) -> dict[str, dict[str, float]]:
    """Optuna's importance of each hyperparameter for some targets, where lower is better; each sums to 1.

    Args:
        study: with at least two trials that are complete or pruned.
        targets: by name.
    """
    seen = with_pruned(study)
    with quiet():
        return {name: optuna.importance.get_param_importances(seen, target=target) for name, target in targets.items()}


@contextmanager
def quiet() -> Iterator[None]:
    """Without remarks on experimental plots and on small studies."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
