"""The report of a sweep of networks that nobody trained."""

import re
from pathlib import Path
from unittest.mock import Mock

import pytest
from plotly.offline import get_plotlyjs

from mnist_sweep.run_folder import RunFolder
from mnist_sweep.sweep import plots, report
from mnist_sweep.training import trained_model
from tests.sweep import studies
from tests.sweep.test_summary import WINNER

pytestmark = pytest.mark.slow


def test_the_page_has_all_that_there_is_to_see(tmp_path: Path) -> None:
    """Four complete trials and two pruned ones; of the winner's three seeds the third one is the median."""
    trials = [studies.trial_of(tmp_path, number, [0.9 - number / 100], [0.5, 0.8]) for number in range(4)]
    trials[0].set_user_attr(*next(iter(studies.BASELINE.items())))
    trials += [studies.trial_of(tmp_path, number, curve=[0.1 * number]) for number in (4, 5)]
    study, command = studies.study_of(trials), studies.sweep_of(tmp_path)
    config = command.config
    seeds = ["sweep-0001-seed1", "sweep-0001-seed2", "sweep-0001-seed3"]
    for index, name in enumerate([*(f"sweep-{number:04d}" for number in range(4)), *seeds]):
        network = config.model.build(0.13, 0.31, config.data.images)
        trained_model.save(RunFolder(tmp_path / "runs" / name).best, network, config)
        confusion = [[50 - index if i == j else index * (j == i + 1) for j in range(10)] for i in range(10)]
        history = [{"train/loss": 1.0, "val/loss": 1.0, "train/accuracy": 0.5, "val/accuracy": 0.5}]
        found = {"confusion": confusion, "history": history, "seed": max(0, index - 3)}
        value = {4: 0.5, 5: 0.9, 6: 0.7}.get(index, 0.8)
        studies.result_of(tmp_path, name, value, **found).write()
    checkpoints = [str(RunFolder(Path("moved/since/runs") / name).best) for name in seeds]
    winner = WINNER | {"checkpoints": checkpoints, "model": {"name": "mnist_sweep_mnist5k", "version": 3}}
    run, folder = Mock(), tmp_path / "runs" / "sweep"
    folder.mkdir()
    path = report.report(command, study, winner, folder, 90.0, run)
    assert path == folder / "report.html"
    page = (folder / "report.html").read_text()
    assert "Trial 1, better than your config by val/accuracy +0.0150" in page
    assert "selection bias: first score 0.9300, mean over 2 new seeds 0.9100" in page
    assert "trials: 4 complete, 2 pruned; in 1.5 minutes; seed 0" in page
    assert "Importances are drawn from 25 trials on" in page
    assert "Limits of the constraints are dashed" not in page  # there are none
    assert "overflow-x" not in page.replace(get_plotlyjs(), "")
    assert page.count("<details><summary>") == 2
    searched = page.split("How it was searched")[1].split("The study</h2>")[0]
    for words in ("maximize val/accuracy", "startup_trials=", "min_epochs=", "0.0001 … 0.3, log", "model.filters=[4]"):
        assert words in searched
    for name in plots.draw(study):
        assert f'<figure id="{name}">' in page
        assert f'"{name}-plot"' in page
    shown = set(re.findall(r'<figure id="([\w-]+)"><img src="data:image/png;base64,\w', page))
    assert {"confusion_of_the_best", "missed_by_all", "winner-curves"} <= shown
    assert {"winner-activations", "winner-confusion_matrix_validation", "winner-calibration_validation"} <= shown
    assert "The winner (seed 3, the median of 3 by val/accuracy): learning curves." in page
    # in the race the mean is the one that decided, with the first score; with new seeds it is theirs
    race = re.findall(r"<td>(trial 1, [^<]*)</td>.*?(0.93\d*)</td>.*?(0.9\d*)</td>", page)
    assert race == [("trial 1, race", "0.9300", "0.9250"), ("trial 1, new seeds: val/accuracy", "0.9300", "0.9100")]
    assert "Registered as mnist_sweep_mnist5k, version 3." in page
    assert f'<td class="number">{sum(layer.parameters for layer in config.layers()):,}</td>' in page
    run.file.assert_called_once_with(path)
    kept = {call.args[1] for call in run.figure.call_args_list}
    assert {"study/confusion_of_the_best.png", "study/missed_by_all.png"} <= kept
    leaders, name = run.table.call_args.args
    assert name == "leaderboard_0006.json"
    assert leaders["trial"] == ["0", "1", "2", "3", "5", "4"]  # the pruned ones by the best value that they reached
    assert leaders["val/accuracy"][-2:] == ["0.5000", "0.4000"]
    assert leaders["rank"] == ["1", "2", "3", "4", "", ""]
    assert leaders["role"] == ["race, your config", "winner", "", "", "", ""]
    assert run.note.call_args.args[0].endswith(f"Reproduce trial 1:\n\n```\n{winner['command']}\n```")


def test_of_a_front_without_a_winner(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A sweep does not fail over its report."""
    trials = [studies.trial_of(tmp_path, number, [0.9 + number / 100, 1000.0 + number]) for number in range(3)]
    run, folder = Mock(), tmp_path / "runs" / "sweep"
    folder.mkdir(parents=True)
    study = studies.study_of(trials, "val/accuracy", "parameters")
    assert report.report(studies.sweep_of(tmp_path), study, None, folder, 60.0, run)
    page = (folder / "report.html").read_text()
    assert "3 Pareto-optimal trials" in page
    assert '<figure id="pareto_front">' in page
    assert 'id="winner"' not in page
    assert "Reproduce trial 2:" in run.note.call_args.args[0]
    assert report.report(studies.sweep_of(tmp_path), study, None, tmp_path / "nowhere", 1.0, Mock()) is None
    assert "the report could not be made; everything else is as it should be" in caplog.text
