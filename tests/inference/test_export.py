"""An exported file is the network, whole and checked, or there is none."""

import signal
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file

from mnist_sweep import cli
from mnist_sweep.config.command import CommandLine
from mnist_sweep.errors import Interrupted, RequestError, signals_as_flag
from mnist_sweep.inference import export
from mnist_sweep.training import trained_model
from mnist_sweep.version import __version__
from tests.inference.conftest import Changed
from tests.own_sets import folder, of_folder

pytestmark = pytest.mark.slow


def test_onnx_and_safetensors_are_the_network(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    images = torch.randint(0, 256, (40, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    model, onnx = trained_model.read(checkpoint), tmp_path / "it.onnx"
    assert cli.perform("export", ["--to", "onnx", str(onnx), "--checkpoint", str(checkpoint)]) == cli.DONE
    assert capsys.readouterr().out == f"{onnx}\n"
    assert "1000 images, greatest difference" in caplog.text
    session = onnxruntime.InferenceSession(onnx)
    known = session.get_modelmeta().custom_metadata_map
    assert (known["classes"], known["version"]) == ("0,1,2,3,4,5,6,7,8,9", __version__)
    assert "0 … 1" in known["input"]
    (found,) = session.run(None, {"images": images.float().numpy() / 255})
    assert np.abs(found - model.probabilities(images)).max() < 1e-4
    with pytest.raises(RequestError, match="is there already"):
        cli.perform("export", ["--to", "safetensors", str(onnx), "--checkpoint", str(checkpoint)])
    kept = tmp_path / "it.safetensors"
    assert cli.perform("export", ["--to", "safetensors", str(kept), "--checkpoint", str(checkpoint)]) == cli.DONE
    (usual := tmp_path / "usual").touch()
    assert [file.stat().st_mode for file in (onnx, kept)] == [usual.stat().st_mode] * 2
    tensors, own = load_file(kept), model.network.state_dict()
    assert tensors.keys() == own.keys()
    assert all(torch.equal(tensors[key], own[key]) for key in own)


@pytest.mark.parametrize("target", ["/dev/null/it.onnx", "nowhere/it.onnx", "x" * 300])
def test_a_place_where_nothing_can_be_written_is_refused(target: str, checkpoint: Path) -> None:
    with pytest.raises(RequestError, match=f"^{target}: .*; allowed: a new file in a folder that can be written"):
        cli.perform("export", ["--to", "safetensors", target, "--checkpoint", str(checkpoint)])


def test_an_interruption_leaves_no_file_that_was_not_checked(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = ["--to", "onnx", str(tmp_path / "it.onnx"), "--checkpoint", str(checkpoint)]
    with monkeypatch.context() as patch:
        patch.setattr(onnxruntime, "InferenceSession", Mock(side_effect=OSError("no space left")))
        with pytest.raises(OSError, match="no space left"):
            cli.perform("export", call)
    with signals_as_flag():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(Interrupted):
            cli.perform("export", [*call[:1], "safetensors", *call[2:]])
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_of_the_networks_own_images_is_named(changed: Changed, tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / "train-images-idx3-ubyte").write_bytes(bytes(1_000))
    other = changed(name="mnist", root=str(tmp_path))
    with pytest.raises(RequestError, match="train-images-idx3-ubyte is damaged: 1,000 bytes"):
        cli.perform("export", ["--to", "onnx", str(tmp_path / "it.onnx"), "--checkpoint", str(other)])
    assert not (tmp_path / "it.onnx").exists()


@pytest.mark.parametrize("archive", ["none", "packed"])
def test_without_the_images_others_of_their_form_are_used(archive: str, tmp_path: Path) -> None:
    if archive == "packed":
        (tmp_path / "cifar-10-python.tar.gz").touch()
    published = CommandLine.of(["data=cifar10", f"data.root={tmp_path}"]).config.data
    assert export._images(published).shape == (export.CHECKED, 3, 32, 32)


def test_ones_own_images_are_not_decoded_for_an_export(tmp_path: Path) -> None:
    own = of_folder(folder(tmp_path / "fruit", {"apple": 9, "pear": 9}, (8, 6))).config.data
    before = sorted(tmp_path.rglob("*"))
    assert export._images(own).shape == (export.CHECKED, 3, 8, 6)
    assert sorted(tmp_path.rglob("*")) == before
