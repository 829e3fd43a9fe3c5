"""The winner: which trials are trained again, what is made of their scores, and the opening of the test set."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from optuna.trial import FrozenTrial

from mnist_sweep import tracking
from mnist_sweep.config.command import CommandLine
from mnist_sweep.config.sweep_options import Objective
from mnist_sweep.errors import Interrupted, RunFailure
from mnist_sweep.result import Result
from mnist_sweep.run_folder import RunFolder
from mnist_sweep.sweep import winner
from mnist_sweep.sweep.study import Study
from mnist_sweep.sweep.workers import Task, Workers
from tests.conftest import SMALL
from tests.sweep import studies

#: Scores on the validation set by trial, for the seeds 1 and 2.
SCORES = {0: (0.93, 0.94), 1: (0.96, 0.98), 2: (0.91, 0.99), 3: (0.5, 0.5)}


class Trained:
    """Workers that know the scores beforehand."""

    def __init__(self, failing: Sequence[int] = ()) -> None:
        self.failing, self.tasks = failing, list[Task]()

    def perform(self, tasks: Sequence[Task]) -> dict[int, Result]:
        self.tasks = list(tasks)
        return {task.id: self.train(task) for task in tasks}

    def train(self, task: Task) -> Result:
        config, trial = task.command.config, task.tags["trial"]
        if trial in self.failing:
            lost: dict[str, Any] = {"status": "failed", "reason": "timeout", "detail": "too long", "objective": None}
            return dataclasses.replace(studies.result_of(Path(config.output), str(config.name), 0.0), **lost)
        folder, name = Path(config.output), str(config.name)
        if task.resume and (earlier := RunFolder.of(config).ended()):
            return earlier
        known: dict[str, Any] = {"seed": config.seed, "mlflow_run_id": f"id{config.seed}"}
        done = studies.result_of(folder, name, SCORES[trial][config.seed - 1], **known)
        RunFolder.of(config).path.mkdir(parents=True, exist_ok=True)
        done.write()
        return done


@pytest.fixture(autouse=True)
def openings(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The names of the runs for which the test set was opened, each time; their accuracy is 0.9."""
    made: list[list[str]] = []

    def open_test(folders: Sequence[Path], on_open: Callable[[str], None]) -> list[Result]:
        made.append([folder.name for folder in folders])
        results = [Result.read(folder) for folder in folders]
        if not all(result.test_opened_at for result in results):
            on_open(f"2026-01-0{len(made)}")
        for index, result in enumerate(results):
            if not result.test_opened_at:
                metrics = result.metrics | {"test/accuracy": 0.9}
                results[index] = dataclasses.replace(result, metrics=metrics, test_opened_at=f"2026-01-0{len(made)}")
                results[index].write()
        return results

    monkeypatch.setattr("mnist_sweep.run.open_test", open_test)
    return made


def four(folder: Path) -> list[FrozenTrial]:
    """The baseline, the fourth of them, took longest."""
    trials = [studies.trial_of(folder, number, [0.99 - 0.01 * number]) for number in range(3)]
    return [*trials, studies.trial_of(folder, 3, [0.9], seconds=9.0, attributes=studies.BASELINE)]


def choose(
    folder: Path, study: Study, *items: str, workers: Trained | None = None
) -> tuple[dict[str, Any] | None, Trained]:
    """The winner of a sweep with two new seeds, and what was trained."""
    trained = workers or Trained()
    command = studies.sweep_of(folder, "sweep.winner.seeds=2", *items)
    return winner.choose(command, study, cast(Workers, trained)), trained


def test_the_best_mean_over_new_seeds_wins(tmp_path: Path, openings: list[list[str]]) -> None:
    study = studies.study_of(four(tmp_path))
    found, trained = choose(tmp_path, study)
    assert found
    assert [(each["trial"], each["first"]) for each in found["candidates"]] == [(0, 0.99), (1, 0.98), (2, 0.97)]
    assert (found["trial"], found["seeds"], found["metric"], found["model"]) == (1, [1, 2], "val/accuracy", None)
    assert found["validation"]["mean"] == pytest.approx(0.97)
    assert found["luck"] == pytest.approx(0.98 - 0.97)
    assert found["lead"]["mean"] == pytest.approx(0.97 - 0.95)  # over trial 2
    assert found["noise"] == pytest.approx(((0.01**2 + 0.02**2 + 0.08**2) / 2 / 3) ** 0.5)
    assert found["gain"] is None  # the baseline is not among the best
    assert found["command"] == "python -m mnist_sweep name=sweep-0001"
    assert found["test_accuracy"]["each"] == [0.9, 0.9]
    assert openings == [["sweep-0001-seed1", "sweep-0001-seed2"]]
    assert [Path(file).parts[-3:] for file in found["checkpoints"]] == [
        (f"sweep-0001-seed{seed}", "checkpoints", "best.ckpt") for seed in (1, 2)
    ]
    assert study.recall("winner") == found
    task = trained.tasks[0]
    assert task.tags == {"study": "sweep", "study.id": "its id", "winner": "true", "trial": 0}
    assert task.pictures
    assert not task.resume


def test_a_winner_is_remembered_until_something_else_is_asked_for(tmp_path: Path, openings: list[list[str]]) -> None:
    study = studies.study_of(four(tmp_path))
    first, _ = choose(tmp_path, study)
    again, trained = choose(tmp_path, study)
    assert (again, trained.tasks, len(openings)) == (first, [], 1)
    narrower, trained = choose(tmp_path, study, "sweep.winner.top=2")
    assert narrower
    assert (len(narrower["candidates"]), len(trained.tasks)) == (2, 4)
    assert all(task.resume for task in trained.tasks)  # a run that has finished is only read
    assert narrower["test_openings"] == 1  # its runs were measured before
    study.remember("winner", None)
    RunFolder(tmp_path / "runs" / "sweep-0001-seed1").path.joinpath("result.json").unlink()
    assert (choose(tmp_path, study)[0] or {})["test_openings"] == 2


def test_an_opening_in_vain_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = studies.study_of(four(tmp_path))

    def interrupted(_: Sequence[Path], on_open: Callable[[str], None]) -> list[Result]:
        on_open("2020-01-01")
        raise Interrupted(2)

    with monkeypatch.context() as patch:
        patch.setattr("mnist_sweep.run.open_test", interrupted)
        with pytest.raises(Interrupted):
            choose(tmp_path, study)
    assert study.recall("test_openings") == ["2020-01-01"]
    assert (choose(tmp_path, study)[0] or {})["test_openings"] == 2


def test_the_baseline_takes_part_whatever_its_rank(tmp_path: Path) -> None:
    found, trained = choose(tmp_path, studies.study_of(four(tmp_path)), "sweep.winner.baseline=true")
    assert found
    assert [each["trial"] for each in found["candidates"]] == [0, 1, 2, 3]
    assert found["gain"]["trial"] == 3
    assert found["gain"]["each"] == pytest.approx([0.46, 0.48])
    begun = [task.command.config.name for task in trained.tasks]
    assert begun[:2] == ["sweep-0003-seed1", "sweep-0003-seed2"]  # the longest first


def test_a_sweep_without_a_complete_baseline_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    found, _ = choose(tmp_path, studies.study_of(four(tmp_path)[:3]), "sweep.winner.baseline=true")
    assert found
    assert len(found["candidates"]) == 3
    assert "sweep.winner.baseline=true: no baseline trial is complete" in caplog.text


def test_a_candidate_with_a_failed_run_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    found, _ = choose(tmp_path, studies.study_of(four(tmp_path)), workers=Trained(failing=[1]))
    assert found
    assert found["trial"] == 2
    assert found["candidates"][1] == {"trial": 1, "first": 0.98, "mean": None}
    assert "trial 1 with seed 2: timeout (too long)" in caplog.text
    with pytest.raises(RunFailure, match="none of the best trials could be trained again"):
        choose(tmp_path, studies.study_of(four(tmp_path)), workers=Trained(failing=[0, 1, 2]))


def test_a_folder_of_another_run_is_not_written_over(tmp_path: Path) -> None:
    items = [*SMALL, f"output={tmp_path}", "optimizer.lr=0.5", "name=sweep-0000-seed1", "seed=1"]
    other = CommandLine.of(items).config
    RunFolder.of(other).begin(other, [])
    with pytest.raises(RunFailure, match=r"sweep-0000-seed1 is there already, of another run \(optimizer\.lr: 0\.5 →"):
        choose(tmp_path, studies.study_of(four(tmp_path)))


def test_of_several_objectives_a_rule_chooses_the_winner_from_the_front(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "mnist_sweep")
    values = [(0.99, 3000.0), (0.98, 2000.0), (0.97, 2500.0), (0.9, 1000.0)]  # the third is dominated
    trials = [studies.trial_of(tmp_path, number, each) for number, each in enumerate(values)]
    study = studies.study_of(trials, "val/accuracy", "parameters")
    both = (
        "sweep.objectives=[{metric: val/accuracy, direction: maximize}, {metric: parameters, direction: minimize}]",
        "sweep/pruner=none",
    )
    assert choose(tmp_path, study, *both)[0] is None
    assert "the front has 3 members, and no winner is chosen (sweep.winner.rule)" in caplog.text
    found, _ = choose(tmp_path, study, *both, "sweep.winner.rule=val/accuracy")
    assert found
    assert [each["trial"] for each in found["candidates"]] == [0, 1, 3]
    assert found["trial"] == 1


def test_a_lower_loss_is_an_improvement() -> None:
    loss = Objective(metric="val/loss", direction="minimize")
    assert winner.better_by(loss, [0.25, 0.25], [0.5, 0.75])["each"] == [0.25, 0.5]
    accuracy = Objective(metric="val/f1", direction="maximize")
    assert winner.better_by(accuracy, [0.75, 0.5], [0.5, 0.5])["each"] == [0.25, 0.0]


def test_a_model_that_could_not_be_registered_is_in_the_next_session(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the run that is best on validation, the second one."""
    asked: list[Any] = []
    outcome: list[dict[str, Any] | None] = [None, {"name": "mnist_sweep_mnist5k", "version": 1}]

    def register(*arguments: Any) -> dict[str, Any] | None:
        asked.append(arguments[1:])
        return outcome[len(asked) - 1]

    monkeypatch.setattr(tracking, "register", register)
    study = studies.study_of(four(tmp_path))
    models = [(choose(tmp_path, study, "tracking=mlflow")[0] or {})["model"] for _ in range(3)]
    assert models == [None, outcome[1], outcome[1]]
    assert asked == [("id2", "mnist5k", asked[0][2], 0.9)] * 2
