"""A trained network and a picture, for the commands that use them."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from mnist_sweep.config.command import CommandLine
from mnist_sweep.result import BEST
from mnist_sweep.run import train
from tests.conftest import SMALL

Changed = Callable[..., Path]


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a run of a second on mnist5k."""
    command = CommandLine.of([*SMALL, f"output={tmp_path_factory.mktemp('trained')}", "name=small"])
    return Path(train(command).folder) / BEST


@pytest.fixture
def changed(checkpoint: Path, tmp_path: Path) -> Changed:
    """Makes a checkpoint as if it had been trained on other data: ``changed(name="kmnist")``."""

    def make(**data: str) -> Path:
        content = torch.load(checkpoint, weights_only=True)
        content["config"]["data"] |= data
        torch.save(content, tmp_path / "other.ckpt")
        return tmp_path / "other.ckpt"

    return make


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A black bar on white paper, 60 × 60, alone in a folder."""
    path = tmp_path / "pictures" / "one.png"
    path.parent.mkdir()
    sheet = Image.new("L", (60, 60), 255)
    sheet.paste(0, (25, 10, 32, 50))
    sheet.save(path)
    return path
