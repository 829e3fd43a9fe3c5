"""The recipes and their table of scores."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from mnist_sweep import scores
from mnist_sweep.config.command import CONF, compose
from mnist_sweep.errors import RequestError
from mnist_sweep.result import Result
from tests.conftest import SMALL

RECIPES = sorted(file.stem for file in (CONF / "experiment").glob("*.yaml"))


@pytest.mark.parametrize("recipe", RECIPES)
def test_each_recipe_opens_with_its_command_its_cost_and_its_score(recipe: str) -> None:
    lines = (CONF / "experiment" / f"{recipe}.yaml").read_text(encoding="utf-8").splitlines()
    assert lines[:2] == ["# @package _global_", f"# python -m mnist_sweep experiment={recipe}"]
    head = " ".join(lines[2:6])
    assert re.search(r"\d+ s |not measured", head), "its cost"
    assert re.search(r"\d\d\.\d+|not measured", head), "its score"
    assert compose([f"experiment={recipe}"]).model.layers()


def test_sizes_that_are_published_or_promised() -> None:
    def parameters(recipe: str) -> int:
        return sum(layer.parameters for layer in compose([f"experiment={recipe}"]).model.layers())

    assert parameters("tiny") < 8_000
    assert parameters("simple_m3") == pytest.approx(1_124_000, rel=0.01)


TINY = ["data.limit=200", "trainer.max_epochs=1", "model.filters=[4]", "model.hidden=[8]", "tracking=none"]


def test_scores_are_those_of_the_runs_and_are_not_measured_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{scores.MARKS[0]}\nold\n{scores.MARKS[1]}\nafter\n")
    call = ["tutorial", "--seeds", "2", "--data", "mnist5k", "--into", str(page), "--set", *TINY, f"output={tmp_path}"]
    assert scores.perform(call) == 0
    printed = capsys.readouterr().out.strip()
    folders = [tmp_path / "runs" / f"score-tutorial-mnist5k-{seed}" for seed in (0, 1)]
    results = [Result.read(folder) for folder in folders]
    assert [result.seed for result in results] == [0, 1]
    said = scores.Score("tutorial", "mnist5k", results).said()
    low, high = sorted(100 * result.metrics["test/accuracy"] for result in results)
    assert said == f"{(low + high) / 2:.2f} ± {(high - low) / 2**0.5:.2f}%"
    assert said in printed
    assert page.read_text() == f"before\n{scores.MARKS[0]}\n{printed}\n{scores.MARKS[1]}\nafter\n"
    written = [(folder / "result.json").stat().st_mtime_ns for folder in folders]
    assert scores.perform(call) == 0
    assert [(folder / "result.json").stat().st_mtime_ns for folder in folders] == written


def test_the_runs_of_another_request_are_not_taken_for_those_asked_for(tmp_path: Path) -> None:
    more = [*TINY, f"output={tmp_path}"]
    *_, items = scores.overrides_of("tutorial", "mnist5k", 2, more)
    folder = tmp_path / "runs" / "score-tutorial-mnist5k-1"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(compose(items).with_precision("bf16").plain()))
    scores.check(compose([*items, "trainer.threads=1"]))
    said = (
        f"{folder} is there already, of another request (model.filters: [4] → [6], optimizer.lr: 0.001 → 0.01, "
        "trainer.max_epochs: 1 → 3 and 1 more); allowed: the same request, another output=, or this folder taken away"
    )
    other = ["trainer.max_epochs=3", "model.filters=[6]", "optimizer.lr=0.01", "trainer.patience=2"]
    with pytest.raises(RequestError, match=re.escape(said)):
        scores.perform(["tutorial", "--seeds", "2", "--data", "mnist5k", "--set", *more, *other])
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [folder.name], "the first seed was not begun"


def test_the_table_has_a_column_for_each_data_set_and_says_who_chose_on_what() -> None:
    given = [*SMALL, "output=nowhere", "name=one"]
    result = Result(
        status="finished", reason=None, detail=None, objective=0.9, metrics={"test/accuracy": 0.9}, best_epoch=1,
        epochs=1, seconds=1.0, train_seconds=1.0, parameters=1_234, dataset="mnist", seed=0, device="cpu", threads=1,
        precision="32", mlflow_run_id=None, overrides=given, command="", folder="nowhere", checkpoint=None,
    )  # fmt: skip
    found = scores.table(
        [scores.Score("tutorial", "mnist", [result]), scores.Score("simple_m3", "mnist", [result]),
         scores.Score("tutorial", "kmnist", [result])],
        ["simple_m5"],
    )  # fmt: skip
    head, _, tutorial, simple, other = found.splitlines()
    assert other.startswith("| `simple_m5` | 1,128,170 | 150 | – | not measured | not measured | 99.87%")
    assert "| mnist | kmnist |" in head
    assert tutorial.startswith("| `tutorial` | 1,234 | 1 | 1 | 90.00% | 90.00% | –")
    assert "| 90.00% | – | 99.87%" in simple
    assert "the test set" in simple


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["tutorail"], "tutorail: no such recipe; allowed: accurate, balanced, fast99"),
        (["tutorial", "--seeds", "0"], "--seeds 0: allowed: at least 1"),
        (["tutorial", "--into", "nowhere.md"], "--into nowhere.md: allowed: a file with one line <!-- scores -->"),
        (["tutorial", "--data", "mnits"], "data=mnits: unknown option; did you mean mnist?"),
        (["tutorial", "--data", "mnist5k", "--set", "optimizer.lrr=1"], "the nearest known one is optimizer.lr"),
        (
            ["tutorial", "--set", "output=/dev/null/x"],
            "output=/dev/null/x: /dev/null cannot be written (Not a directory)",
        ),
        *(
            (["tutorial", "--set", "tracking=none", item], f"--set {item}: RECIPE, --data and --seeds say which runs")
            for item in ("seed=3", "data=mnist5k", "data.name=mnist5k", "name=one", "experiment=tiny", "+sweep=optuna")
        ),
    ],
)
def test_refused(arguments: list[str], said: str) -> None:
    with pytest.raises(RequestError, match=re.escape(said)):
        scores.perform(arguments)


def test_a_page_that_cannot_be_written_is_refused_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"{scores.MARKS[0]}\n{scores.MARKS[1]}\n")
    before = Path.open

    def guarded(path: Path, mode: str = "r", *arguments: Any, **more: Any) -> Any:
        if path == page and mode.strip("bt") != "r":  # as to anybody but the superuser
            raise PermissionError(13, "Permission denied", str(path))
        return before(path, mode, *arguments, **more)

    monkeypatch.setattr(Path, "open", guarded)
    call = ["tutorial", "--seeds", "1", "--data", "mnist5k", "--into", str(page), "--set", *TINY, f"output={tmp_path}"]
    with pytest.raises(RequestError, match=r"page\.md: cannot be written \(Permission denied\); allowed: "):
        scores.perform(call)
    assert not (tmp_path / "runs").exists()
