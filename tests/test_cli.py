"""What the commands that use a network refuse, in one line, and what they leave then: nothing."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image

from mnist_sweep import cli as console
from mnist_sweep import run, ui
from mnist_sweep.config.command import compose
from mnist_sweep.errors import Interrupted, RequestError
from mnist_sweep.inference import demo, export, predict
from mnist_sweep.result import BEST
from mnist_sweep.training import trained_model as inspection
from tests.conftest import SMALL


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a run of a second."""
    given = [*SMALL, f"output={tmp_path_factory.mktemp('trained')}", "name=small"]
    return Path(run.run(compose(given), given).folder) / BEST


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "pictures" / "seven.png"
    path.parent.mkdir()
    sheet = Image.new("L", (60, 60), 255)
    sheet.paste(0, (25, 10, 32, 50))
    sheet.save(path)
    return path


@pytest.mark.parametrize("uri", ["foo://there", "sqlite:///{}/notes.txt", "sqlite:///{}", "{}"])
def test_a_store_that_cannot_be_used_gets_one_line(uri: str, picture: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no database at all")
    uri = uri.format(tmp_path)
    for command in (predict.perform, lambda given: export.perform(["--to", "onnx", f"{given[0]}.onnx", *given[1:]])):
        with pytest.raises(
            RequestError, match=f"^--tracking-uri={uri}: .*; allowed: sqlite:///FILE of a run"
        ) as caught:
            command([str(picture), "--tracking-uri", uri])
        assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["notes.txt", "pictures", "seven.png"]


def test_the_ui_is_not_opened_on_what_is_no_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "notes.txt").write_text("no database at all")
    begun: list[Any] = []
    monkeypatch.setattr(os, "execv", lambda *arguments: begun.append(arguments))
    for name, said in (("notes.txt", "is no SQLite database"), ("x" * 300, "File name too long"), ("", "a directory")):
        with pytest.raises(RequestError, match=said):
            ui.perform(["--tracking-uri", f"sqlite:///{tmp_path}/{name}"])
    with pytest.raises(RequestError, match="a server, whose own page is at this address"):
        ui.perform(["--tracking-uri", "http://127.0.0.1:5000"])
    assert not begun


def test_an_empty_address_of_a_store_is_none(picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    for more in ([], ["--tracking-uri", ""]):
        with pytest.raises(RequestError, match=r"there is no mlruns/mlflow\.db"):
            predict.perform([str(picture), *more])
    assert [path.name for path in tmp_path.iterdir()] == ["pictures"]


def test_names_that_cannot_be_or_are_folders_do_not_stop_the_others(
    checkpoint: Path, picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (picture.parent / "folder.png").mkdir()
    call = [str(picture.parent), "x" * 300, "--checkpoint", str(checkpoint)]
    assert predict.perform(call) == console.FAILED
    (line,) = capsys.readouterr().out.splitlines()
    assert f'"image": "{picture}"' in line


@pytest.fixture
def of_kmnist(checkpoint: Path, tmp_path: Path) -> Path:
    """The checkpoint, as if it had been trained on KMNIST."""
    content = torch.load(checkpoint, weights_only=True)
    content["hyper_parameters"]["config"]["data"] |= {"name": "kmnist"}
    torch.save(content, tmp_path / "kmnist.ckpt")
    return tmp_path / "kmnist.ckpt"


def test_pictures_of_other_sets_are_taken_as_they_are(
    of_kmnist: Path, picture: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    values = np.random.default_rng(0).integers(0, 256, (28, 28), dtype=np.uint8)
    whole = picture.parent / "whole.png"
    Image.fromarray(values).save(whole)
    wanted = inspection.probabilities(inspection.load(of_kmnist), torch.from_numpy(values)[None, None])
    assert predict.perform([str(picture.parent), "--checkpoint", str(of_kmnist)]) == console.FAILED
    (line,) = capsys.readouterr().out.splitlines()
    answer = json.loads(line)
    assert answer["image"] == str(whole)
    assert answer["probabilities"] == pytest.approx(wanted[0].tolist(), abs=1e-6)
    assert "seven.png: 60 × 60 pixels; allowed for a network that was not trained on MNIST's digits: 28 × 28" in (
        caplog.text
    )


def test_the_page_is_for_digits(of_kmnist: Path) -> None:
    with pytest.raises(RequestError, match="was trained on kmnist; allowed for drawn digits: mnist, mnist5k"):
        demo.perform(["--checkpoint", str(of_kmnist)])


def test_the_table_shows_names_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    names = ["a[/b].png", "[red]7.png", ":cat:.png"]
    assert predict._table(iter([predict.Answer(name, 7, [0.1] * 10) for name in names]), "[b]model")
    shown = capsys.readouterr().out
    for name in [*names, "[b]model"]:
        assert name in shown


@pytest.mark.parametrize("target", ["/dev/null/it.onnx", "nowhere/it.onnx", "x" * 300])
def test_an_export_to_where_nothing_can_be_written_is_refused(target: str, checkpoint: Path) -> None:
    with pytest.raises(RequestError, match=f"^{target}: .*; allowed: a new file in a folder that can be written"):
        export.perform(["--to", "safetensors", target, "--checkpoint", str(checkpoint)])


def test_an_export_that_is_interrupted_leaves_no_file_that_was_not_checked(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise Interrupted(2)

    call = ["--to", "onnx", str(tmp_path / "it.onnx"), "--checkpoint", str(checkpoint)]
    monkeypatch.setattr(onnxruntime, "InferenceSession", interrupted)
    with pytest.raises(Interrupted):
        export.perform(call)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    assert export.perform(call) == console.DONE
    assert [path.name for path in tmp_path.iterdir()] == ["it.onnx"]


def test_an_export_names_a_damaged_file_of_the_networks_own_images(checkpoint: Path, tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / "train-images-idx3-ubyte").write_bytes(bytes(1_000))
    content = torch.load(checkpoint, weights_only=True)
    content["hyper_parameters"]["config"]["data"] |= {"name": "mnist", "root": str(tmp_path)}
    torch.save(content, tmp_path / "other.ckpt")
    with pytest.raises(RequestError, match="train-images-idx3-ubyte is damaged: 1,000 bytes"):
        export.perform(["--to", "onnx", str(tmp_path / "it.onnx"), "--checkpoint", str(tmp_path / "other.ckpt")])
    assert not (tmp_path / "it.onnx").exists()
