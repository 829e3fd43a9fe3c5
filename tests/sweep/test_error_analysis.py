"""What the best networks still confuse."""

from pathlib import Path

import numpy as np
import pytest
import torch

from mnist_sweep.config.command import CommandLine
from mnist_sweep.run_folder import RunFolder
from mnist_sweep.sweep.error_analysis import common_mistakes
from mnist_sweep.training import data, trained_model
from mnist_sweep.training.evaluate import Evaluation, evaluate
from tests.conftest import SMALL
from tests.sweep import studies


def test_what_all_of_the_best_get_wrong(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Of three trials one has lost its checkpoint; the folder has been moved since they were trained."""
    config = CommandLine.of(SMALL).config
    images = data.parts(config.data)[1].subset(torch.arange(60))
    found: list[Evaluation] = []
    for number in (0, 1):
        torch.manual_seed(number)
        network = config.model.build(0.13, 0.31)
        trained_model.save(RunFolder(tmp_path / "runs" / f"sweep-{number:04d}").best, network, config)
        found.append(evaluate(network, images, "val"))
    study = studies.study_of([studies.trial_of(Path("elsewhere"), number, [0.9]) for number in range(3)])
    mistakes = common_mistakes(study, tmp_path / "runs", images)
    assert mistakes
    assert mistakes.trials == [0, 1]
    assert "sweep-0002/checkpoints/best.ckpt: no such file" in caplog.text
    labels = images.labels.numpy()
    wrong = [evaluation.probabilities.argmax(axis=1) != labels for evaluation in found]
    assert mistakes.missed == (wrong[0] & wrong[1]).sum() > 0
    confusion = found[0].confusion + found[1].confusion
    count, true, predicted = mistakes.confusions[0]
    assert confusion[true, predicted] == count == (confusion - np.diag(confusion.diagonal())).max()
    assert sum(count for count, _, _ in mistakes.confusions) == wrong[0].sum() + wrong[1].sum()
    assert list(mistakes.pictures) == ["confusion_of_the_best", "missed_by_all"]
    assert common_mistakes(study, tmp_path / "nowhere", images) is None
