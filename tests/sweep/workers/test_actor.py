"""What a worker on another machine gets of the sweep's disk."""

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest

from mnist_sweep import run
from mnist_sweep.run_folder import RunFolder
from mnist_sweep.sweep.workers import actor, cluster
from mnist_sweep.training import datasets
from tests import own_sets


@pytest.mark.parametrize("kind", ["folder", "arrays"])
def test_own_images_reach_a_machine_that_does_not_have_them(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the same numbers, and the command that repeats the run at home; the test images stay at home."""
    here, there = tmp_path / "here", tmp_path / "there"
    there.mkdir()
    own_sets.folder(here / "fruit", {"apple": 30, "fig": 30})
    images = np.concatenate([own_sets.blobs(label, 2, 30, (8, 8)) for label in (0, 1)])
    np.savez(here / "fruit.npz", images=images, labels=np.repeat([0, 1], 30))
    path = here / ("fruit" if kind == "folder" else "fruit.npz")
    own = [f"data={kind}", f"data.path={path}", f"data.cache={here}/kept", "model=mlp", "model.hidden=[8]"]
    command = own_sets.small(here / "mlruns", *own, "data.limit=null")
    datasets.obtain(command.config.data)
    at_home = run.train(command, pictures=False)
    sent, config = cluster._images(command.config.data), cluster._portable(command.config)
    shutil.rmtree(here)
    monkeypatch.setattr(tempfile, "tempdir", str(there))
    placed = actor._placed(sent)
    folder = RunFolder(there / "it")
    away = run.train(command.composed_as(config), pictures=False, folder=folder, data_root=placed)
    assert (away.status, away.history, away.command) == ("finished", at_home.history, at_home.command)
    there_now = [file.name for file in Path(str(placed)).rglob("*.npy")]
    assert sorted(there_now) == ["train-images.npy", "train-labels.npy"]
    config_at_home = folder.config()
    assert config_at_home
    assert config_at_home.data.cache == f"{here}/kept"  # type: ignore[union-attr]
