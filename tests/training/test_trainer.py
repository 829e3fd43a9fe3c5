"""The epochs of a training: the fast path against the plain one, every option, early stopping, resuming."""

import re
import signal
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch.nn.functional import cross_entropy
from torch.optim.optimizer import register_optimizer_step_pre_hook

from mnist_sweep.errors import Interrupted, RunFailure, check_interrupted, signals_as_flag
from mnist_sweep.result import BEST
from mnist_sweep.training import data, trained_model
from mnist_sweep.training.evaluate import evaluate
from mnist_sweep.training.trainer import Fit
from tests.conftest import command
from tests.own_sets import NETS, small
from tests.training.fitting import failing_in, fit
from tests.training.test_models import textbook

pytestmark = pytest.mark.slow

SGD = {"lr": 0.02, "momentum": 0.9, "nesterov": True}


def plain(trained: Any, optimizer: type[torch.optim.Optimizer], **settings: Any) -> dict[str, torch.Tensor]:
    """The weights after the epochs of a config, by a loop that could stand in a tutorial; without dropout."""
    config = trained.config
    pl.seed_everything(config.seed, verbose=False)
    images, _ = data.parts(config.data)
    built = config.model.build(*images.standardisation, config.data.images)
    network: Any = built.to(memory_format=torch.contiguous_format)
    moves = optimizer(network.parameters(), **settings)
    order = torch.Generator().manual_seed(config.seed)
    averages: dict[str, torch.Tensor] = {}
    steps, size = 0, config.data.batch_size
    for _ in range(config.trainer.max_epochs):
        for chosen in torch.randperm(len(images), generator=order).split(size)[: len(images) // size]:
            logits, _ = textbook(network, config.model, images.take(chosen).float() / 255)
            loss = cross_entropy(logits, images.labels[chosen])
            moves.zero_grad()
            loss.backward()
            moves.step()
            steps += 1
            decay = min(config.trainer.ema_decay or 0, (1 + steps) / (10 + steps))
            for name, weight in network.named_parameters():
                kept = averages.get(name, weight.detach())
                averages[name] = decay * kept + (1 - decay) * weight.detach()
    return {**network.state_dict(), **averages}


@pytest.mark.parametrize(
    ("items", "optimizer", "settings"),
    [
        ("optimizer=sgd optimizer.lr=0.02", torch.optim.SGD, SGD),
        ("optimizer=adam model.activation=tanh model.pool=avg", torch.optim.Adam, {"lr": 1e-3}),
        ("optimizer=adamw model.filters=[4,6]", torch.optim.AdamW, {"lr": 1e-3, "weight_decay": 1e-2}),
        ("optimizer=adam model.filters=[16,16] model.kernel_size=5", torch.optim.Adam, {"lr": 1e-3}),
        ("optimizer=adam trainer.ema_decay=0.6", torch.optim.Adam, {"lr": 1e-3}),
        # a batch norm scales differences of rounding up, from step to step: one step an epoch
        ("optimizer=sgd optimizer.lr=0.02 model.batch_norm=true data.batch_size=200", torch.optim.SGD, SGD),
    ],
)
def test_a_training_ends_with_the_weights_of_a_plain_loop(
    items: str, optimizer: Any, settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "GROUP", 3)  # eight steps an epoch, so that the last group has fewer
    common = ["data.batch_size=25", "model.dropout=0", "trainer.max_epochs=2", "objective=train/loss"]
    trained = fit(tmp_path, *common, *items.split())
    for name, wanted in plain(trained, optimizer, **settings).items():
        torch.testing.assert_close(trained.network.state_dict()[name], wanted, atol=1e-4, rtol=1e-4)


def test_bf16_learns_as_well_and_is_measured_in_full_precision(tmp_path: Path) -> None:
    common = ["data.limit=2000", "trainer.max_epochs=4", "data.batch_size=32", "optimizer.lr=3e-3"]
    full, half = (fit(tmp_path / each, *common, f"trainer.precision={each}") for each in ("32", "bf16"))
    assert abs(full.history[-1]["val/accuracy"] - half.history[-1]["val/accuracy"]) < 0.03
    assert full.history != half.history
    assert evaluate(half.network, half.held_out, "val").metrics == half.validation.metrics


@pytest.mark.parametrize(
    "items",
    [
        "optimizer=sgd scheduler=step loss.label_smoothing=0.1",
        "optimizer=adamw scheduler=cosine model.pool=avg model.activation=tanh",
        "optimizer=rmsprop scheduler=onecycle model.batch_norm=true trainer.gradient_clip=1.0",
        "model.activation=gelu trainer.precision=bf16",
        "model=lenet5 model.activation=sigmoid data.augmentation.shift=0.1 data.augmentation.scale=0.1",
        "model.filters=[4,6] model.convolutions=2 model.padding=valid model.global_pool=true",
        "model.filters=[16] model.batch_norm=true trainer.precision=bf16 trainer.ema_decay=0.99",
    ],
)
def test_every_option_trains_and_goes_on_after_an_interruption_as_if_none_had_been(tmp_path: Path, items: str) -> None:
    common = ["trainer.max_epochs=3", "data.batch_size=50", "optimizer.lr=0.01", "objective=train/loss"]
    settings = [*items.split(), *common]
    whole = fit(tmp_path / "whole", *settings)
    assert len(whole.history) == 3
    for _ in range(2):  # the second attempt does not come any further than the first
        with pytest.raises(KeyError, match="2"):
            fit(tmp_path / "parts", *settings, on_epoch=failing_in(2))
    resumed = fit(tmp_path / "parts", *settings)
    assert resumed.history == whole.history
    assert (resumed.validation.probabilities == whole.validation.probabilities).all()
    assert all(map(torch.equal, resumed.network.state_dict().values(), whole.network.state_dict().values()))
    assert resumed.train_seconds > 0


def test_a_network_that_draws_from_python_and_numpy_goes_on_with_the_same_draws(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(NETS, encoding="utf-8")
    model = ["model=custom", f"model.target={tmp_path}/nets.py:Drawing"]

    def trained(folder: str, on_epoch: Any = None) -> Any:
        config = small(tmp_path, *model, "trainer.precision=32", "trainer.max_epochs=3", "data.batch_size=50").config
        made = Fit(config, tmp_path / folder, torch.device("cpu"), on_epoch or (lambda *_: True), check_interrupted)
        made.run()
        return made

    whole = trained("whole")
    with pytest.raises(KeyError, match="3"):
        trained("parts", failing_in(3))
    assert trained("parts").history == whole.history
    assert len({epoch["train/loss"] for epoch in whole.history}) == 3


def test_whatever_looks_at_the_trained_network_leaves_it_as_its_checkpoint_has_it(tmp_path: Path) -> None:
    trained = fit(tmp_path, "model.batch_norm=true")
    trained_model.activation_maps(trained.network, trained.held_out.take(torch.arange(10)))
    kept = trained_model.read(tmp_path / BEST).network.state_dict()
    for name, value in trained.network.state_dict().items():
        assert torch.equal(value, kept[name]), name


def test_the_best_epoch_of_an_earlier_attempt_stays_the_best(tmp_path: Path) -> None:
    items = ["trainer.max_epochs=3", "optimizer.lr=1e-12", "model.dropout=0"]  # no epoch is better than the first
    with pytest.raises(KeyError):
        fit(tmp_path, *items, on_epoch=failing_in(3))
    (tmp_path / "checkpoints" / "best.ckpt").write_bytes(b"of an epoch that is now trained again")
    moved = tmp_path.rename(tmp_path.with_name("moved"))
    resumed = fit(moved, *items)
    assert resumed.validation.metrics["val/loss"] == resumed.history[0]["val/loss"]
    network = trained_model.read(moved / "checkpoints" / "best.ckpt").network
    assert evaluate(network, resumed.held_out, "val").metrics == resumed.validation.metrics


@pytest.mark.fault(8)
@pytest.mark.parametrize("content", [b"half a file", {"loops": {}, "best": {}}])
def test_a_last_state_that_cannot_be_read_is_a_new_beginning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: Any
) -> None:
    whole = fit(tmp_path / "whole")
    last = tmp_path / "checkpoints" / "last.ckpt"
    last.parent.mkdir()
    last.write_bytes(content) if isinstance(content, bytes) else torch.save(content, last)
    (last.parent / "best.ckpt").write_bytes(b"of nothing that is left")
    assert fit(tmp_path).history == whole.history
    assert [line for line in caplog.messages if "last.ckpt cannot be read" in line and "from the beginning" in line]


def test_a_schedule_is_stretched_over_the_whole_training(tmp_path: Path) -> None:
    rates: list[float] = []
    hook = register_optimizer_step_pre_hook(lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"]))
    items = ["data.batch_size=50", "trainer.max_epochs=4", "optimizer=sgd", "optimizer.lr=0.1", "scheduler=step"]
    try:
        fit(tmp_path, *items, "scheduler.step_size=2", "scheduler.gamma=0.1")
    finally:
        hook.remove()
    assert rates == pytest.approx([0.1] * 8 + [0.01] * 8)


def test_a_training_ends_early_by_its_patience_or_where_it_is_told_to(tmp_path: Path) -> None:
    settled = ["trainer.max_epochs=30", "trainer.patience=2", "optimizer.lr=1e-12", "model.dropout=0"]
    trained = fit(tmp_path / "settled", *settled)  # counted from the best epoch, the first
    assert (len(trained.history), trained.stopped) == (3, False)
    items = ["trainer.max_epochs=4", "objective=val/loss", "optimizer.lr=0.05"]
    trained = fit(tmp_path / "told", *items, on_epoch=lambda epoch, _: epoch < 3)
    assert (trained.stopped, len(trained.history)) == (True, 3)
    assert trained.validation.metrics["val/loss"] == min(epoch["val/loss"] for epoch in trained.history)


@pytest.mark.fault(5)
def test_a_training_that_diverges_says_so(tmp_path: Path) -> None:
    with pytest.raises(RunFailure, match=r"diverged: train/loss became (nan|inf) in epoch 1"):
        fit(tmp_path, "optimizer=sgd", "optimizer.lr=1e30", "data.batch_size=20")


def test_a_signal_at_the_end_of_an_epoch_ends_a_training_as_an_interruption(tmp_path: Path) -> None:
    def on_epoch(*_: Any) -> bool:
        signal.raise_signal(signal.SIGTERM)
        return True

    with signals_as_flag(), pytest.raises(Interrupted, match="SIGTERM"):  # for which Lightning would end the process
        fit(tmp_path, "trainer.max_epochs=2", on_epoch=on_epoch)


def test_the_bar_counts_epochs_from_one_and_is_gone_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # as a terminal
    monkeypatch.setenv("COLUMNS", "120")
    config = command(tmp_path, "it", "trainer.precision=32", "trainer.max_epochs=2").config
    Fit(config, tmp_path, torch.device("cpu"), lambda *_: True, check_interrupted, bar=True).run()
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err)
    assert {"1", "2"} == set(re.findall(r"epoch (\d) of 2", text))
    assert re.search(r"[1-9][0-9,]* images a second", text)
