"""What a store does not take is kept, and sent once, in its order."""

import json
from pathlib import Path
from typing import Any

import pytest

from mnist_sweep.config.options import MLflow
from mnist_sweep.tracking import MLflowRun
from mnist_sweep.tracking.journal import Journal, leave_alone
from mnist_sweep.tracking.store import client_of


def test_calls_are_sent_in_order_and_those_after_an_error_stay(tmp_path: Path) -> None:
    journal, sent = Journal(tmp_path / "run"), list[Any]()
    made_of = {"tags": {"role": "run"}, "resume": None, "started": 3}
    for number in range(4):
        journal.add("tags", {"number": number}, {**made_of, "name": "it"})
    assert journal.run() == made_of

    def perform(_: str, known: dict[str, Any]) -> bool:
        if known["number"] == 2 and len(sent) < 3:
            sent.append("error")
            raise ConnectionError
        sent.append(known["number"])
        return int(known["number"]) != 3

    with pytest.raises(ConnectionError):
        journal.send(perform)
    assert len(journal.file.read_text().splitlines()) == 3, "what it is made of, and two calls"
    assert not journal.send(perform)
    assert sent == [0, 1, "error", 2, 3]
    assert journal.send(lambda *_: True)
    assert [*journal.folder.iterdir()] == []


def test_a_file_goes_when_it_has_been_sent_and_no_other_goes_with_it(tmp_path: Path) -> None:
    """The file of a call that is made just now lies there, too, while those before it are sent."""
    journal = Journal(tmp_path)
    for name in ("a/sent.json", "a/new.json", "b/sent.json"):
        path = journal.files / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    kept = tmp_path / "best.ckpt"
    kept.touch()
    for sent in ("unsent/a/sent.json", "unsent/b/sent.json", "best.ckpt", "../outside", 3):
        journal.add("file", {"path": sent}, {"name": "it"})
    assert journal.send(lambda *_: True)
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == [kept, journal.files / "a/new.json"]
    assert not (journal.files / "b").exists()


@pytest.mark.parametrize("damage", ["", "[", "[]", "3", "\0", '["run", 1]\n["tags"'])
def test_a_damaged_journal_is_no_obstacle(tmp_path: Path, damage: str) -> None:
    journal = Journal(tmp_path)
    journal.file.write_text(damage)
    assert journal.run() == {}
    journal.add("tags", {}, {"name": "it"})
    assert journal.send(lambda *_: True)
    assert not journal.file.exists()


@pytest.mark.slow
def test_a_run_that_begins_while_the_store_is_away_is_made_once(store: Path) -> None:
    settings = MLflow(name="mlflow", uri=f"sqlite:///{store}/mlflow.db", experiment="it")
    leave_alone(settings.uri)
    made = [
        MLflowRun(settings, store, name, tags={"study.id": "1", "role": role}, key=name)
        for name, role in (("sweep-0000", "trial"), ("sweep", "sweep"))
    ]
    for run in made:
        assert run.run_id is None
        run.parameters({"a": 1})
        for epoch in (1, 2):
            run.metrics({"val/loss": 1 / epoch}, epoch)
        run.document([1], "folder/it.json")
        run.table({"a": [1]}, "table.json")
        run.end("FINISHED", "why")
    kept = [(store / "runs" / run._journal.folder.name / "unsent.jsonl").read_text() for run in made]
    leave_alone(settings.uri, 0)
    assert all(run.flush() for run in made)
    for text, run in zip(kept, made, strict=True):  # its process died before it could forget them
        run._journal.file.write_text(text)
        run._journal.files.joinpath("folder").mkdir(parents=True)
        run._journal.files.joinpath("folder/it.json").write_text("[1]")
        again = MLflowRun(settings, store, run._journal.folder.name, key="another", ended=True)
        assert again.flush()
        assert not [*run._journal.folder.iterdir()]
    client = client_of(settings.uri)
    found = {each.info.run_name: each for each in client.search_runs(["1"])}
    assert {name: each.info.status for name, each in found.items()} == {"sweep": "FINISHED", "sweep-0000": "FINISHED"}
    assert found["sweep-0000"].data.tags["mlflow.parentRunId"] == found["sweep"].info.run_id
    for each in found.values():
        assert (each.data.params, each.data.tags["reason"]) == ({"a": "1"}, "why")
        history = client.get_metric_history(each.info.run_id, "val/loss")
        assert [(metric.step, metric.value) for metric in history] == [(1, 1.0), (2, 0.5)]
        names = sorted(file.path for file in client.list_artifacts(each.info.run_id))
        assert names == ["folder", "table.json"]
        assert json.loads(each.data.tags["mlflow.loggedArtifacts"]) == [{"path": "table.json", "type": "table"}]
