"""The winner: which trials are trained again, what is made of their scores, and the opening of the test set."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast
from unittest.mock import Mock

import pytest
from optuna.trial import FrozenTrial, TrialState

from mnist_sweep import tracking
from mnist_sweep.config.command import CommandLine
from mnist_sweep.errors import Interrupted, RequestError, RunFailure
from mnist_sweep.result import Result
from mnist_sweep.run_folder import RunFolder
from mnist_sweep.sweep import winner
from mnist_sweep.sweep.workers import Task, Workers
from tests.conftest import SMALL
from tests.sweep import studies

#: Scores on the validation set by trial: of the race, with the seeds 1 and 2, and with the new seeds 3 and 4. The
#: fourth trial is the baseline.
SCORES = {0: (0.93, 0.94), 1: (0.96, 0.98, 0.95, 0.97), 2: (0.91, 0.99, 0.9, 0.92), 3: (0.5, 0.5, 0.6, 0.7)}


class Race:
    """A study of four trials, workers that know the scores beforehand, and a test set of which 90% are right."""

    size = 1

    def __init__(self, folder: Path) -> None:
        self.folder, self.failing, self.vain = folder, list[int](), False
        trials = [studies.trial_of(folder, number, [0.99 - 0.01 * number]) for number in range(3)]
        trials += [studies.trial_of(folder, 3, [0.9], seconds=9.0, attributes=studies.BASELINE)]
        self.study = studies.study_of(trials)
        self.tasks: list[Task] = []
        self.opened: list[list[str]] = []

    def choose(self, *items: str) -> dict[str, Any] | None:
        """The winner, over two race and two new seeds; `tasks` are what was trained for it."""
        self.tasks = []
        command = studies.sweep_of(self.folder, "sweep.winner.seeds=2", "sweep.winner.race_seeds=2", *items)
        return winner.choose(command, command.without("sweep"), self.study, cast(Workers, self))

    def perform(self, tasks: Sequence[Task], _: object = None) -> dict[int, Result]:
        self.tasks += tasks
        return {task.id: self._train(task) for task in tasks}

    def _train(self, task: Task) -> Result:
        config, trial = task.command.config, task.tags["trial"]
        if task.resume and (earlier := RunFolder.of(config).ended()):
            return earlier
        known: dict[str, Any] = {"seed": config.seed, "mlflow_run_id": f"id{config.seed}"}
        if trial in self.failing:
            known |= {"status": "failed", "reason": "timeout", "detail": "too long"}
        value = 0.55 if trial is None else SCORES[trial][config.seed - 1]  # None: the config's own values
        value -= 0.01 * ("-without-" in str(config.name))
        done = studies.result_of(self.folder, str(config.name), value, **known)
        done.path.parent.mkdir(parents=True, exist_ok=True)
        done.write()
        return done

    def open_test(self, folders: Sequence[Path], on_open: Callable[[str], None], **_: Any) -> list[Result]:
        self.opened.append([folder.name for folder in folders])
        results = [Result.read(folder) for folder in folders]
        moment = f"2026-01-0{len(self.opened)}"
        if not all(result.test_opened_at for result in results):
            on_open(moment)
        if self.vain:
            raise Interrupted(2)
        for result in results:
            result.metrics["test/accuracy"] = 0.9
        results = [dataclasses.replace(result, test_opened_at=result.test_opened_at or moment) for result in results]
        for result in results:
            result.write()
        return results


@pytest.fixture
def race(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Race:
    made = Race(tmp_path)
    monkeypatch.setattr("mnist_sweep.run.open_test", made.open_test)
    return made


def test_the_best_mean_over_new_seeds_wins(race: Race) -> None:
    found = race.choose()
    assert found
    assert [(each["trial"], each["first"]) for each in found["candidates"]] == [(0, 0.99), (1, 0.98), (2, 0.97)]
    assert (found["trial"], found["metric"], found["model"]) == (1, "val/accuracy", None)
    assert (found["race_seeds"], found["seeds"]) == ([1, 2], [3, 4])
    assert found["validation"]["each"] == [0.95, 0.97]
    assert found["luck"] == found["selection_bias"] == pytest.approx((0.055 + 0.01 + 0.02) / 3)
    assert found["lead"]["mean"] == pytest.approx(0.97 - 0.95)  # over trial 2
    assert (found["noise"], found["noise_networks"]) == (pytest.approx(0.02 / 2**0.5), 1)  # not the far worse config's
    assert (found["gain"]["trial"], found["gain"]["each"]) == (3, pytest.approx([0.35, 0.27]))
    assert found["command"] == "python -m mnist_sweep name=sweep-0001"
    assert found["test_accuracy"]["each"] == [0.9, 0.9]
    assert race.opened == [["sweep-0001-seed3", "sweep-0001-seed4"]]
    assert found["checkpoints"] == [f"{race.folder}/runs/{name}/checkpoints/best.ckpt" for name in race.opened[0]]
    assert race.study.recall("winner") == found
    network = {"run": "sweep-0001-seed4", "seed": 4, "command": "python -m mnist_sweep name=sweep-0001-seed4"}
    assert found["network"] == network  # the best of them on validation
    roles = [(task.tags["role"], task.tags["trial"], task.pictures) for task in race.tasks[::2]]
    assert sorted(roles[:3]) == [("race", 0, False), ("race", 1, False), ("race", 2, False)]
    assert sorted(roles[3:]) == [("baseline", 3, False), ("final", 1, True)]
    assert not any(task.resume for task in race.tasks)


def test_a_winner_is_remembered_until_something_else_is_asked_for(race: Race) -> None:
    first = race.choose()
    assert (race.choose(), race.tasks, len(race.opened)) == (first, [], 1)
    narrower = race.choose("sweep.winner.top=2")
    assert narrower
    assert (len(narrower["candidates"]), len(race.tasks)) == (2, 4 + 4)
    assert all(task.resume for task in race.tasks)  # a run that has finished is only read
    assert narrower["test_openings"] == 1  # its runs were measured before
    race.study.remember("winner", None)
    (race.folder / "runs" / "sweep-0001-seed3" / "result.json").unlink()
    assert (race.choose() or {})["test_openings"] == 2


def test_an_opening_in_vain_is_remembered(race: Race) -> None:
    race.vain = True
    with pytest.raises(Interrupted):
        race.choose()
    assert race.study.recall("test_openings") == ["2026-01-01"]
    race.vain = False
    assert (race.choose() or {})["test_openings"] == 2


def test_the_baseline_takes_part_whatever_its_rank(race: Race, caplog: pytest.LogCaptureFixture) -> None:
    found = race.choose("sweep.winner.baseline=true")
    assert found
    assert [each["trial"] for each in found["candidates"]] == [0, 1, 2, 3]
    assert found["gain"]["trial"] == 3
    begun = [task.command.config.name for task in race.tasks]
    assert begun[:2] == ["sweep-0003-seed1", "sweep-0003-seed2"]  # the longest first
    race.study.own = "nobody's"
    assert len((race.choose("sweep.winner.baseline=true") or {})["candidates"]) == 3
    assert "sweep.winner.baseline=true: there is no baseline trial" in caplog.text


def test_a_candidate_with_a_failed_run_is_left_out(race: Race, caplog: pytest.LogCaptureFixture) -> None:
    race.failing = [1]
    found = race.choose()
    assert found
    assert found["trial"] == 2
    assert found["candidates"][1] == {"trial": 1, "first": 0.98, "mean": None}
    assert "trial 1 with seed 2: timeout (too long)" in caplog.text
    race.failing = [0]
    with pytest.raises(RunFailure, match="none of the best trials could be trained again"):
        race.choose("sweep.winner.top=1", "sweep.name=other")


def test_a_trial_that_came_as_far_takes_part_whatever_its_state(race: Race) -> None:
    curves = [[0.9] * 9, [0.5, 0.6, 0.7], [0.95] * 9]
    trials = [studies.trial_of(race.folder, 0, [0.9], curves[0])]
    trials += [studies.trial_of(race.folder, number, (), curves[number], objective=0.9) for number in (1, 2)]
    for trial in trials[1:]:
        trial.user_attrs["result"]["metrics"]["val/accuracy"] = max(trial.intermediate_values.values())
    race.study = studies.study_of(trials)
    assert [trial.number for trial in race.study.contenders()] == [2, 0]
    race.study = studies.study_of(trials[1:])  # where none is complete, those that came furthest
    assert [trial.number for trial in race.study.contenders()] == [1]


def failed(race: Race, number: int, **attributes: str) -> FrozenTrial:
    """A trial that failed after nine epochs."""
    why = {"reason": "error", "detail": "a full disk", **attributes}
    trial = studies.trial_of(race.folder, number, (), [0.99] * 9, attributes=why)
    trial.state = TrialState.FAIL
    return trial


def test_a_trial_that_failed_before_it_had_read_how_far_it_had_come_does_not_take_part(
    race: Race, caplog: pytest.LogCaptureFixture
) -> None:
    trials = [
        studies.trial_of(race.folder, number, [value], [value] * 9) for number, value in enumerate((0.5, 0.9, 0.4))
    ]
    trials.append(failed(race, 3, **studies.BASELINE))
    trials[3].user_attrs["result"]["metrics"] = {}
    race.study = studies.study_of(trials)
    assert [trial.number for trial in race.study.contenders()] == [1, 0, 2]
    found = race.choose("sweep.winner.baseline=true", "sweep.winner.top=1")
    assert found
    assert [each["trial"] for each in found["candidates"]] == [1]
    assert "sweep.winner.baseline=true: trial 3 has no value, so it does not take part" in caplog.text


def test_a_trial_that_failed_and_was_tried_again_has_one_place(race: Race) -> None:
    trials = [failed(race, 0, digest="1"), studies.trial_of(race.folder, 1, [0.9], [0.9] * 9)]
    for trial in trials:
        trial.user_attrs["result"]["metrics"]["val/accuracy"] = 0.9
    race.study = studies.study_of([*trials, failed(race, 2)])
    assert [trial.number for trial in race.study.contenders()] == [1, 2]


def test_each_difference_to_the_config_is_undone_once(race: Race) -> None:
    race.study.trials()[1].user_attrs["values"] = {
        "optimizer.lr": 0.02, "model.filters": [8, 8], "model.kernel_size": [3, 5], "model.pool": "max",
    }  # fmt: skip
    found = race.choose("sweep.winner.ablate=true")
    assert found
    by_key = {entry["key"]: entry for entry in found["ablation"]}
    assert {*by_key} == {"optimizer.lr", "model.filters", "model.kernel_size"}  # not the pool, which is the config's
    assert (by_key["optimizer.lr"]["value"], by_key["optimizer.lr"]["baseline"]) == (0.02, 0.001)
    assert by_key["optimizer.lr"]["worse_by"]["each"] == pytest.approx([0.01, 0.01])
    assert "entries for 1 blocks" in by_key["model.filters"]["why"]  # of one block beside two kernel sizes
    undone = [task.command.assigned() for task in race.tasks if "-without-" in str(task.command.assigned()["name"])]
    assert [task["seed"] for task in undone] == [3, 4] * (len(undone) // 2)
    assert undone[0]["model.filters"] == [8, 8]
    assert "optimizer.lr" not in undone[0] or undone[0]["optimizer.lr"] == 0.001


def test_the_runs_of_a_sweep_with_the_longest_name_have_names_that_are_allowed(race: Race) -> None:
    race.study.trials()[1].user_attrs["values"] = {"optimizer.lr": 0.02}
    name = "s" * 100
    assert race.choose(f"sweep.name={name}", "sweep.winner.ablate=true")
    assert f"{name}-0001-seed3-without-optimizer.lr" in [task.command.config.name for task in race.tasks]
    long, longer = (winner._in_name("model.arguments." + "x" * letters) for letters in (80, 81))
    other = winner._in_name("model.arguments.größe")
    assert long != longer
    for key in (long, longer, other):
        assert CommandLine.of([*SMALL, f"name={name}-9999999-seed4294967295-without-{key}"]).config.name
    with pytest.raises(RequestError, match="at most 100"):
        race.choose(f"sweep.name={name}s")


def test_a_folder_of_another_run_is_not_written_over(race: Race) -> None:
    items = [*SMALL, f"output={race.folder}", "optimizer.lr=0.5", "name=sweep-0000-seed1", "seed=1"]
    other = CommandLine.of(items).config
    RunFolder.of(other).begin(other, [])
    with pytest.raises(RunFailure, match=r"sweep-0000-seed1 is there already, of another run \(optimizer\.lr: 0\.5 →"):
        race.choose()


def test_of_several_objectives_a_rule_chooses_from_the_front(race: Race, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "mnist_sweep")
    values = [(0.99, 0.3), (0.98, 0.2), (0.97, 0.25), (0.9, 0.1)]  # the third is dominated
    trials = [studies.trial_of(race.folder, number, each) for number, each in enumerate(values)]
    race.study = studies.study_of(trials, "val/accuracy", "val/loss")
    goals = "[{metric: val/accuracy, direction: maximize}, {metric: val/loss, direction: minimize}]"
    both = f"sweep.objectives={goals}", "sweep/pruner=none"
    assert race.choose(*both) is None
    assert "3 Pareto-optimal trials; to pick a winner set sweep.winner.rule=val/accuracy" in caplog.text
    found = race.choose(*both, "sweep.winner.rule=val/accuracy")
    assert found
    assert ([each["trial"] for each in found["candidates"]], found["trial"]) == ([0, 1, 3], 1)
    least = race.choose(*both, "sweep.winner.rule=val/loss", "sweep.winner.top=2")
    assert least
    assert ([each["trial"] for each in least["candidates"]], least["trial"]) == ([3, 1], 1)
    assert least["lead"]["each"] == pytest.approx([0.46, 0.48])  # of a loss, the lower is the better
    assert least["luck"] == pytest.approx(((0.5 - 0.1) + (0.03 - 0.02)) / 2)
    assert least["gain"]["trial"] is None  # none of these trials is the baseline, so the config itself was trained
    assert least["gain"]["each"] == pytest.approx([0.4, 0.42])  # of a loss


def test_a_model_that_could_not_be_registered_is_in_the_next_session(
    race: Race, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the run that is best on validation, the second one."""
    model = {"name": "mnist_sweep_mnist5k", "version": 1}
    register = Mock(side_effect=[None, model])
    monkeypatch.setattr(tracking, "register", register)
    models = [(race.choose("tracking=mlflow") or {})["model"] for _ in range(3)]
    named = {**model, "run": "sweep-0001-seed4", "seed": 4}
    assert models == [None, named, named]
    assert [call.args[1:3] for call in register.call_args_list] == [("id4", "mnist5k")] * 2
    measured = register.call_args.args[3]
    assert (measured.validation, measured.seeds, measured.test) == (pytest.approx(0.96), 2, 0.9)
    assert measured.split.endswith(", split_seed 0")
