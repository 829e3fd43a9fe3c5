"""The study as pictures: Optuna's own, interactive and as PNG."""

import copy
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from mnist_sweep.sweep.study import Study

log = logging.getLogger(__name__)

#: What each plot shows, in the order of the report.
CAPTIONS = {
    "history": "The objective of each complete trial, and the best so far.",
    "importances": "How much each hyperparameter decides whether a trial is among the best (PED-ANOVA); pruned trials "
    "count with the best value that they reached.",
    "pareto_front": "The objectives against each other; the front is what no other trial beats in all.",
    "parallel_coordinates": "Each line is a trial, pruned ones with the best value that they reached; "
    "the best are dark.",
    "slices": "The objective over each hyperparameter; pruned trials with the best value that they reached.",
    "learning_curves": "The objective of every trial after each epoch; short lines were pruned.",
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
            figure.update_layout(width=max(900, 130 * len(_parameters(seen))), margin={"b": 90})
        if name == "learning_curves":
            figure.update_layout(showlegend=False, xaxis_title="epoch", yaxis_title=study.goals[0].metric)
    return figures


def pictures(study: Study) -> dict[str, bytes]:
    """The same plots as PNG files."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot
    from optuna.visualization import matplotlib as visualization

    seen = with_pruned(study)
    parameters = len(_parameters(seen))
    found: dict[str, bytes] = {}
    try:
        for name, drawn in _draw(study, seen, visualization).items():
            figure = _figure(drawn)
            width, height = {
                "parallel_coordinates": (1.5 * max(parameters, 3) + 3, 6.0),
                "timeline": (9.0, max(3.0, 0.16 * len(study.trials()) + 1.5)),
            }.get(name, (9.0, 5.0))
            figure.set_size_inches(width, height)
            for axes in figure.axes:
                if name.startswith(("slices", "parallel")):
                    axes.tick_params(axis="x", labelrotation=30)
                if name == "learning_curves" and (legend := axes.get_legend()):
                    legend.remove()  # a line for each trial would fill the picture
            file = io.BytesIO()
            figure.savefig(file, format="png", dpi=_DPI, bbox_inches="tight", facecolor="white")
            found[name] = file.getvalue()
    finally:
        pyplot.close("all")
    return found


def _figure(drawn: Any) -> Any:
    """The figure of an axes, or of an array of axes."""
    return getattr(drawn, "figure", None) or drawn.ravel()[0].figure


def with_pruned(study: Study) -> optuna.Study:
    """A copy in memory in which pruned trials count as complete, with the best value that they reported.

    Optuna's plots and importances read complete trials alone; where most are pruned, most of what a sweep has found
    out would not be seen. With several objectives nothing is pruned, and the study itself is returned.
    """
    if study.several:
        return study.study
    best = max if study.goals[0].direction == "maximize" else min
    with quiet():
        seen = optuna.create_study(direction=study.goals[0].direction)
        for trial in study.trials():  # all of them, so that each keeps its number
            counted = copy.copy(trial)
            if trial.state == TrialState.PRUNED and trial.intermediate_values:
                counted.state = TrialState.COMPLETE
                counted.values = [best(trial.intermediate_values.values())]
            seen.add_trial(counted)
    return seen


def _parameters(seen: optuna.Study) -> list[str]:
    names: dict[str, None] = {}
    for trial in seen.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        names |= dict.fromkeys(trial.params)
    return list(names)


def _draw(study: Study, seen: optuna.Study, visualization: Any) -> dict[str, Any]:
    """What Optuna can draw of this study, and of it `with_pruned`, with one of its two libraries."""
    name = study.goals[0].metric
    judged: dict[str, Any] = {"target_name": name}
    if study.several:
        judged["target"] = first_value
    plots: dict[str, Callable[[], Any]] = {
        "history": lambda: visualization.plot_optimization_history(study.study, **judged),
        "importances": lambda: visualization.plot_param_importances(seen, **judged),
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
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    optuna.logging.set_verbosity(before)
