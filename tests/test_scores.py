"""The recipes and their table of scores."""

import re
from pathlib import Path
from unittest.mock import Mock

import pytest
import yaml

from mnist_sweep import cli, scores
from mnist_sweep.config.command import CONF, CommandLine
from mnist_sweep.errors import RequestError
from mnist_sweep.result import Result
from tests.conftest import SMALL

pytestmark = pytest.mark.slow

TINY = [item for item in SMALL if not item.startswith("data=")]


@pytest.mark.parametrize("file", sorted((CONF / "experiment").glob("*.yaml")), ids=lambda file: file.stem)
def test_each_recipe_opens_with_its_command_its_cost_and_its_score(file: Path) -> None:
    lines = file.read_text(encoding="utf-8").splitlines()
    assert lines[:2] == ["# @package _global_", f"# python -m mnist_sweep experiment={file.stem}"]
    head = " ".join(lines[2:6])
    assert re.search(r"\d+ s |not measured", head), "its cost"
    assert re.search(r"\d\d\.\d+|not measured", head), "its score"
    parameters = sum(layer.parameters for layer in CommandLine.of([f"experiment={file.stem}"]).config.layers())
    promised = {"tiny": range(8_000), "simple_m3": range(1_113_000, 1_135_000)}  # published or promised
    assert parameters in promised.get(file.stem, range(10**7))


def test_scores_are_those_of_the_runs_and_are_not_measured_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call = ["tutorial", "--seeds", "2", "--data", "mnist5k", "--set", *TINY, f"output={tmp_path}"]
    assert cli.perform("scores", call) == cli.DONE
    printed = capsys.readouterr().out
    files = [tmp_path / "runs" / f"score-tutorial-mnist5k-{seed}" / "result.json" for seed in (0, 1)]
    results = [Result.read(file.parent) for file in files]
    assert [result.seed for result in results] == [0, 1]
    low, high = sorted(100 * result.metrics["test/accuracy"] for result in results)
    assert f"| {(low + high) / 2:.2f} ± {(high - low) / 2**0.5:.2f}% |" in printed
    written = [file.stat().st_mtime_ns for file in files]
    assert cli.perform("scores", call) == cli.DONE
    assert capsys.readouterr().out == printed
    assert [file.stat().st_mtime_ns for file in files] == written


def test_the_runs_of_another_request_are_not_taken_for_those_asked_for(tmp_path: Path) -> None:
    more = [*TINY, f"output={tmp_path}"]
    _, second = scores.commands("tutorial", "mnist5k", 2, more)
    folder = tmp_path / "runs" / "score-tutorial-mnist5k-1"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(second.config.with_precision("bf16").plain()))
    scores.commands("tutorial", "mnist5k", 2, [*more, "trainer.threads=1"])
    said = (
        f"{folder} is there already, of another request (model.filters: [4] → [6]; optimizer.lr: 0.001 → 0.01); "
        "allowed: the same request, another output=, or this folder taken away"
    )
    other = ["model.filters=[6]", "optimizer.lr=0.01"]
    with pytest.raises(RequestError, match=re.escape(said)):
        cli.perform("scores", ["tutorial", "--seeds", "2", "--data", "mnist5k", "--set", *more, *other])
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [folder.name], "the first seed was not begun"


def test_the_table_has_a_column_for_each_data_set() -> None:
    one, other = (
        Mock(parameters=1_234, epochs=1, train_seconds=1.0, metrics={"test/accuracy": value}) for value in (0.9, 0.8)
    )
    head, _, row = scores.table({("tutorial", "mnist"): [one], ("tutorial", "kmnist"): [other]}).splitlines()
    assert head == "| recipe | parameters | epochs | seconds | mnist | kmnist |"
    assert row == "| `tutorial` | 1,234 | 1 | 1 | 90.00% | 80.00% |"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["tutorail"], "experiment=tutorail: unknown option; did you mean tutorial?"),
        (["tutorial", "--seeds", "0"], "--seeds 0: allowed: at least 1"),
        (["tutorial", "--data", "mnits"], "data=mnits: unknown option; did you mean mnist?"),
        (["tutorial", "--data", "mnist5k", "--set", "optimizer.lrr=1"], "the nearest known one is optimizer.lr"),
        (["tutorial", "--set", "output=/dev/null/x"], "output=/dev/null/x: /dev/null cannot be written (Not a direct"),
        *(
            (["tutorial", "--set", "tracking=none", item], f"--set {item}: RECIPE, --data and --seeds say which runs")
            for item in ("seed=3", "data=mnist5k", "data.name=mnist5k", "name=one", "experiment=tiny", "+sweep=optuna")
        ),
    ],
)
def test_refused(arguments: list[str], said: str) -> None:
    with pytest.raises(RequestError, match=re.escape(said)):
        cli.perform("scores", arguments)
