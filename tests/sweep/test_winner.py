"""The race of the best: the config's own values in it, and what its last round does with workers without a run."""

import json
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnist_sweep import evaluation, tracking
from mnist_sweep.config.command import compose
from mnist_sweep.config.sweep_options import Objective
from mnist_sweep.errors import Interrupted
from mnist_sweep.run_record import Record
from mnist_sweep.sweep import summary, winner
from mnist_sweep.sweep.driver import sweep
from mnist_sweep.sweep.winner import widened
from mnist_sweep.sweep.workers import Task
from mnist_sweep.sweep.workers.pool import Crew


def threads(task: Task) -> int:
    (item,) = [item for item in task.overrides if item.startswith("trainer.threads=")]
    return int(item.partition("=")[2])


@given(st.integers(1, 20), st.integers(1, 8), st.integers(1, 4))
def test_the_last_round_uses_all_cores(count: int, workers: int, each: int) -> None:
    cores = workers * each
    tasks = [
        Task(id=number, overrides=[f"trainer.threads={each}", f"seed={number}"], config_dir=None, parent=None, tags={})
        for number in range(count)
    ]
    found = widened(tasks, workers, cores)
    assert [task.id for task in found] == list(range(count))
    assert all(f"seed={task.id}" in task.overrides for task in found)
    for first in range(0, count, workers):
        at_once = [threads(task) for task in found[first : first + workers]]
        assert cores - len(at_once) < sum(at_once) <= cores
    assert all(threads(task) == each for task in found[: count - count % workers])


#: The config's own learning rate, 0.001, learns less in two epochs than what is enqueued.
TWO = [
    *("+sweep=optuna", "sweep/space=empty", "sweep.trials=2", "sweep.winner.top=1", "sweep.winner.seeds=2"),
    *("data=mnist5k", "data.limit=500", "data.batch_size=50", "model.filters=[4]", "model.hidden=[16]"),
    *("trainer.max_epochs=2", "trainer.threads=1", "trainer.accelerator=cpu", "launcher=inline"),
    *("tracking=none", "+sweep.space.optimizer.lr={low: 1e-3, high: 1e-2, log: true}"),
]
FASTER = "sweep.enqueue=['optimizer.lr=0.003']"


def crowned(folder: Path, *items: str, base: list[str] = TWO) -> dict[str, Any]:
    given = [*base, f"output={folder}", *items]
    found: dict[str, Any] = json.loads(sweep(compose(given), given).read_text())["winner"]
    return found


def test_the_own_values_race_whatever_their_rank(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "mnist_sweep")
    found = crowned(tmp_path, "sweep.winner.baseline=true", "sweep/pruner=none", FASTER)
    best, own = found["candidates"]
    assert (found["trial"], own["trial"], found["gain"]["trial"]) == (best["trial"], 1, 1)
    assert found["gain"]["each"] == [a - b for a, b in zip(best["each"], own["each"], strict=True)]
    assert found["gain"]["mean"] > 0.05
    said = f"better by {found['gain']['mean']:+.4f}"
    assert any(said in line and "than the config's own values, trial 1" in line for line in caplog.messages)
    assert said in (tmp_path / "runs" / "sweep" / "report.html").read_text()


@pytest.mark.usefixtures("no_report")
def test_the_longest_runs_race_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second of two trials takes twice the epochs."""
    begun: list[str] = []
    before = Crew.submit

    def submit(crew: Crew, task: Task) -> None:
        begun.extend(item.removeprefix("name=sweep-") for item in task.overrides if item.startswith("name="))
        before(crew, task)

    monkeypatch.setattr(Crew, "submit", submit)
    monkeypatch.setattr(Record, "seconds", lambda record: float(record.config.trainer.max_epochs))
    base = [item for item in TWO if not item.startswith("trainer.max_epochs")]
    epochs = "+sweep.space.trainer.max_epochs={low: 2, high: 4}"
    both = "sweep.enqueue=['trainer.max_epochs=2 optimizer.lr=0.01','trainer.max_epochs=4 optimizer.lr=0.001']"
    found = crowned(
        tmp_path,
        epochs,
        both,
        "sweep.winner.top=2",
        "sweep/pruner=none",
        "sweep.objectives=[{metric: seconds, direction: minimize}]",
        base=base,
    )
    assert [each["trial"] for each in found["candidates"]] == [0, 1]
    assert begun[2:] == ["0001-seed1", "0001-seed2", "0000-seed1", "0000-seed2"]


@pytest.mark.usefixtures("no_report")
def test_the_own_values_are_not_pruned_when_they_are_to_race(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "mnist_sweep")
    found = crowned(
        tmp_path,
        "sweep.winner.baseline=true",
        "sweep/pruner=threshold",
        "sweep.pruner.lower=1",
        "sweep.pruner.warmup_epochs=0",
    )
    assert [each["trial"] for each in found["candidates"]] == [found["trial"]] == [0]
    assert found["gain"]["mean"] == 0
    assert any("nothing better was found" in line for line in caplog.messages)


def test_a_sweep_of_a_further_folder_of_configs_ends_whole(tmp_path: Path) -> None:
    """By a loss, so that the best network of the winner is the one with the least."""
    own = tmp_path / "mine" / "experiment"
    own.mkdir(parents=True)
    (own / "own.yaml").write_text("# @package _global_\nmodel: {hidden: [12]}\n")
    given = [*TWO, "experiment=own", f"output={tmp_path}", "objective=val/loss", "sweep.winner.seeds=3"]
    given = [item for item in given if not item.startswith("model.hidden")]
    path = sweep(compose(given, str(own.parent)), given, str(own.parent))
    found = json.loads(path.read_text())["winner"]
    least = min(found["seeds"], key=lambda seed: found["validation"]["each"][found["seeds"].index(seed)])
    assert f"The winner (seed {least}): " in (path.parent / "report.html").read_text()
    repeated = compose(["experiment=best"], str(path.parent / "conf"))
    assert repeated.model.hidden == [12]


def test_interval_over_seeds() -> None:
    assert winner.interval([0.5]) == (0.5, None, None)
    mean, low, high = winner.interval([0.90, 0.92, 0.94])
    assert mean == pytest.approx(0.92)
    assert (low, high) == pytest.approx((0.92 - 4.302653 * 0.02 / 3**0.5, 0.92 + 4.302653 * 0.02 / 3**0.5))
    assert winner._spread([1.0, 0.98], share=True)["high"] == 1.0
    losses = winner._spread([0.9, 0.3, 0.8])
    assert losses["low"] < 0
    assert losses["high"] > 1


def test_a_lower_loss_is_a_lead() -> None:
    loss, accuracy = (
        Objective(metric="val/loss", direction="minimize"),
        Objective(metric="val/f1", direction="maximize"),
    )
    assert winner._better(loss, [0.25, 0.25], [0.5, 0.75])["each"] == [0.25, 0.5]
    assert winner._better(accuracy, [0.75, 0.5], [0.5, 0.5])["each"] == [0.25, 0.0]


@pytest.mark.usefixtures("no_report")
def test_runs_that_were_measured_before_are_no_new_opening(tmp_path: Path) -> None:
    """A process that died between the opening and its end: the next sitting opens nothing."""
    found = crowned(tmp_path, "sweep.trials=1")
    assert found["test_openings"] == 1
    study = optuna.load_study(study_name="sweep", storage=f"sqlite:///{tmp_path}/optuna.db")
    study.set_user_attr("winner", None)
    again = crowned(tmp_path, "sweep.trials=1")
    assert (again["test_openings"], again["test_opened_at"]) == (1, found["test_opened_at"])


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([0.5], "0.5000"),
        ([0.92, 0.92, 0.92], "0.9200 (equal for all 3 seeds)"),
        ([0.99 - 0.98, 0.51 - 0.5], "0.0100 (equal for all 2 seeds)"),  # but for their last bits
        ([0.90, 0.92, 0.94], "0.9200 (95% interval 0.8703 … 0.9697)"),
    ],
)
def test_what_is_said_of_an_interval(values: list[float], said: str) -> None:
    assert summary.interval(winner._spread(values)) == said


@pytest.mark.usefixtures("no_report")
def test_a_race_run_whose_result_is_damaged_is_done_again(tmp_path: Path) -> None:
    found = crowned(tmp_path, "sweep.trials=1")
    study = optuna.load_study(study_name="sweep", storage=f"sqlite:///{tmp_path}/optuna.db")
    study.set_user_attr("winner", None)
    result = tmp_path / "runs" / "sweep-0000-seed1" / "result.json"
    result.write_text(result.read_text()[:500])
    again = crowned(tmp_path, "sweep.trials=1")
    assert again["validation"] == found["validation"]
    assert again["test_accuracy"] == found["test_accuracy"]


@pytest.mark.usefixtures("no_report")
def test_an_opening_in_vain_is_remembered_and_one_that_was_not_counts_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moments: list[list[str]] = []

    def measure(*_: object) -> None:
        study = optuna.load_study(study_name="sweep", storage=f"sqlite:///{tmp_path}/optuna.db")
        moments.append(study.user_attrs["test_openings"])
        raise Interrupted(2)

    with monkeypatch.context() as patch:
        patch.setattr(evaluation, "measure", measure)
        with pytest.raises(Interrupted):
            crowned(tmp_path, "sweep.trials=1")
    assert [len(each) for each in moments] == [1]
    study = optuna.load_study(study_name="sweep", storage=f"sqlite:///{tmp_path}/optuna.db")
    study.set_user_attr("test_openings", ["2020-01-01T00:00:00+00:00"])  # else both might be of one second
    assert crowned(tmp_path, "sweep.trials=1")["test_openings"] == 2


@pytest.mark.usefixtures("no_report")
def test_a_model_that_could_not_be_registered_is_at_the_next_sitting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the store's part replaced: whether it is asked again, and for which run."""
    asked: list[tuple[Any, ...]] = []
    outcome: list[dict[str, Any] | None] = [None, None, {"name": "mnist_sweep_mnist5k", "version": 1}]

    def register(*arguments: Any) -> dict[str, Any] | None:
        asked.append(arguments[1:])
        return outcome[len(asked) - 1]

    monkeypatch.setattr(tracking, "register", register)
    base = [item for item in TWO if item != "tracking=none"]
    models = [crowned(tmp_path, "sweep.trials=1", base=base)["model"] for _ in range(4)]
    assert models == [None, None, outcome[2], outcome[2]]
    assert len(asked) == 3
    assert asked[0] == asked[1] == asked[2]
