"""Small trainings for the tests of this folder: `Fit` by itself, without a run's record and MLflow."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from mnist_sweep.errors import check_interrupted
from mnist_sweep.training.trainer import Fit
from tests.conftest import command


def fit(folder: Path, *items: str, on_epoch: Callable[[int, dict[str, float]], bool] | None = None) -> Any:
    """The `Fit` after an epoch on 200 images; further overrides take the place of the same ones."""
    config = command(folder, "it", "trainer.precision=32", *items).config
    made = Fit(config, folder, torch.device("cpu"), on_epoch or (lambda *_: True), check_interrupted)
    made.run()
    return made


def failing_in(epoch: int) -> Callable[[int, dict[str, float]], bool]:
    """An `on_epoch` that raises KeyError at the end of this epoch."""

    def on_epoch(now: int, _: dict[str, float]) -> bool:
        if now == epoch:
            raise KeyError(now)
        return True

    return on_epoch
