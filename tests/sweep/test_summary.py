"""The end of a sweep: ``sweep.json``, what is printed, and what the best trial's experiment composes."""

import json
from pathlib import Path
from typing import Any

import optuna
import pytest

from mnist_sweep.config import metrics
from mnist_sweep.config.command import CommandLine
from mnist_sweep.sweep import record, summary
from tests.sweep import studies

WINNER: dict[str, Any] = {
    "trial": 1, "command": "python -m mnist_sweep name=sweep-0001", "metric": "val/accuracy", "seeds": [1, 2],
    "validation": metrics.spread([0.90, 0.92]), "noise": 0.0123, "noise_networks": 2, "luck": 0.0042123456,
    "lead": None, "gain": {"trial": 0, **metrics.spread([0.01, 0.02])}, "race_seeds": [7],
    "candidates": [{"trial": 1, "first": 0.93, **metrics.spread([0.92])}, {"trial": 0, "first": 0.9, "mean": None}],
    "test_accuracy": metrics.spread([0.91, 0.93], share=True), "test_opened_at": "2026-01-01", "test_openings": 1,
    "model": None, "checkpoints": [],
    "differences": [{"key": "optimizer.lr", "value": 0.0123456, "baseline": 0.001}],
}  # fmt: skip


def test_the_winner_in_words() -> None:
    for values, words in {
        (0.5,): "0.5000",
        (0.99 - 0.98, 0.51 - 0.5, 0.01): "0.0100 (equal for all 3 seeds)",  # but for their last bits
        (0.90, 0.92, 0.94): "0.9200 (95% interval 0.8703 … 0.9697)",
    }.items():
        assert summary.interval(metrics.spread(values)) == words


def test_what_was_found_in_words() -> None:
    def words(**changes: Any) -> list[str]:
        return summary.in_words(WINNER | changes, "mnist")

    found, test, validation, different, bias = words()
    assert found.startswith("trial 1, better than your config by val/accuracy +0.0150")
    assert test == "test/accuracy 0.9200 (mnist; 2 new seeds)"  # of two there is no interval
    assert validation.endswith("; noise between seeds 0.0123 (the winner's and the config's)")
    assert words(noise_networks=1)[2].endswith("; noise between seeds 0.0123 (the winner's own)")
    assert different == "what is different: optimizer.lr=0.0123 (0.001)"
    assert bias == "selection bias: first score 0.9300, mean over 2 new seeds 0.9100"
    undone = {"key": "optimizer.lr", "value": 0.0123456, "baseline": 0.001, "worse_by": metrics.spread([0.01, 0.02])}
    assert words(ablation=[undone])[4].startswith("with optimizer.lr=0.001: worse by +0.0150")
    worse = words(gain={"trial": 0, **metrics.spread([-0.002])})
    assert worse[0] == "trial 1, no better than your config with new seeds: val/accuracy -0.0020"
    same = words(trial=0, gain={**WINNER["gain"], "trial": 0}, noise=None, test_openings=2)
    assert same[0] == "the search found nothing better than your config (trial 0)"
    assert same[-1] == "the test set has been opened 2 times for this study"
    assert words(gain=None)[0] == "trial 1; your config could not be trained again to compare it with"


def test_what_was_drawn_has_few_digits() -> None:
    items = ["optimizer.lr=0.00123456", "a=1.23456e-05", "model.filters=[16,32]", "seed=123456", "optimizer=sgd"]
    shown = "optimizer.lr=0.00123  a=1.23e-05  model.filters=[16,32]  seed=123456  optimizer=sgd"
    assert summary.proposed(items) == shown
    assert [summary.in_digits(value) for value in (0.98765, 421642.0, 3.0, 2.5)] == ["0.9877", "421,642", "3", "2.5000"]


def test_the_file_and_the_lines_of_a_sweep(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "mnist_sweep")
    trials = [
        studies.trial_of(tmp_path, 0, [0.97]),
        studies.trial_of(tmp_path, 1, [0.96]),
        studies.trial_of(tmp_path, 2, [0.97], attributes={"duplicate_of": "sweep-0000"}),
        studies.trial_of(tmp_path, 3, curve=[0.5]),
        studies.trial_of(tmp_path, 4, attributes={"reason": "infeasible", "detail": "too large"}),
    ]
    study, command = studies.study_of(trials), studies.sweep_of(tmp_path, "tracking=mlflow")
    folder = tmp_path / "runs" / "sweep"
    folder.mkdir(parents=True)
    content = record.content(command, study, WINNER, folder)
    path = record.write(folder, content)
    assert json.loads(path.read_text()) == json.loads(json.dumps(content))
    expected = {
        "study": "sweep", "objective": "val/accuracy", "direction": "maximize", "dataset": "mnist5k",
        "trials": {"complete": 3, "pruned": 1, "fail": 0}, "infeasible": 1, "epochs": 8, "failures": {"infeasible": 1},
        "duplicates": {"trials": 1, "share": 0.25}, "schema_version": 1, "command": command.shell(),
        "objectives": [{"metric": "val/accuracy", "direction": "maximize"}],
        "best": {"trial": 0, "value": 0.97, "values": {"val/accuracy": 0.97}, "params": {"optimizer.lr": 0.001},
                 "command": "python -m mnist_sweep name=sweep-0000", "mlflow_run_id": None},
    }  # fmt: skip
    assert expected.items() <= content.items()
    winner = content["winner"]
    assert winner["gain"]["high"] is None  # of two seeds there is no interval
    assert winner["luck"] == 0.004212  # six digits of what is computed; a parameter has all of its own
    assert winner["differences"] == WINNER["differences"]
    assert winner["commands"]["exact"] == WINNER["command"]  # of a study of an earlier version
    assert content["search"]["space"] == {"optimizer.lr": "0.0001 … 1.0, log"}
    listed = content["trial_list"]
    assert [each["state"] for each in listed] == ["complete", "complete", "complete", "pruned", "infeasible"]
    assert [each["value"] for each in listed] == [0.97, 0.96, 0.97, 0.0, 0.0]
    assert (listed[0]["params"], listed[0]["parameters"], listed[0]["epochs"]) == ({"optimizer.lr": 0.001}, 1000, 2)
    assert (listed[2]["duplicate_of"], listed[4]["reason"]) == ("sweep-0000", "infeasible")
    assert listed[0]["folder"] == str(tmp_path / "runs" / "sweep-0000")
    assert record.sortable({**content, "seconds": 1.5}).items() >= {
        "trials/complete": 3, "trials/infeasible": 1, "best/val/accuracy": 0.97, "improvement": 0.015, "seconds": 1.5,
        "winner/val/accuracy": 0.91, "winner/test/accuracy": 0.92,
    }.items()  # fmt: skip
    summary.show(command, study, WINNER, folder, "/#/experiments/1/runs")
    said = [line.split(maxsplit=2) for line in caplog.messages]
    assert ["1", "proposal", "broke a constraint, drawn again"] in said
    assert ["trials", "equal", "to an earlier one: 1 (25%)"] in said
    again = "trial 1 exactly, on the same kind of machine:\n    python -m mnist_sweep name=sweep-0001"
    assert again in caplog.messages
    portable = next(line for line in caplog.messages if line.startswith("the hyperparameters of trial 1, to train"))
    assert "data=mnist5k data.limit=200" in portable
    assert not any(key in portable for key in ("threads", "accelerator", "output", "tracking"))
    overlay = f"the same as an overlay:\n    python -m mnist_sweep --config-dir {folder}/conf experiment=winner"
    assert overlay in caplog.messages
    assert [
        "found",
        "trial",
        "1, better than your config by val/accuracy +0.0150",
    ] in said
    serve = f"mlflow ui --backend-store-uri sqlite:///{tmp_path}/mlflow.db"
    assert f"compare the runs   {serve}   then http://127.0.0.1:5000/#/experiments/1/runs" in caplog.messages
    network = {"run": "sweep-0001-seed4", "seed": 4, "command": "python -m mnist_sweep seed=4"}
    summary.show(command, study, {**WINNER, "network": network, "model": {"version": 1}}, folder)
    registered = "the registered network, sweep-0001-seed4, exactly, on the same kind of machine"
    assert f"{registered}:\n    python -m mnist_sweep seed=4" in caplog.messages
    summary.show(command, study, None, path)  # a folder in which nothing can be written
    again = "trial 0 exactly, on the same kind of machine:\n    python -m mnist_sweep name=sweep-0000"
    assert again in caplog.messages
    assert "the best trial could not be left as an overlay" in caplog.text


def test_several_objectives_leave_a_front(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trials = [studies.trial_of(tmp_path, number, [0.9 + number / 100, 1000.0 * number]) for number in range(3)]
    study = studies.study_of(trials, "val/accuracy", "parameters")
    command, folder = studies.sweep_of(tmp_path), tmp_path / "runs" / "sweep"
    folder.mkdir(parents=True)
    content = record.content(command, study, None, folder)
    assert sorted(each["trial"] for each in content["front"]) == [0, 1, 2]
    assert content["best"] is None
    summary.show(command, study, None, folder)
    assert "sweep on mnist5k: 3 complete; 3 Pareto-optimal" in capsys.readouterr().err


OWN = [
    *("experiment=own", "optimizer.lr=0.2", "optimizer={weight_decay: 0.3}", "scheduler=cosine", "seed=8"),
    *("data.augmentation.rotation=5", "data={augmentation: {shift: 0.1}}", "data.limit=null"),
]


@pytest.mark.parametrize(
    "items",
    [
        OWN,
        ["experiment=[tutorial,own]", "optimizer=sgd", "data=mnist5k", "tracking=none", "trainer.threads=3"],
        ["model=mlp", "trainer.precision=bf16", "tracking.uri=http://somewhere:5000", "objective=val/loss"],
    ],
)
def test_the_file_composes_what_the_trial_was_without_the_users_folder(tmp_path: Path, items: list[str]) -> None:
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    own = tmp_path / "mine" / "experiment" / "own.yaml"
    own.write_text("# @package _global_\nseed: 7\nmodel: {pool: avg}\n")
    best = optuna.trial.create_trial(value=0.9, user_attrs={"result": {"overrides": items}})
    # what is trained, not where it is kept, nor on what machine
    trial = CommandLine.of(items, tmp_path / "mine").without("tracking", "output")
    trained = trial.with_({"trainer.threads": None, "trainer.precision": "auto"}).config
    folder = record.export(best, tmp_path / "runs" / "sweep", tmp_path / "mine", "Trial 0")
    portable = record.portable(best, tmp_path / "mine")
    own.unlink()
    assert CommandLine.of(portable.overrides).config == trained
    for name in ("winner", "best"):
        assert CommandLine.of([f"experiment={name}"], folder).config == trained
    assert CommandLine.of(["experiment=winner", "launcher=inline"], folder).config.launcher.name == "inline"


def test_the_file_states_only_what_differs(tmp_path: Path) -> None:
    items = ["optimizer=sgd", "optimizer.lr=0.2", "model.pool=max", "name=sweep-0001"]
    best = optuna.trial.create_trial(value=0.9, user_attrs={"result": {"overrides": items}})
    file = record.export(best, tmp_path, None, "Trial 1, val/accuracy 0.9") / "experiment" / "winner.yaml"
    header, title, *lines = file.read_text().splitlines()
    assert header == "# @package _global_"
    assert title.endswith("val/accuracy 0.9")
    assert lines == ["defaults:", "- override /optimizer: sgd", "- _self_", "optimizer:", "  lr: 0.2"]
