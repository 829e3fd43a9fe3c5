"""The epochs of a run: the fast path against the plain one, every option, schedules, early stopping."""

import math
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch.nn.functional import cross_entropy
from torch.optim.optimizer import register_optimizer_step_pre_hook

from mnist_sweep import evaluation, run
from mnist_sweep.config.command import compose
from mnist_sweep.result import BEST
from mnist_sweep.training import data
from mnist_sweep.training import trained_model as inspection
from mnist_sweep.training.lightning_module import Classifier
from mnist_sweep.training.models import ConvNet
from tests.conftest import SMALL, Perform
from tests.test_models import textbook


def plain(items: list[str], optimizer: type[torch.optim.Optimizer], **settings: Any) -> dict[str, torch.Tensor]:
    """The weights after the epochs of a config, by a loop that could stand in a tutorial; without dropout."""
    config = compose(items)
    pl.seed_everything(config.seed, verbose=False)
    network = ConvNet(config.model).to(memory_format=torch.contiguous_format)
    moves = optimizer(network.parameters(), **settings)
    images, _ = data.training_and_validation("mnist5k", "data", 0, config.data.limit)
    mean, deviation = images.standardisation
    batches = data.Batches(images, config.data.batch_size, torch.Generator().manual_seed(config.seed))
    network.train()
    averages: dict[str, torch.Tensor] = {}
    steps = 0
    for _ in range(config.trainer.max_epochs):
        for pixels, labels in batches:
            logits, _ = textbook(network, config.model, (pixels - mean) / deviation)
            loss = cross_entropy(logits, labels)
            moves.zero_grad()
            loss.backward()
            moves.step()
            steps += 1
            decay = min(config.trainer.ema_decay or 0, (1 + steps) / (10 + steps))
            for name, weight in network.named_parameters():
                kept = averages.get(name, weight.detach())
                averages[name] = decay * kept + (1 - decay) * weight.detach()
    return network.state_dict() | averages


PLAIN = [*SMALL, "data.batch_size=25", "model.dropout=0", "trainer.precision=32", "trainer.max_epochs=2"]


SGD = {"lr": 0.02, "momentum": 0.9, "nesterov": True}


@pytest.mark.parametrize(
    ("items", "optimizer", "settings"),
    [
        (["optimizer=sgd", "optimizer.lr=0.02"], torch.optim.SGD, SGD),
        (["optimizer=adam", "model.activation=tanh", "model.pool=avg"], torch.optim.Adam, {"lr": 1e-3}),
        (["optimizer=adamw", "model.filters=[4,6]"], torch.optim.AdamW, {"lr": 1e-3, "weight_decay": 1e-2}),
        (["optimizer=adam", "model.filters=[16,16]", "model.kernel_size=5"], torch.optim.Adam, {"lr": 1e-3}),
        (["optimizer=adam", "trainer.ema_decay=0.6"], torch.optim.Adam, {"lr": 1e-3}),
        # a batch norm scales differences of rounding up, from step to step: one step an epoch
        (["optimizer=sgd", "optimizer.lr=0.02", "model.batch_norm=true", "data.batch_size=200"], torch.optim.SGD, SGD),
    ],
)
def test_a_run_ends_with_the_weights_of_a_plain_loop(
    items: list[str],
    optimizer: type[torch.optim.Optimizer],
    settings: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(evaluation, "GROUP", 3)  # eight steps an epoch, so that the last group has fewer
    given = [*PLAIN, *items, f"output={tmp_path}", "name=it", "objective=train/loss"]
    config = compose(given)
    result = run.run(config, given)
    assert (result.status, result.best_epoch) == ("finished", 2)
    trained = inspection.load(tmp_path / "runs" / "it" / BEST)
    assert isinstance(trained, Classifier)
    ours = trained.network.state_dict()
    wanted = plain(given, optimizer, **settings)
    for name, value in ours.items():
        torch.testing.assert_close(value, wanted[name], atol=1e-4, rtol=1e-4)


def test_bf16_learns_as_well_and_is_measured_in_full_precision(tmp_path: Path) -> None:
    found = {}
    for precision in ("32", "bf16"):
        given = [*SMALL, "data.limit=2000", "trainer.max_epochs=4", "data.batch_size=32", f"output={tmp_path}"]
        given += [f"trainer.precision={precision}", f"name=p{precision}", "optimizer.lr=3e-3"]
        found[precision] = run.run(compose(given), given)
        assert found[precision].precision == precision
        assert f"trainer.precision={precision}" in found[precision].command
    assert abs(found["32"].metrics["val/accuracy"] - found["bf16"].metrics["val/accuracy"]) < 0.03
    assert found["32"].history != found["bf16"].history
    classifier = inspection.load(tmp_path / "runs" / "pbf16" / BEST)
    _, validation = data.training_and_validation("mnist5k", "data", 0, 2000)
    said = inspection.probabilities(classifier, validation.images).argmax(axis=1)
    assert (said == validation.labels.numpy()).mean() == found["bf16"].metrics["val/accuracy"]


@pytest.mark.parametrize(
    "items",
    [
        ["optimizer=sgd", "scheduler=step", "loss.label_smoothing=0.1"],
        ["optimizer=adamw", "scheduler=cosine", "model.pool=avg", "model.activation=tanh"],
        ["optimizer=rmsprop", "scheduler=onecycle", "model.batch_norm=true", "trainer.gradient_clip=1.0"],
        ["model=mlp", "model.activation=gelu", "trainer.precision=bf16"],
        ["model=lenet5", "model.activation=sigmoid", "data.augmentation.shift=0.1", "data.augmentation.scale=0.1"],
        [
            "model.filters=[4,6]",
            "model.convolutions=2",
            "model.padding=valid",
            "model.global_pool=true",
            "model.hidden=[]",
        ],
        ["model.filters=[16]", "model.batch_norm=true", "trainer.precision=bf16", "trainer.ema_decay=0.99"],
    ],
)
def test_every_option_trains(perform: Perform, items: list[str]) -> None:
    result = perform(*items, "trainer.max_epochs=2")
    assert result.status == "finished"
    assert result.epochs == 2


def learning_rates(perform: Perform, *items: str) -> list[float]:
    """The learning rate of each step."""
    seen: list[float] = []
    hook = register_optimizer_step_pre_hook(lambda optimizer, *_: seen.append(optimizer.param_groups[0]["lr"]))
    try:
        perform("optimizer.lr=0.1", "data.batch_size=50", "trainer.max_epochs=4", *items)
    finally:
        hook.remove()
    return seen


def test_step_schedule(perform: Perform) -> None:
    rates = learning_rates(perform, "scheduler=step", "scheduler.step_size=2", "scheduler.gamma=0.1")
    assert rates == pytest.approx([0.1] * 8 + [0.01] * 8)


def test_cosine_schedule(perform: Perform) -> None:
    rates = learning_rates(perform, "scheduler=cosine", "scheduler.final_lr=0.02")
    assert rates == pytest.approx([0.02 + 0.04 * (1 + math.cos(math.pi * step / 16)) for step in range(16)])


def test_onecycle_schedule_peaks_at_the_learning_rate(perform: Perform) -> None:
    rates = learning_rates(perform, "scheduler=onecycle", "optimizer=sgd", "optimizer.lr=0.1")
    assert rates[0] == pytest.approx(0.1 / 25)
    assert max(rates) == pytest.approx(0.1, rel=0.02)
    assert rates[-1] == pytest.approx(0.1 / 25 / 1e4)


@pytest.mark.parametrize("warmup", ["0.01", "0.0625", "0.1"])
def test_onecycle_warms_up_for_two_steps_at_least(perform: Perform, warmup: str) -> None:
    rates = learning_rates(perform, "scheduler=onecycle", "optimizer=sgd", f"scheduler.warmup={warmup}")
    assert rates[:2] == pytest.approx([0.1 / 25, 0.1])
    assert rates[1:] == sorted(rates[1:], reverse=True)


@pytest.mark.parametrize("epochs", [1, 2])
def test_too_few_steps_for_onecycle_are_made_at_the_peak(perform: Perform, epochs: int) -> None:
    few = ["data.batch_size=200", f"trainer.max_epochs={epochs}"]
    assert learning_rates(perform, "scheduler=onecycle", "optimizer=sgd", *few) == [0.1] * epochs


def test_early_stopping(perform: Perform) -> None:
    result = perform("trainer.max_epochs=30", "trainer.patience=2", "optimizer.lr=1e-9")
    assert result.status == "finished"
    assert result.epochs <= 10


def test_early_stopping_counts_from_the_best(perform: Perform) -> None:
    result = perform("trainer.max_epochs=30", "trainer.patience=2", "optimizer.lr=1e-12", "model.dropout=0")
    assert (result.epochs, result.best_epoch) == (3, 1)


def test_the_best_epoch_by_a_loss_is_the_lowest(perform: Perform) -> None:
    result = perform("trainer.max_epochs=4", "objective=val/loss", "optimizer.lr=0.05")
    assert result.objective == min(epoch["val/loss"] for epoch in result.history)
