"""The report of a sweep: one page to pass on, and the same plots, tables and pictures on its run in MLflow."""

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from mnist_sweep import run_report
from mnist_sweep.config import schema
from mnist_sweep.config.command import compose
from mnist_sweep.config.overrides import override, replaced
from mnist_sweep.result import BEST, Result
from mnist_sweep.sweep import error_analysis as insight
from mnist_sweep.sweep import plots, summary
from mnist_sweep.sweep.page import Picture, Section, page, png
from mnist_sweep.sweep.study import Study, best_run
from mnist_sweep.tracking import Account, figures
from mnist_sweep.training import data
from mnist_sweep.training import trained_model as inspection

log = logging.getLogger(__name__)

_LEADERS = 20
FILE = "report.html"


def report(
    config: schema.Config,
    config_dir: str | None,
    study: Study,
    crowned: dict[str, Any] | None,
    folder: Path,
    seconds: float,
    account: Account,
) -> Path | None:
    """Write ``report.html`` and complete the account of a sweep. A sweep never fails over its report.

    Args:
        config: of the sweep.
        config_dir: the further folder of configs.
        study: with at least one complete trial.
        crowned: the winner, where there is one.
        folder: of the sweep.
        seconds: of all sittings.
        account: the sweep's own run.

    Returns:
        The file; None where it could not be made, after the reason has been logged.
    """
    try:
        return _Report(config, config_dir, study, crowned, folder, seconds, account).write()
    except Exception:
        log.exception("the report could not be made; everything else is as it should be")
        return None


class _Report:
    """The report while it is made; its arguments are those of `report`."""

    def __init__(
        self,
        config: schema.Config,
        config_dir: str | None,
        study: Study,
        crowned: dict[str, Any] | None,
        folder: Path,
        seconds: float,
        account: Account,
    ) -> None:
        self.config, self.config_dir, self.study, self.crowned = config, config_dir, study, crowned
        self.folder, self.seconds, self.account = folder, seconds, account
        self.runs = folder.parent

    def write(self) -> Path:
        interactive = plots.interactive(self.study)
        found = insight.agreement(self.config, self.study, self.runs)
        shared = self._shared(found)
        sections = [
            self._leaders(),
            Section(
                "study",
                "The study",
                pictures=[Picture(name, plots.CAPTIONS[plots.family(name)]) for name in interactive],
            ),
            Section(
                "classes",
                "What the best models still confuse",
                texts=self._missed(found),
                pictures=[Picture(name, caption, png(figure)) for name, (caption, figure) in shared.items()],
            ),
            *self._winner(),
        ]
        title = f"{self.folder.name}: a sweep on {self.config.data.name}"
        file = self.folder / FILE
        file.write_text(page(title, self._facts(), sections, interactive), encoding="utf-8")
        if self.account.tracked:
            self._keep(interactive, shared)
            self.account.file(file)
        return file

    def _facts(self) -> list[str]:
        minutes = f"{summary.counted(self.study)} trials in {self.seconds / 60:.1f} minutes; seed {self.config.seed}"
        if not self.crowned:
            return [f"The front has {len(self.study.front())} members.", minutes]
        score, seeds = self.crowned["test_accuracy"], len(self.crowned["seeds"])
        return [
            f"The winner, trial {self.crowned['trial']}, is right on {100 * score['mean']:.2f}% of the test images: "
            f"test/accuracy {summary.interval(score)}, the mean over {seeds} seed{'s' * (seeds > 1)}.",
            f"On validation {self.crowned['metric']} {self.crowned['validation']['mean']:.4f}; of the first score "
            f"{self.crowned['luck']:+.4f} was luck. The test set was opened {self.crowned['test_opened_at']}.",
            *([f"On validation {summary.gain(self.crowned)}."] if self.crowned.get("gain") else []),
            minutes,
        ]

    def _leaders(self) -> Section:
        complete = self.study.front() if self.study.several else self.study.ranking()
        pruned = plots.pruned(self.study)
        goals = [goal.metric for goal in self.study.goals]
        rows = []
        for rank, trial in enumerate([*complete, *pruned][:_LEADERS], start=1):
            reached = trial.values if rank <= len(complete) else [plots.reached(self.study, trial)]
            values = map(summary.in_digits, reached)
            result = trial.user_attrs["result"]
            cells = [str(rank), str(trial.number), *values, str(result["epochs"]), f"{result['seconds']:.1f}"]
            rows.append([*cells, trial.state.name.lower(), "  ".join(map(summary.short, trial.user_attrs["proposed"]))])
        kind = "The front" if self.study.several else "The best trials"
        best = complete[0].user_attrs["result"]["command"]
        return Section(
            "leaderboard", kind,
            texts=["The first of them again:"], commands=[best],
            header=["", "trial", *goals, "epochs", "seconds", "state", "proposed"], rows=rows,
            numbers=range(len(goals) + 4),
        )  # fmt: skip

    def _shared(self, found: insight.Agreement | None) -> dict[str, tuple[str, Figure]]:
        """Pictures of what the trials say together, with their captions."""
        drawn: dict[str, tuple[str, Figure]] = {}
        if found:
            said = f"the {len(found.trials)} best models" if len(found.trials) > 1 else "the best model"
            title = f"{said} on the validation images, counts added up"
            drawn["confusion_of_the_best"] = (
                f"Confusions of {said} (trials {', '.join(map(str, found.trials))}).",
                figures.confusion_matrix(found.confusion, title),
            )
            if len(found.images):
                drawn["missed_by_all"] = (
                    f"Images that each of {said} gets wrong: the truth, the wrong class with the "
                    "greatest mean probability, and this.",
                    figures.mistakes(
                        found.images, found.true, found.predicted, found.probability, f"missed by {said}, each"
                    ),
                )
        if blame := insight.class_importances(self.study, self.runs):
            values, names = blame
            classes = [str(label) for label in range(values.shape[1])]
            title = "importance for the recall of each class, per cent"
            drawn["hyperparameters_by_class"] = (
                "Which hyperparameter moves which class: its importance (PED-ANOVA) for the recall on validation.",
                figures.heatmap(values, names, classes, title, ("class", "")),
            )
        return drawn

    def _missed(self, found: insight.Agreement | None) -> list[str]:
        if not found:
            return []
        classes = range(len(found.confusion))
        off = found.confusion - np.diag(found.confusion.diagonal())
        worst = sorted(((int(off[i, j]), i, j) for i in classes for j in classes if off[i, j]), reverse=True)[:3]
        pairs = "; ".join(f"{i} taken for {j} ({count} times)" for count, i, j in worst) or "none"
        return [f"The most frequent confusions: {pairs}. Images that all of them miss: {found.missed}."]

    def _winner(self) -> Sequence[Section]:
        """The winner's network, as its run in MLflow shows it: that of its seeds which is best on validation."""
        if not self.crowned:
            return []
        runs = [Path(checkpoint).parent.parent.name for checkpoint in self.crowned["checkpoints"]]
        results = [Result.read(self.runs / name) for name in runs]
        goal = next(goal for goal in self.study.goals if goal.metric == self.crowned["metric"])
        result = best_run(goal, results)
        here = [override("name", Path(result.folder).name), override("output", str(self.runs.parent))]
        config = compose(replaced(result.overrides, here), self.config_dir)
        classifier = inspection.load(self.runs / Path(result.folder).name / BEST)
        _, validation = data.parts(config.data)
        drawn = run_report.pictures(config, result, classifier, validation)
        table = config.model.layers()
        rows = [
            [layer.name, " × ".join(map(str, layer.output)), f"{layer.parameters:,}", f"{layer.multiply_adds:,}"]
            for layer in table
        ]
        rows.append(["all", "", f"{sum(each.parameters for each in table):,}",
                     f"{sum(each.multiply_adds for each in table):,}"])  # fmt: skip
        pictures = [
            Picture(f"winner-{name}", f"The winner (seed {result.seed}): {name.replace('_', ' ')}.", png(figure))
            for name, figure in drawn.items()
        ]
        model = self.crowned.get("model")
        texts = [f"Registered as {model['name']}, version {model['version']}." if model else "Not registered."]
        return [
            Section(
                "winner", "The winner", texts=texts, commands=[self.crowned["command"]],
                header=["layer", "output", "parameters", "multiply-adds"], rows=rows, numbers=[2, 3], pictures=pictures,
            )
        ]  # fmt: skip

    def _keep(self, interactive: dict[str, Any], shared: dict[str, tuple[str, Figure]]) -> None:
        """Plots, leaderboard, pictures and a note, on the sweep's run."""
        with tempfile.TemporaryDirectory() as scratch:
            for name, content in plots.pictures(self.study).items():
                (Path(scratch) / f"{name}.png").write_bytes(content)
            for name, figure in interactive.items():
                single = Section(
                    name, name.replace("_", " "), pictures=[Picture(name, plots.CAPTIONS[plots.family(name)])]
                )
                html = page(f"{self.folder.name}: {single.title}", [], [single], {name: figure})
                (Path(scratch) / f"{name}.html").write_text(html, encoding="utf-8")
            for file in sorted(Path(scratch).iterdir()):
                self.account.file(file, "study")
        for name, (_, figure) in shared.items():
            self.account.figure(figure, f"study/{name}.png")
        leaders = self._leaders()
        columns = {name or "rank": [row[i] for row in leaders.rows] for i, name in enumerate(leaders.header)}
        self.account.table(columns, f"leaderboard_{self.study.counted():04d}.json")
        command = self.crowned["command"] if self.crowned else leaders.commands[0]
        which = "The winner" if self.crowned else "The first of the front"
        self.account.note("\n\n".join([*self._facts(), f"{which} again:", f"```\n{command}\n```"]))
