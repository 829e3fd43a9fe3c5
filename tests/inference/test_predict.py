"""Pictures are recognised, each on its line; what cannot be read or loaded is named in one line."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mnist_sweep import cli
from mnist_sweep.config.command import CommandLine
from mnist_sweep.errors import RequestError
from mnist_sweep.inference import demo, predict
from mnist_sweep.result import BEST
from mnist_sweep.run import train
from mnist_sweep.training import data, trained_model
from tests import styles
from tests.inference.conftest import Changed


def test_each_picture_has_its_line_and_what_is_none_is_named(
    checkpoint: Path, picture: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    (picture.parent / "folder.png").mkdir()
    (picture.parent / "text.png").write_text("no picture")
    (picture.parent / "empty").mkdir()
    wrong = ["x" * 300, str(picture.parent / "none.png"), str(picture.parent / "empty")]
    assert cli.perform("predict", [str(picture.parent), *wrong, "--checkpoint", str(checkpoint)]) == cli.FAILED
    (line,) = capsys.readouterr().out.splitlines()
    answer = json.loads(line)
    assert answer["image"] == str(picture)
    assert sum(answer["probabilities"]) == pytest.approx(1, abs=1e-5)
    assert answer["digit"] == int(np.argmax(answer["probabilities"]))
    assert answer["probability"] == max(answer["probabilities"])
    assert all(share == round(share, 6) for share in answer["probabilities"])
    said = [record.getMessage() for record in caplog.records]
    for word in ("empty: no pictures in this folder", "text.png: not a PNG", "File name too long", "no such file"):
        assert sum(word in each for each in said) == 1, said


def test_on_a_terminal_there_is_a_table(
    checkpoint: Path,
    changed: Changed,
    picture: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    picture = picture.rename(picture.parent / "[red]:cat:7.png")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert cli.perform("predict", [str(picture), "--checkpoint", str(checkpoint)]) == cli.DONE
    name, head, row = capsys.readouterr().out.splitlines()
    assert (name, head.split()) == (str(checkpoint), ["image", "digit", "probability", "next"])
    assert row.split()[0] == str(picture)
    assert row.count("%") == 3
    cli.perform("predict", [str(picture), "--checkpoint", str(changed(name="kmnist"))])
    assert capsys.readouterr().out.splitlines()[1].split() == ["image", "class", "probability", "next"]


def test_pictures_of_other_sets_are_taken_as_they_are(
    changed: Changed, picture: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    of_kmnist = changed(name="kmnist")
    pixels = np.random.default_rng(0).integers(0, 256, (28, 28), dtype=np.uint8)
    whole = picture.parent / "whole.png"
    Image.fromarray(pixels).save(whole)
    wanted = trained_model.read(of_kmnist).probabilities(torch.from_numpy(pixels)[None, None])
    assert cli.perform("predict", [str(picture.parent), "--checkpoint", str(of_kmnist)]) == cli.FAILED
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["image"] == str(whole)
    assert json.loads(line)["probabilities"] == pytest.approx(wanted[0].tolist(), abs=1e-6)
    said = "one.png: 60 × 60 pixels; allowed for a network that was not trained on MNIST's digits: 28 × 28"
    assert said in caplog.text


@pytest.mark.parametrize("uri", ["foo://there", "sqlite:///{}/notes.txt", "{}"])
def test_a_store_that_cannot_be_used_gets_one_line(uri: str, picture: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no database at all")
    uri = uri.format(tmp_path)
    with pytest.raises(RequestError, match=f"^--tracking-uri={uri}: .*; allowed: sqlite:///FILE of a run") as said:
        cli.perform("predict", [str(picture), "--tracking-uri", uri])
    assert "\n" not in str(said.value)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["notes.txt", "one.png", "pictures"]


def test_without_a_model_it_says_what_makes_one(picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")  # empty: as if it were not set
    said = r"there is no mlruns/mlflow\.db; python -m mnist_sweep \+sweep=optuna makes one"
    for more in (
        ["predict", str(picture)],
        ["predict", str(picture), "--tracking-uri", ""],
        ["export", "--to", "onnx", "x"],
    ):
        with pytest.raises(RequestError, match=said):
            cli.perform(more[0], more[1:])
    assert [path.name for path in tmp_path.iterdir()] == ["pictures"]


@pytest.mark.slow
def test_digits_in_many_styles_are_recognised_or_refused(mnist: Path, tmp_path: Path) -> None:
    """A network of one short epoch on MNIST, and 200 test digits as the files that people have."""
    items = ["experiment=fast99", "data=mnist", f"data.root={mnist}", "data.limit=20000", "trainer.precision=32"]
    command = CommandLine.of([*items, "tracking=none", f"output={tmp_path}", "name=it"])
    network = trained_model.served(trained_model.read(Path(train(command).folder) / BEST).network)
    test = data.test_set("mnist", str(mnist))
    digits, labels = test.images[:200, 0].numpy(), test.labels[:200].numpy()
    with torch.inference_mode():
        direct = network(torch.from_numpy(digits)[:, None].float() / 255).argmax(dim=1).numpy()
    right = float((direct == labels).mean())
    clean = {"original": 0.005, "inverted": 0.005, "enlarged": 0.03, "noisy": 0.03, "small_noisy": 0.03}
    for style in styles.STYLES:
        count = 200 if style in clean else 40
        paths = styles.write(tmp_path / style, style, digits[:count])
        answers = predict.predictions(network, "mnist", paths)
        found = {answer.image: answer.digit for answer in answers if isinstance(answer, predict.Prediction)}
        wrong = [path for path, label in zip(paths, labels, strict=False) if found.get(str(path), label) != label]
        if style == "two_digits":
            assert not found
            continue
        assert len(found) == count if style in clean else len(found) > 0.9 * count, style
        assert len(wrong) / count <= 1 - right + clean.get(style, 0.05), style


def test_a_drawing_has_probabilities_and_the_picture_that_was_seen(checkpoint: Path, picture: Path) -> None:
    """The page itself is tested in a browser."""
    with Image.open(picture) as drawing:
        shares, seen = demo.look(trained_model.read(checkpoint), drawing.convert("RGBA"))
    assert list(shares) == [str(digit) for digit in range(10)]
    assert sum(shares.values()) == pytest.approx(1, abs=1e-5)
    assert seen.shape == (8 * 28, 8 * 28)


def test_the_page_to_draw_on_is_for_digits(changed: Changed) -> None:
    with pytest.raises(RequestError, match="was trained on kmnist; allowed for drawn digits: mnist, mnist5k"):
        cli.perform("demo", ["--port", "0", "--checkpoint", str(changed(name="kmnist"))])
