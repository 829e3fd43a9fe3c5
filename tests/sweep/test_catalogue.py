"""The sweeps of a folder, read where and when nothing is left of what began them but their own files."""

from pathlib import Path

import optuna
import pytest
from plotly.offline import get_plotlyjs

from mnist_sweep import cli, run_report
from mnist_sweep.config.command import CommandLine
from mnist_sweep.errors import RequestError
from mnist_sweep.run_folder import RunFolder
from mnist_sweep.sweep import catalogue, report, session, storage
from mnist_sweep.sweep.promotion import PAUSED
from mnist_sweep.sweep.report import report as real_report
from tests import stubs
from tests.conftest import SMALL

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_report")]


def test_a_report_needs_no_folder_of_configs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The sweep was begun with a space of one's own, which says something else by the time of the report."""
    output, mine = tmp_path / "mlruns", tmp_path / "mine" / "sweep" / "space" / "mine.yaml"
    mine.parent.mkdir(parents=True)
    mine.write_text("model: {dropout: {low: 0.125, high: 0.5}}")
    asked = ["+sweep=optuna", "sweep/space=mine", *SMALL, "launcher=inline", "sweep.trials=2", "sweep.winner.seeds=1"]
    session.sweep(CommandLine.of([*asked, f"output={output}"], tmp_path / "mine"))
    mine.write_text("model: {dropout: {low: 0.25, high: 0.75}}")
    monkeypatch.setattr(report, "report", real_report)
    for gone in (False, True):
        if gone:
            mine.unlink()
        assert cli.perform("report", [str(output / "runs" / "sweep")]) == cli.DONE
        page = Path(capsys.readouterr().out.strip()).read_text().replace(get_plotlyjs(), "")
        searched = page.split("How it was searched")[1].split("The study</h2>")[0]
        assert "<td>model.dropout</td><td>0.125 … 0.5</td>" in searched
        assert "searchpath" not in searched  # a page to pass on has no path of this machine there


def test_a_run_whose_own_code_is_gone_is_in_nobodys_way(tmp_path: Path) -> None:
    nets, output = tmp_path / "nets.py", tmp_path / "mlruns"
    nets.write_text(
        "import torch\n\n\nclass Net(torch.nn.Sequential):\n    def __init__(self, channels, size, classes):\n"
        "        super().__init__(torch.nn.Flatten(), torch.nn.Linear(channels * size[0] * size[1], classes))\n"
    )
    for sweep, name in ([], "own"), (["+sweep=optuna"], "mine"):
        target = f"model.target={nets}:Net"
        begun = CommandLine.of([*sweep, "data=mnist5k", "model=custom", target, f"output={output}"])
        folder = RunFolder(output / "runs" / name)
        folder.path.mkdir(parents=True)
        folder.describe(begun.config, begun.written())
        written = folder.path / "config.yaml"
        written.write_text(written.read_text().replace("nets.py", "gone.py"))
    other = CommandLine.of(["+sweep=optuna", *SMALL, f"output={output}", "sweep.name=other"]).config.sweep
    assert other is not None
    storage.check_folders(other, output / "runs" / "other", new=True)
    assert catalogue.sweeps(output) == []
    with pytest.raises(RequestError, match=r"model\.target=.*gone\.py:Net: cannot be imported"):
        catalogue.read(output / "runs" / "mine")
    assert not run_report.send(RunFolder(output / "runs" / "own"))  # nor does it keep others from being sent
    (output / "runs" / "own" / "overrides.yaml").write_text("[a=[")
    storage.check_folders(other, output / "runs" / "other", new=True)


def test_a_sweep_that_runs_is_listed_as_such_and_not_deleted(tmp_path: Path) -> None:
    with stubs.begun(tmp_path) as (begun, _):
        resting = begun.study.ask(0, optuna.samplers.RandomSampler(seed=1))
        resting.set_user_attr(PAUSED, 1)
        begun.study.requeue(resting)
        (found,) = catalogue.sweeps(tmp_path)
        assert (found.state, found.trials, found.best, found.winner) == ("running", "1 paused", "–", "–")
        with pytest.raises(RequestError, match="another process is at this sweep"), catalogue.held(tmp_path, "sweep"):
            pass
    assert [each.state for each in catalogue.sweeps(tmp_path)] == ["interrupted"]
    (tmp_path / "optuna.db").unlink()
    assert [each.state for each in catalogue.sweeps(tmp_path)] == ["study is gone"]
