"""The report of a sweep: one page to pass on. MLflow keeps it, too, with the leaderboard and a note."""

import base64
import io
import logging
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader
from matplotlib.figure import Figure
from plotly.offline import get_plotlyjs

from mnist_sweep import run_report
from mnist_sweep.config.command import CommandLine
from mnist_sweep.run_folder import RunFolder
from mnist_sweep.sweep import error_analysis, plots, summary
from mnist_sweep.sweep.study import Study, best_run
from mnist_sweep.tracking import MLflowRun
from mnist_sweep.training import data, trained_model
from mnist_sweep.training.evaluate import evaluate

log = logging.getLogger(__name__)

FILE = "report.html"
_LEADERS = 20


def report(
    command: CommandLine, study: Study, winner: dict[str, Any] | None, folder: Path, seconds: float, run: MLflowRun
) -> Path | None:
    """Write ``report.html`` into the sweep's folder and complete its MLflow run. A sweep never fails over its report.

    The study has at least one complete trial, and `seconds` are those of all sessions. Returns the file; None where it
    could not be made, after the reason has been logged.
    """
    try:
        config, runs, file = command.config, folder.parent, folder / FILE
        _, validation = data.parts(config.data)
        mistakes = error_analysis.common_mistakes(study, runs, validation)
        pictures = mistakes.pictures if mistakes else {}
        facts = [f"The front has {len(study.front())} members."]
        if winner:
            found, *facts = summary.in_words(winner, config.data.label)
            facts = [f"Found: {found}", *facts, f"the test set was opened {winner['test_opened_at']}"]
        facts += [f"{summary.counted(study)} trials in {seconds / 60:.1f} minutes; seed {config.seed}"]
        header, rows = _leaderboard(study)
        first = (study.front() if study.several else study.contenders())[0].user_attrs["result"]["command"]
        pages = Environment(loader=PackageLoader("mnist_sweep", "pages"), autoescape=True, trim_blocks=True)
        pages.filters |= {"png": _png, "plot": _plot}
        html = pages.get_template(FILE).render(
            title=f"{folder.name}: a sweep on {config.data.label}", facts=facts, several=study.several, first=first,
            header=header, rows=rows, plotly=get_plotlyjs(), plots=plots.draw(study), mistakes=mistakes,
            pictures=pictures, winner=winner, network=_network(study, winner, runs, validation) if winner else None,
        )  # fmt: skip
        file.write_text(html, encoding="utf-8")
        run.file(file)
        for name, figure in pictures.items():
            run.figure(figure, f"study/{name}.png")
        columns = {name or "rank": [row[index] for row in rows] for index, name in enumerate(header)}
        run.table(columns, f"leaderboard_{study.counted():04d}.json")
        which, again = ("The winner", winner["command"]) if winner else ("The first of the front", first)
        run.note("\n\n".join([*facts, f"{which} again:", f"```\n{again}\n```"]))
    except Exception:
        log.exception("the report could not be made; everything else is as it should be")
        return None
    return file


def _leaderboard(study: Study) -> tuple[list[str], list[list[str]]]:
    """The best trials, then the pruned ones that reached most: the names of the columns, and the rows."""
    complete = study.front() if study.several else study.ranking()
    rows = []
    for rank, trial in enumerate([*complete, *plots.pruned(study)][:_LEADERS], start=1):
        values = trial.values if rank <= len(complete) else [plots.reached(study, trial)]
        result, drawn = trial.user_attrs["result"], summary.proposed(trial.user_attrs["proposed"])
        cells = [str(rank), str(trial.number), *map(summary.in_digits, values), str(result["epochs"])]
        rows.append([*cells, f"{result['seconds']:.1f}", trial.state.name.lower(), drawn])
    return ["", "trial", *(goal.metric for goal in study.goals), "epochs", "seconds", "state", "proposed"], rows


def _network(study: Study, winner: dict[str, Any], runs: Path, validation: data.ImageSet) -> dict[str, Any]:
    """The winner's network, as its run in MLflow shows it: that of its seeds which is best on validation."""
    folders = [RunFolder(runs / Path(checkpoint).parents[1].name) for checkpoint in winner["checkpoints"]]
    goal = next(goal for goal in study.goals if goal.metric == winner["metric"])
    result = best_run(goal, [result for folder in folders if (result := folder.result())])
    model = trained_model.read(RunFolder(runs / Path(result.folder).name).best)
    found = evaluate(model.network, validation, "val")
    pictures = run_report.network_pictures(model.config, result, model.network, validation)
    pictures |= run_report.part_pictures("validation", result, validation, found)
    return {"seed": result.seed, "layers": model.config.layers(), "pictures": pictures}


def _plot(figure: Any, name: str) -> str:
    """A plotly figure as HTML, for a page that has plotly.js."""
    settings = {"responsive": True, "displaylogo": False}
    return str(figure.to_html(full_html=False, include_plotlyjs=False, div_id=f"{name}-plot", config=settings))


def _png(figure: Figure) -> str:
    """A matplotlib figure as PNG, base64."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=90)
    return base64.b64encode(file.getvalue()).decode()
