"""The study as interactive plots (plotly): what trials reached, complete and pruned ones told apart."""

import copy
import json
import logging
import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState
from plotly.colors import sample_colorscale
from plotly.graph_objects import Bar, Figure, Scatter

from mnist_sweep.config.overrides import text
from mnist_sweep.errors import one_line
from mnist_sweep.sweep.axes import Axis, ticks
from mnist_sweep.sweep.samplers_view import reason
from mnist_sweep.sweep.study import CURVE, Study
from mnist_sweep.sweep.summary import in_digits, in_short
from mnist_sweep.tracking.figures import BLUE, GREY, ORANGE

log = logging.getLogger(__name__)

#: From so many trials on importances are drawn: of fewer they are mostly chance.
FEWEST = 25
_RED, _LIGHT = "#d55e00", "#9ecae1"


@dataclass(frozen=True)
class _Seen:
    """The trials that reached a value, each with it, by what became of them; the winner is in none of the groups."""

    study: Study
    winner: int | None

    @property
    def trials(self) -> list[FrozenTrial]:
        """By number."""
        found = [*self.study.trials(TrialState.COMPLETE), *pruned(self.study)]
        return sorted(found, key=lambda trial: trial.number)

    def value(self, trial: FrozenTrial) -> float:
        """The first objective's; where it was pruned the best that it reached, not the last, which Optuna keeps."""
        return float(trial.values[0]) if trial.state == TrialState.COMPLETE else reached(self.study, trial)

    def groups(self) -> list[tuple[str, dict[str, Any], list[FrozenTrial]]]:
        """The name, the mark and the trials of each; none is empty."""
        kept = {trial.number for trial in self.study.feasible()}
        others = [trial for trial in self.trials if trial.number != self.winner]
        done = [trial for trial in others if trial.state == TrialState.COMPLETE]
        ring = {"symbol": "circle-open", "color": GREY, "size": 7}
        cross, star = {"symbol": "x", "color": "#cc79a7", "size": 7}, {"symbol": "star", "color": ORANGE, "size": 15}
        found = [
            ("pruned", ring, [trial for trial in others if trial.state != TrialState.COMPLETE]),
            ("broke a constraint", cross, [trial for trial in done if trial.number not in kept]),
            ("complete", {"color": BLUE, "size": 7}, [trial for trial in done if trial.number in kept]),
            ("winner", star | {"line": {"color": "black", "width": 1}},
             [trial for trial in self.trials if trial.number == self.winner]),
        ]  # fmt: skip
        return [group for group in found if group[2]]

    def marks(self, x: Callable[[FrozenTrial], Any], y: Callable[[FrozenTrial], Any]) -> list[Scatter]:
        """A mark for each trial that has an x."""
        drawn = []
        for name, mark, trials in self.groups():
            shown = [trial for trial in trials if x(trial) is not None]
            points = {"x": [*map(x, shown)], "y": [*map(y, shown)], "text": [f"trial {each.number}" for each in shown]}
            if shown:
                drawn.append(Scatter(**points, mode="markers", marker=mark, name=name))
        return drawn


def draw(study: Study, winner: int | None = None) -> dict[str, Any]:
    """The plots that the study allows, as plotly's figures by name, in the order of the report; a winner is marked."""
    seen, goals = _Seen(study, winner), study.goals
    trials = seen.trials
    plots: dict[str, Callable[[], Any]] = {}
    if study.recall(CURVE):
        plots["found"] = partial(_best_by_epochs, study)
    plots["history"] = partial(_history, seen)
    if max(Counter(name for trial in trials for name in trial.params).values(), default=0) >= FEWEST:
        plots["importances"] = partial(_importances, seen)
    for other in range(1, len(goals)):
        plots["pareto_front" if other == 1 else f"pareto_front_{other}"] = partial(_front, seen, other)
    drawn_from = {name: trial.distributions[name] for trial in trials for name in trial.params}
    searched = sorted(drawn_from.items())
    if len(trials) > 1:
        plots["parallel_coordinates"] = partial(_parallel, seen, searched)
    for number, (name, distribution) in enumerate(searched, start=1):
        plots[f"slices_{number}"] = partial(_slice, seen, name, distribution)
    if any(trial.intermediate_values for trial in trials):
        plots["learning_curves"] = partial(_curves, seen)
    plots["durations"] = partial(_durations, seen)
    drawn: dict[str, Any] = {}
    for name, plot in plots.items():
        try:
            with warnings.catch_warnings(action="ignore"):  # Optuna's, on experimental plots and on small studies
                figure = plot()
        except Exception as error:  # a report lacks one plot rather than all
            log.warning("the plot %s could not be drawn (%s)", name, one_line(error))
        else:
            margin = {"t": 40, "l": 10, "r": 10, "b": 10}
            figure.update_layout(title=None, width=None, margin=margin, template="plotly_white", font={"size": 13})
            figure.update_layout(legend={"orientation": "h", "yanchor": "bottom", "y": 1.0})
            figure.update_xaxes(automargin=True)
            figure.update_yaxes(automargin=True)
            drawn[name] = figure
    return drawn


def _names(study: Study) -> list[str]:
    return [goal.metric for goal in study.goals]


def _best_by_epochs(study: Study) -> Any:
    """The best value so far against the epochs that all trials had trained together."""
    curve = study.recall(CURVE)
    epochs, values, trials = zip(*curve, (study.epochs(), *curve[-1][1:]), strict=True)
    axis = Axis.of(study.goals[0].metric, values)
    names = [f"trial {number}" for number in trials]
    line = {"shape": "hv", "color": BLUE}
    figure = Figure(Scatter(x=epochs, y=[*map(axis.place, values)], text=names, mode="lines+markers", line=line))
    return figure.update_layout(xaxis_title="epochs of all trials together", yaxis=axis.layout)


def _history(seen: _Seen) -> Any:
    """What each trial reached, and the best of the complete ones so far."""
    axis = Axis.of(seen.study.goals[0].metric, map(seen.value, seen.trials))
    figure = Figure(seen.marks(lambda trial: trial.number, lambda trial: axis.place(seen.value(trial))))
    better, kept = max if seen.study.goals[0].sign > 0 else min, sorted(seen.study.feasible(), key=lambda t: t.number)
    best = [better(trial.values[0] for trial in kept[: count + 1]) for count in range(len(kept))]
    line = {"shape": "hv", "color": BLUE, "width": 1.5}
    numbers, places = [trial.number for trial in kept], [*map(axis.place, best)]
    figure.add_trace(Scatter(x=numbers, y=places, mode="lines", line=line, name="best so far"))
    return figure.update_layout(xaxis_title="trial", yaxis=axis.layout)


def _importances(seen: _Seen) -> Any:
    """The importance of each hyperparameter that enough trials drew, with their number."""
    goal, judged = seen.study.goals[0], None
    if seen.study.several:  # the importance for a target is that for being among its lowest

        def judged(trial: FrozenTrial) -> float:
            return -goal.sign * float(trial.values[0])

    found = optuna.importance.get_param_importances(with_pruned(seen.study), target=judged)
    drawn = Counter(name for trial in seen.trials for name in trial.params)
    shown = [(f"{name} ({drawn[name]})", value) for name, value in found.items() if drawn[name] >= FEWEST]
    names, values = zip(*reversed(shown), strict=True)  # the greatest on top
    figure = Figure(Bar(x=values, y=names, text=[f"{value:.2f}" for value in values], orientation="h"))
    figure.update_traces(marker_color=BLUE, textposition="outside").update_yaxes(tickfont_size=11)
    figure.update_xaxes(range=[0, 1.2 * max(values)])  # there is room for the numbers beside the bars
    return figure.update_layout(xaxis_title=f"importance, from {len(seen.trials)} trials", height=120 + 24 * len(names))


def _front(seen: _Seen, other: int) -> Any:
    """The first objective against another: the front in one colour, dominated trials grey, constraints dashed.

    Of two objectives the front is joined.
    """
    study = seen.study
    names = [study.goals[index].metric for index in (0, other)]
    down, across = (
        Axis.of(name, [trial.values[index] for trial in seen.trials])
        for name, index in zip(names, (0, other), strict=True)
    )
    members = sorted(study.front(), key=lambda trial: across.place(trial.values[other]))
    on_front, kept = {trial.number for trial in members}, {trial.number for trial in study.feasible()}
    rest = [trial for trial in seen.trials if trial.number not in on_front]
    groups = {
        "dominated": ([trial for trial in rest if trial.number in kept], {"color": "#999999", "size": 7}),
        "broke a constraint": (
            [trial for trial in rest if trial.number not in kept], {"color": "#999999", "size": 7, "symbol": "x"}
        ),
        "Pareto-optimal": (members, {"color": BLUE, "size": 9}),
        "winner": (
            [trial for trial in members if trial.number == seen.winner], {"symbol": "star", "color": ORANGE, "size": 15}
        ),
    }  # fmt: skip
    # between two members the front is as good as the one that is no better in the objective across
    rises = (across.place(1) > across.place(0)) == (study.goals[other].sign > 0)
    line = {"color": BLUE, "shape": "vh" if rises else "hv", "width": 1.5}
    figure = Figure()
    for name, (trials, mark) in groups.items():
        if trials:
            points = [(across.place(trial.values[other]), down.place(trial.values[0])) for trial in trials]
            x, y = zip(*points, strict=True)
            mode = "lines+markers" if name == "Pareto-optimal" and len(study.goals) == 2 else "markers"
            known = [f"trial {trial.number}" for trial in trials]
            figure.add_trace(Scatter(x=x, y=y, text=known, mode=mode, marker=mark, line=line, name=name))
    dashed = {"line_dash": "dash", "line_color": _RED}
    for name, axis, add, at in ((names[0], down, figure.add_hline, "y"), (names[1], across, figure.add_vline, "x")):
        if bound := study.constraints.get(name):
            for side, limit in bound.model_dump(exclude_none=True).items():
                place, log_scale = axis.place(limit), axis.layout.get("type") == "log"
                if log_scale and place <= 0:  # such as an accuracy of at most 1
                    continue
                add(place, **dashed)
                words = {"text": f"{side} {in_digits(limit)}", "showarrow": False, "x": 1, "y": 1, f"{at}ref": at}
                beside = {"xanchor": "right", "yanchor": "top", "bgcolor": "white"}
                words |= {at: math.log10(place) if log_scale else place}  # as plotly has it
                figure.add_annotation({"xref": "paper", "yref": "paper"} | words | beside)
    return figure.update_layout(xaxis=across.layout, yaxis=down.layout)


def _parallel(seen: _Seen, searched: Sequence[tuple[str, BaseDistribution]]) -> Any:
    """A line for each trial through the objectives and all that was drawn for it: the darker, the better."""
    ranked = sorted(seen.trials, key=lambda trial: seen.study.goals[0].sign * seen.value(trial))
    heights: list[list[float | None]] = []
    labels = []
    for index, name in enumerate(_names(seen.study)):
        values = [seen.value(trial) if index == 0 else float(trial.values[index]) for trial in ranked]
        axis = Axis.of(name, values)
        heights.append(_heights([*map(axis.place, values)], log=axis.layout.get("type") == "log"))
        labels.append(f"<b>{axis.title}</b>  {_span(map(axis.place, values))}")
    for name, distribution in searched:
        drawn = [trial.params.get(name) for trial in ranked]
        if isinstance(distribution, CategoricalDistribution):
            choices, last = [*distribution.choices], max(1, len(distribution.choices) - 1)
            heights.append([None if each is None else choices.index(each) / last for each in drawn])
            labels.append(f"{name}  {' '.join(map(_choice, choices))}")
        else:
            heights.append(_heights(drawn, log=bool(getattr(distribution, "log", False))))
            labels.append(f"{name}  {_span(each for each in drawn if each is not None)}")
    shades = sample_colorscale([_LIGHT, "#08306b"], [index / max(1, len(ranked) - 1) for index in range(len(ranked))])
    figure = Figure()
    # the winner, which need not have the best first score, is on top of the others
    for index in sorted(range(len(ranked)), key=lambda index: (ranked[index].number == seen.winner, index)):
        trial, line = ranked[index], {"color": shades[index], "width": 1.3}
        if trial.number == seen.winner:
            line = {"color": ORANGE, "width": 3}
        places, name = [height[index] for height in heights], f"trial {trial.number}"
        figure.add_trace(Scatter(y=places, mode="lines", line=line, name=name, connectgaps=True, hoverinfo="name"))
    figure.update_xaxes(tickvals=[*range(len(labels))], ticktext=labels, tickangle=-90, gridcolor="#999999")
    figure.update_xaxes(range=[-0.3, len(labels) - 0.7], zeroline=False)
    figure.update_yaxes(visible=False, range=[-0.05, 1.05])
    return figure.update_layout(showlegend=False, height=680)


def _heights(values: Sequence[float | None], *, log: bool = False) -> list[float | None]:
    """Values, linear or logarithmic, as heights 0 … 1."""
    places = [None if value is None else math.log(value) if log else value for value in values]
    known = [place for place in places if place is not None]
    low, high = min(known), max(known)
    return [None if each is None else (each - low) / (high - low) if high > low else 0.5 for each in places]


def _span(values: Iterable[float]) -> str:
    known = [*values]
    ends = (f"{value:,.0f}" if value > 999 else f"{value:.3g}" for value in (min(known), max(known)))
    return " … ".join(dict.fromkeys(ends))  # one number where all are equal


def _choice(value: Any) -> str:
    """A choice as in an override; lists are kept as JSON."""
    return text(json.loads(value)) if isinstance(value, str) and value[:1] in ("[", "{", '"') else text(value)


def _slice(seen: _Seen, name: str, distribution: BaseDistribution) -> Any:
    """What trials reached over one hyperparameter."""
    axis = Axis.of(seen.study.goals[0].metric, map(seen.value, seen.trials))

    def drawn(trial: FrozenTrial) -> Any:
        value = trial.params.get(name)
        return _choice(value) if value is not None and isinstance(distribution, CategoricalDistribution) else value

    figure = Figure(seen.marks(drawn, lambda trial: axis.place(seen.value(trial))))
    x: dict[str, Any] = {"title": name}
    if isinstance(distribution, CategoricalDistribution):
        x |= {"type": "category", "categoryorder": "array", "categoryarray": [*map(_choice, distribution.choices)]}
    elif isinstance(distribution, IntDistribution) and not distribution.log:
        values = [trial.params[name] for trial in seen.trials if name in trial.params]
        x["dtick"] = max(distribution.step, math.ceil((max(values) - min(values)) / 5))  # no ticks between integers
    elif getattr(distribution, "log", False):
        values = [trial.params[name] for trial in seen.trials if name in trial.params]
        marks = ticks(min(values), max(values), most=5)
        x |= {"type": "log", "tickvals": marks, "ticktext": [*map(in_short, marks)]}
    places = [axis.place(seen.value(trial)) for trial in seen.trials]
    ends = [min(places), max(places)]
    if axis.layout.get("type") == "log":
        ends = [*map(math.log10, ends)]
    room = 0.08 * (ends[1] - ends[0]) or 0.01  # the same range in all slices
    y = axis.layout | {"range": [ends[0] - room, ends[1] + room]}
    return figure.update_layout(xaxis=x, yaxis=y, showlegend=False, height=300)


def _curves(seen: _Seen) -> Any:
    """The first objective after each epoch, a line for each trial."""
    values = [value for trial in seen.trials for value in trial.intermediate_values.values()]
    axis = Axis.of(seen.study.goals[0].metric, values)
    figure = Figure()
    for name, mark, trials in seen.groups():
        x: list[int | None] = []
        y: list[float | None] = []
        said: list[str] = []
        for trial in trials:  # all in one line with gaps, so that the legend has one entry
            x += [*trial.intermediate_values, None]
            y += [*map(axis.place, trial.intermediate_values.values()), None]
            said += [f"trial {trial.number}"] * (1 + len(trial.intermediate_values))
        line, mark = {"color": mark["color"], "width": 3 if name == "winner" else 1}, {**mark, "size": 5}
        figure.add_trace(Scatter(x=x, y=y, text=said, mode="lines+markers", line=line, marker=mark, name=name))
    longest = max(max(trial.intermediate_values, default=1) for trial in seen.trials)
    return figure.update_layout(xaxis={"title": "epoch", "dtick": math.ceil(longest / 12)}, yaxis=axis.layout)


def _durations(seen: _Seen) -> Any:
    """How long trials took. Optuna's timeline would not be true: a trial that paused begins again when it goes on."""
    figure = Figure()
    failed = [trial for trial in seen.study.trials(TrialState.FAIL) if reason(trial) != "infeasible"]
    failed = [trial for trial in failed if "result" in trial.user_attrs]
    for name, mark, trials in [*seen.groups(), ("failed", {"color": _RED}, failed)]:
        seconds = [trial.user_attrs["result"]["seconds"] for trial in trials]
        numbers = [trial.number for trial in trials]
        if trials:
            figure.add_trace(Bar(x=numbers, y=seconds, width=0.8, marker_color=mark["color"], name=name))
    return figure.update_layout(xaxis_title="trial", yaxis_title="seconds", barmode="overlay")


def with_pruned(study: Study) -> optuna.Study:
    """A copy in memory in which pruned trials count as complete, with the best value that they reported.

    Optuna's importances read complete trials alone; where most are pruned, most of what a sweep has found out would
    not be seen. With several objectives nothing is pruned.
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
