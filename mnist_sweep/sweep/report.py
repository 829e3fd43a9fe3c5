"""The report of a sweep: one page to pass on. MLflow keeps it, too, with the leaderboard and a note."""

import base64
import io
import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Any

from jinja2 import Environment, PackageLoader
from matplotlib.figure import Figure
from optuna.trial import TrialState
from plotly.offline import get_plotlyjs

from mnist_sweep import run_report
from mnist_sweep.config.command import CommandLine
from mnist_sweep.config.overrides import override
from mnist_sweep.run_folder import RunFolder
from mnist_sweep.sweep import error_analysis, plots, summary
from mnist_sweep.sweep.space import Space
from mnist_sweep.sweep.study import Study, objectives, value_of
from mnist_sweep.tracking import MLflowRun
from mnist_sweep.training import data, trained_model
from mnist_sweep.training.evaluate import evaluate

log = logging.getLogger(__name__)

FILE = "report.html"
_LEADERS = 20
_LIMITS = ("trials", "budget_epochs", "budget_minutes", "target", "trial_timeout_minutes")


def report(
    command: CommandLine, study: Study, winner: dict[str, Any] | None, folder: Path, seconds: float, run: MLflowRun
) -> Path | None:
    """Write ``report.html`` into the sweep's folder and complete its MLflow run. A sweep never fails over its report.

    The study has a trial that can win, and `seconds` are those of all sessions. Returns the file; None where it could
    not be made, after the reason has been logged.
    """
    try:
        config, runs, file = command.config, folder.parent, folder / FILE
        number = winner["trial"] if winner else None
        _, validation = data.parts(config.data)
        mistakes = error_analysis.common_mistakes(study, runs, validation, number)
        pictures = mistakes.pictures if mistakes else {}
        first = (study.front() if study.several else study.contenders())[0]
        facts = [f"{len(study.front())} Pareto-optimal trials"] if study.several else [f"Best: trial {first.number}"]
        shown, again = first.number, first.user_attrs["result"]["command"]
        if winner:
            found, *facts = summary.in_words(winner, config.data.label)
            opened = f"the test set was opened {_minute(winner['test_opened_at'])}"
            facts = [found[0].upper() + found[1:], *facts, opened]
            shown, again = winner["trial"], winner["command"]
        facts += [f"trials: {summary.counted(study)}; in {seconds / 60:.1f} minutes; seed {config.seed}"]
        header, rows = _leaderboard(study, winner)
        pages = Environment(loader=PackageLoader("mnist_sweep", "pages"), autoescape=True, trim_blocks=True)
        pages.filters |= {"png": _png, "plot": _plot}
        html = pages.get_template(FILE).render(
            title=f"{folder.name}: a sweep on {config.data.label}", facts=facts, several=study.several, shown=shown,
            again=again, header=header, rows=rows, plotly=get_plotlyjs(), plots=plots.draw(study, number),
            metric=study.goals[0].metric, fewest=plots.FEWEST, mistakes=mistakes, pictures=pictures, winner=winner,
            validation=len(validation), race=_race(winner) if winner else None, searched=_searched(command),
            network=_network(study, winner, runs, validation) if winner else None,
        )  # fmt: skip
        file.write_text(html, encoding="utf-8")
        run.file(file)
        for name, figure in pictures.items():
            run.figure(figure, f"study/{name}.png")
        columns = {name: [row[index] for row in rows] for index, name in enumerate(header)}
        run.table(columns, f"leaderboard_{study.counted():04d}.json")
        run.note("\n\n".join([*facts, f"Reproduce trial {shown}:", f"```\n{again}\n```"]))
    except Exception:
        log.exception("the report could not be made; everything else is as it should be")
        return None
    return file


def _leaderboard(study: Study, winner: dict[str, Any] | None) -> tuple[list[str], list[list[str]]]:
    """The best trials, then the pruned ones that reached most: the names of the columns, and the rows.

    Complete trials have a rank. The winner and the others of its race are in it whatever their rank, and are marked.
    """
    complete = study.front() if study.several else study.ranking()
    ranks = {trial.number: str(rank) for rank, trial in enumerate(complete, start=1)}
    raced = {each["trial"]: "race" for each in winner["candidates"]} | {winner["trial"]: "winner"} if winner else {}
    baseline = study.baseline()
    rows = []
    for index, trial in enumerate([*complete, *plots.pruned(study)]):
        if index >= _LEADERS and trial.number not in raced:
            continue
        done = trial.state == TrialState.COMPLETE
        values = trial.values if done else [plots.reached(study, trial)]
        result, drawn = trial.user_attrs["result"], summary.proposed(trial.user_attrs["proposed"])
        own = ["your config"] if baseline and trial.number == baseline.number else []
        role = ", ".join([*filter(None, [raced.get(trial.number)]), *own])
        cells = [ranks.get(trial.number, ""), str(trial.number), *map(summary.in_digits, values)]
        cells += [str(result["epochs"]), f"{result['seconds']:.1f}", trial.state.name.lower(), role, drawn]
        rows.append(cells)
    metrics = [goal.metric for goal in study.goals]
    return ["rank", "trial", *metrics, "epochs", "seconds", "state", "role", "proposed"], rows


def _race(winner: dict[str, Any]) -> list[list[str]]:
    """How the winner was chosen and judged: what, first score, mean, interval and the score of each seed.

    The mean of a trial in the race is the one that decided, with its first score, so that it has no interval.
    """

    def scores(what: str, spread: dict[str, Any], seeds: Sequence[int], first: float | None = None) -> list[str]:
        begun = "" if first is None else summary.in_digits(first)
        if spread["mean"] is None:
            return [what, begun, "", "", "could not be trained again"]
        ends = [summary.in_digits(spread[end]) for end in ("low", "high") if spread[end] is not None]
        each = [f"{summary.in_digits(value)} (seed {seed})" for value, seed in zip(spread["each"], seeds, strict=True)]
        return [what, begun, summary.in_digits(spread["mean"]), " … ".join(ends), "  ".join(each)]

    metric, new = winner["metric"], winner["seeds"]
    rows = [
        scores(f"trial {each['trial']}, race", _decisive(each), winner["race_seeds"], each["first"])
        for each in winner["candidates"]
    ]
    first = next(each["first"] for each in winner["candidates"] if each["trial"] == winner["trial"])
    rows.append(scores(f"trial {winner['trial']}, new seeds: {metric}", winner["validation"], new, first))
    rows.append(scores(f"trial {winner['trial']}, new seeds: test/accuracy", winner["test_accuracy"], new))
    if (gain := winner["gain"]) and gain["trial"] != winner["trial"]:
        rows.append(scores(f"better than your config by: {metric}", gain, new))
    return rows


def _decisive(candidate: dict[str, Any]) -> dict[str, Any]:
    """A candidate of the race with the mean by which it was compared."""
    if candidate["mean"] is None:
        return candidate
    return {**candidate, "mean": fmean([candidate["first"], *candidate["each"]]), "low": None, "high": None}


def _searched(command: CommandLine) -> dict[str, Any]:
    """How it was searched: the space, sampler and scheduler with their settings, and what was fixed."""
    space, settings = Space.of(command), command.config.sweep
    assert settings is not None
    goals = objectives(command.config)
    facts = {"objective": ", ".join(f"{goal.direction} {goal.metric}" for goal in goals)}
    for name, bound in (settings.constraints or {}).items():
        limits = bound.model_dump(exclude_none=True).items()
        facts[f"constraint on {name}"] = "  ".join(f"{side} {summary.in_digits(limit)}" for side, limit in limits)
    facts["limits"] = _options({name: getattr(settings, name) for name in _LIMITS})
    parts = {"sampler": settings.sampler, "scheduler of trials (pruner)": settings.pruner, "winner": settings.winner}
    for name, part in parts.items():
        values = part.model_dump(mode="json")
        facts[name] = "  ".join([*filter(None, [values.pop("name", "")]), _options(values)])
    if len(goals) > 1:
        facts["scheduler of trials (pruner)"] = "none: with several objectives nothing is pruned"
        if settings.winner.rule is None:
            facts["winner"] = "none: of several objectives, sweep.winner.rule chooses one"
    facts["fixed on the command line"] = "  ".join(
        item for item in command.overrides if not item.lstrip("+").startswith(("sweep", "output=", "tracking"))
    )
    facts["of the space, not searched"] = ", ".join([*space.fixed, *space.inactive])
    return {"space": space.describe(), "facts": {name: words for name, words in facts.items() if words}}


def _options(values: dict[str, Any]) -> str:
    return "  ".join(override(name, value) for name, value in values.items() if value is not None)


def _network(study: Study, winner: dict[str, Any], runs: Path, validation: data.ImageSet) -> dict[str, Any]:
    """The winner's network as its run in MLflow shows it: that of its median seed on validation, which is typical."""
    folders = [RunFolder(runs / Path(checkpoint).parents[1].name) for checkpoint in winner["checkpoints"]]
    goal = next(goal for goal in study.goals if goal.metric == winner["metric"])
    ranked = sorted(filter(None, (folder.result() for folder in folders)), key=lambda each: value_of(goal, each))
    result = ranked[(len(ranked) - 1) // 2]
    model = trained_model.read(RunFolder(runs / Path(result.folder).name).best)
    found = evaluate(model.network, validation, "val")
    pictures = run_report.network_pictures(model.config, result, model.network, validation)
    pictures |= run_report.part_pictures("validation", result, validation, found)
    which = f"seed {result.seed}" + (f", the median of {len(ranked)} by {goal.metric}" if len(ranked) > 1 else "")
    return {"which": which, "layers": model.config.layers(), "pictures": pictures}


def _minute(time: str) -> str:
    """A time, ISO 8601, as people read it: to the minute, UTC."""
    return f"{datetime.fromisoformat(time).astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _plot(figure: Any, name: str) -> str:
    """A plotly figure as HTML, for a page that has plotly.js."""
    settings = {"responsive": True, "displaylogo": False, "displayModeBar": False}
    return str(figure.to_html(full_html=False, include_plotlyjs=False, div_id=f"{name}-plot", config=settings))


def _png(figure: Figure) -> str:
    """A matplotlib figure as PNG, base64."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=90)
    return base64.b64encode(file.getvalue()).decode()
