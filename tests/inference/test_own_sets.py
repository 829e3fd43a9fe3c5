"""A network of the user's own pictures in use: it takes pictures as training had them, and all its forms agree."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from PIL import Image

import mnist_sweep as ms
from mnist_sweep import cli
from mnist_sweep.run import train
from mnist_sweep.training import pictures
from tests.own_sets import folder, of_folder, small

pytestmark = pytest.mark.slow


def test_predict_export_and_the_checkpoint_agree(tmp_path: Path) -> None:
    path = folder(tmp_path / "fruit", {"apple": 60, "fig": 30, "pear": 90}, (12, 10))
    own = of_folder(path, "data.size=[8,6]").overrides
    result = train(small(tmp_path, *own, "model=mlp", "data.limit=null", "data.batch_size=10"), test=True)
    assert (result.status, result.dataset) == ("finished", "folder-fruit")
    assert result.metrics["test/balanced_accuracy"] > 0.9
    checkpoint = Path(result.folder) / str(result.checkpoint)
    for file in path.rglob("*.png"):  # neither they nor what was kept of them are needed any more
        file.rename(tmp_path / f"{file.parent.name}-{file.name}")
    (tmp_path / "cache").rename(tmp_path / "gone")
    network, files = ms.load(checkpoint), sorted(tmp_path.glob("*.png"))
    Image.open(files[0]).convert("L").resize((30, 20)).save(tmp_path / "grey.bmp")
    found = ms.predict(network, [*files, tmp_path / "grey.bmp"])
    right = [one.label == Path(one.image).name.partition("-")[0] for one in found[:-1]]
    assert np.mean(right) > 0.9
    assert (
        cli.perform("export", ["--to", "onnx", str(tmp_path / "it.onnx"), "--checkpoint", str(checkpoint)]) == cli.DONE
    )
    images = np.stack([pictures.read(file, 3, (8, 6)) for file in files]).astype(np.float32) / 255
    (exported,) = onnxruntime.InferenceSession(tmp_path / "it.onnx").run(None, {"images": images})
    assert exported == pytest.approx(np.array([one.probabilities for one in found[:-1]]), abs=1e-4)
