"""What the best networks still confuse."""

from pathlib import Path

import numpy as np
import pytest
import torch

from mnist_sweep.config.command import CommandLine
from mnist_sweep.run_folder import RunFolder
from mnist_sweep.sweep.error_analysis import common_mistakes, within_reach
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
        network = config.model.build(0.13, 0.31, config.data.images)
        trained_model.save(RunFolder(tmp_path / "runs" / f"sweep-{number:04d}").best, network, config)
        found.append(evaluate(network, images, "val"))
    far = studies.trial_of(Path("elsewhere"), 3, [0.38])  # which is left out
    study = studies.study_of([*(studies.trial_of(Path("elsewhere"), number, [0.9]) for number in range(3)), far])
    mistakes = common_mistakes(study, tmp_path / "runs", images)
    assert mistakes
    assert mistakes.trials == [0, 1]
    assert mistakes.least == pytest.approx(0.9 - 3 * (0.9 * 0.1 / 60) ** 0.5)
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


def test_only_what_is_as_good_as_the_winner_is_taken_in(tmp_path: Path) -> None:
    """The standard error of 0.9 on 100 images is 0.03; by the first objective, the parameters, the worst would lead."""
    values = [(500.0, 0.7), (1000.0, 0.82), (2000.0, 0.9), (3000.0, 0.95)]
    trials = [studies.trial_of(tmp_path, number, [size]) for number, (size, _) in enumerate(values)]
    for trial, (_, accuracy) in zip(trials, values, strict=True):
        trial.user_attrs["result"]["metrics"]["val/accuracy"] = accuracy
        trial.values = [values[trial.number][0], 1 - accuracy]
    study = studies.study_of(trials, "parameters", "val/loss")
    near, least = within_reach(study, 2, 100)
    assert [trial.number for trial in near] == [2, 3, 1]  # the winner leads
    assert least == pytest.approx(0.81)
    near, _ = within_reach(study, None, 10_000)
    assert [trial.number for trial in near] == [3]
