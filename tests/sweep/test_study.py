"""A study that goes on: what a later sitting reads back, and what it may change."""

import shutil
from pathlib import Path
from typing import Any

import optuna
import pytest

from mnist_sweep.errors import RequestError
from tests import stubs

pytestmark = pytest.mark.usefixtures("fresh_stubs")


@pytest.mark.untraced
def test_a_resumed_search_reads_back_what_it_needs(tmp_path: Path) -> None:
    items = ["sweep/sampler=nsga2", "sweep.sampler.population=4"]
    whole = stubs.search(tmp_path / "whole", "sweep.trials=20", *items)
    for trials in (3, 11, 20):
        parts = stubs.search(tmp_path / "parts", f"sweep.trials={trials}", *items)
    facts = [
        [(trial.params, trial.state, trial.values, trial.intermediate_values) for trial in driver.study.trials()]
        for driver in (whole, parts)
    ]
    assert facts[0] == facts[1]


@pytest.fixture(scope="module")
def begun(mnist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a sweep of two trials."""
    folder = tmp_path_factory.mktemp("begun")
    stubs.search(folder, "sweep.trials=2", f"data.root={mnist}")
    return folder


@pytest.mark.untraced
@pytest.mark.parametrize(
    ("changed", "said", "bearable"),
    [
        (["sweep.space.optimizer.lr.high=0.01"], "sweep.space.optimizer.lr.high: 0.3 → 0.01", True),
        (["sweep.space.data.batch_size.choices=[32,64]"], "choices: [32, 64, 128, 256] → [32, 64]", False),
        (["sweep.space.optimizer._group_=[adam,sgd]"], '["adam", "adamw", "sgd"] → ["adam", "sgd"]', False),
        (["sweep.space.model.dropout.low=0", "sweep.space.model.dropout.high=0"], "dropout.high: 0.6 → 0", False),
        (["~sweep.space.optimizer.lr.log"], "sweep.space.optimizer.lr.log: true → not there", False),
        (
            ["++sweep.space.trainer.max_epochs={choices: [1, 2]}", "~sweep.space.trainer.max_epochs.low"],
            "Optuna cannot draw trainer.max_epochs otherwise than before",
            False,
        ),
        (["optimizer.lr=0.01"], "sweep.space.optimizer.lr.high: 0.3 → not there", True),
        (["+sweep.space.model.pool={choices: [max, avg]}"], 'pool.choices: not there → ["max", "avg"]', True),
        (["objective=val/loss"], '["maximize val/accuracy"] → ["minimize val/loss"]', False),
        (["sweep.objectives=[{metric: val/accuracy, direction: minimize}]"], '→ ["minimize val/accuracy"]', False),
        (["data=mnist"], 'data: "mnist5k" → "mnist"', False),
        (["data.limit=300"], "data.limit: null → 300", True),
        (["model.pool=avg"], 'model.pool: "max" → "avg"', True),
        (["sweep.constraints={parameters: {max: 9}}"], 'sweep.constraints.parameters: not there → {"max": 9.0}', True),
    ],
)
def test_a_changed_sweep_is_refused_with_the_difference(
    begun: Path, tmp_path: Path, mnist: Path, changed: list[str], said: str, bearable: bool
) -> None:
    shutil.copytree(begun, tmp_path, dirs_exist_ok=True)
    with pytest.raises(RequestError, match="was begun otherwise") as caught:
        stubs.search(tmp_path, "sweep.trials=3", f"data.root={mnist}", *changed)
    assert said in str(caught.value)
    assert ("sweep.allow_changes=true" in str(caught.value)) == bearable
    assert "\n" not in str(caught.value)
    assert not stubs.performed
    allowed = ["sweep.trials=3", f"data.root={mnist}", "sweep.allow_changes=true", *changed]
    if bearable and "constraints" not in said:  # with which nothing is possible
        stubs.search(tmp_path, *allowed)
        stubs.search(tmp_path, *allowed[:2], *changed)  # from now on it is as it was changed
        assert len(stubs.performed) == 1
    elif not bearable:
        with pytest.raises(RequestError, match="was begun otherwise"):
            stubs.search(tmp_path, *allowed)


def test_what_does_not_change_the_numbers_may_change(tmp_path: Path) -> None:
    stubs.search(tmp_path, "sweep.trials=2")
    more: list[Any] = ["trainer.threads=1", "sweep/pruner=none", "sweep/sampler=random", "sweep.workers=1"]
    assert stubs.search(tmp_path, "sweep.trials=3", *more).study.counted() == 3


@pytest.mark.untraced
def test_another_study_warms_up(tmp_path: Path) -> None:
    first = stubs.search(tmp_path, "sweep.trials=30", "sweep.name=first")
    second = stubs.search(
        tmp_path, "sweep.name=second", "sweep.warm_start=first", "sweep.warm_start_top=3", "sweep.trials=6",
        "sweep.space.model.dropout.high=0.1", "objective=val/loss",
    )  # fmt: skip
    best = [trial.user_attrs["values"] for trial in first.study.ranking()[:3]]
    taken = [trial.user_attrs["values"] for trial in second.study.trials()[:3]]
    for old, new in zip(best, taken, strict=True):
        kept = {key: value for key, value in old.items() if key != "model.dropout" or value <= 0.1}
        assert {key: new[key] for key in kept} == kept


def test_another_study_without_anything_to_take_over_is_refused(tmp_path: Path) -> None:
    stubs.search(tmp_path, "sweep.name=first", "sweep.trials=3", "sweep.constraints={gap/accuracy: {max: 0}}")
    with pytest.raises(RequestError, match=r"sweep\.warm_start=first: no trial of a sweep there finished and kept its"):
        stubs.search(tmp_path, "sweep.warm_start=first", "sweep.name=second")
    stubs.search(tmp_path, "sweep.name=rate", "++sweep.space={optimizer.lr: {low: 0.01, high: 0.1}}", "sweep.trials=2")
    pools = "++sweep.space={model.pool: {choices: [max, avg]}}"
    with pytest.raises(RequestError, match=r"sweep\.warm_start=rate: nothing that its best trials drew is within"):
        stubs.search(tmp_path, "sweep.warm_start=rate", "sweep.name=second", pools)


def test_the_study_of_another_program_is_left_alone(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path}/optuna.db"
    study = optuna.create_study(study_name="sweep", storage=storage, direction="maximize")
    study.add_trial(optuna.trial.create_trial(value=1.0))
    with pytest.raises(RequestError, match=r"sweep\.name=sweep: this study was begun by another program"):
        stubs.search(tmp_path)
    assert optuna.load_study(study_name="sweep", storage=storage).user_attrs == {}
