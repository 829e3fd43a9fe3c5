"""Five ways to train a network, each a function of overrides; what they are is in throughput.py."""

import contextlib
import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: Images trained a second; at the end the loss on the validation images, and the accuracy.
Measured = tuple[float, float, float]


def _prepared(items: list[str]) -> tuple[Any, Any, Any]:
    """The config, and its training and validation images."""
    import torch

    from mnist_sweep import hardware
    from mnist_sweep.config.command import CommandLine
    from mnist_sweep.training import data

    torch.set_num_threads(hardware.cores())
    config = CommandLine.of(items).config
    torch.manual_seed(config.seed)
    return config, *data.parts(config.data)


def _loop(config: Any, training: Any, step: Callable[..., Any], evaluate: Callable[..., Any]) -> Measured:
    """Epochs of so many steps and an evaluation."""
    import torch

    size = config.data.batch_size
    started = time.perf_counter()
    found = math.nan, math.nan
    for _ in range(config.trainer.max_epochs):
        order = torch.randperm(len(training))
        for first in range(0, len(training) - size + 1, size):
            step(order[first : first + size])
        found = evaluate()
    return _rate(config, training, time.perf_counter() - started), *found


def _rate(config: Any, training: Any, seconds: float) -> float:
    size = config.data.batch_size
    return config.trainer.max_epochs * (len(training) // size) * size / seconds


def _scores(logits: Any, labels: Any) -> tuple[float, float]:
    from torch.nn.functional import cross_entropy

    return float(cross_entropy(logits, labels)), float((logits.argmax(dim=1) == labels).float().mean())


def _textbook(model: Any) -> Any:
    """The network in the textbook's order and PyTorch's default layout."""
    from torch import nn

    layers: list[nn.Module] = []
    channels, side = 1, 28
    for width in model.filters:
        layers.append(nn.Conv2d(channels, width, 3, padding="same", bias=not model.batch_norm))
        layers += [nn.BatchNorm2d(width)] if model.batch_norm else []
        layers += [nn.ReLU(), nn.MaxPool2d(2)]
        channels, side = width, side // 2
    hidden = nn.Linear(channels * side * side, 128)
    return nn.Sequential(*layers, nn.Flatten(), hidden, nn.ReLU(), nn.Dropout(model.dropout), nn.Linear(128, 10))


def plain(items: list[str]) -> Measured:
    """(a)"""
    import torch
    from torch.nn.functional import cross_entropy

    config, training, validation = _prepared(items)
    mean, deviation = training.standardisation
    images, held_out = ((part.images.float() / 255 - mean) / deviation for part in (training, validation))
    network = _textbook(config.model)
    optimizer = torch.optim.Adam(network.parameters(), lr=config.optimizer.lr)

    def step(chosen: Any) -> None:
        loss = cross_entropy(network(images[chosen]), training.labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def evaluate() -> tuple[float, float]:
        network.eval()
        with torch.no_grad():
            logits = torch.cat([network(part) for part in torch.split(held_out, 100)])
        network.train()
        return _scores(logits, validation.labels)

    return _loop(config, training, step, evaluate)


def template(items: list[str]) -> Measured:
    """(b)"""
    import logging
    import warnings

    import pytorch_lightning as pl
    import torch
    from PIL import Image
    from torch.nn.functional import cross_entropy
    from torch.utils.data import DataLoader, Dataset
    from torchmetrics.aggregation import MeanMetric
    from torchmetrics.classification import MulticlassAccuracy
    from torchvision import transforms

    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    config, training, validation = _prepared(items)
    prepare = transforms.Compose(
        [transforms.ToTensor(), transforms.Normalize(*[(each,) for each in training.standardisation])]
    )

    class Images(Dataset[Any]):
        """Reads as torchvision's MNIST does."""

        def __init__(self, source: Any) -> None:
            self.pixels, self.labels = source.images[:, 0], source.labels

        def __len__(self) -> int:
            return len(self.labels)

        def __getitem__(self, index: int) -> tuple[Any, int]:
            return prepare(Image.fromarray(self.pixels[index].numpy())), int(self.labels[index])

    class Module(pl.LightningModule):
        """After the module of a well-known template: metric objects that are updated and logged in each step."""

        def __init__(self) -> None:
            super().__init__()
            self.network = _textbook(config.model)
            self.loss = torch.nn.ModuleDict({part: MeanMetric() for part in ("train_", "val_")})
            self.accuracy = torch.nn.ModuleDict({part: MulticlassAccuracy(10) for part in ("train_", "val_")})

        def _step(self, part: str, batch: Any) -> Any:
            logits = self.network(batch[0])
            loss = cross_entropy(logits, batch[1])
            self.loss[part](loss)
            self.accuracy[part](logits.argmax(dim=1), batch[1])
            self.log(f"{part}loss", self.loss[part], on_step=False, on_epoch=True, prog_bar=True)
            self.log(f"{part}accuracy", self.accuracy[part], on_step=False, on_epoch=True, prog_bar=True)
            return loss

        def training_step(self, batch: Any, _: int) -> Any:
            return self._step("train_", batch)

        def validation_step(self, batch: Any, _: int) -> None:
            self._step("val_", batch)

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), lr=config.optimizer.lr)

    loaders = (
        DataLoader(Images(training), config.data.batch_size, shuffle=True, drop_last=True),
        DataLoader(Images(validation), config.data.batch_size),
    )
    with (
        tempfile.TemporaryDirectory() as folder,
        Path(folder, "terminal").open("w") as terminal,
        contextlib.redirect_stdout(terminal),
        contextlib.redirect_stderr(terminal),
    ):
        # the Trainer's defaults: progress bar, logger, checkpoint of each epoch
        trainer = pl.Trainer(
            max_epochs=config.trainer.max_epochs,
            accelerator=config.trainer.accelerator,
            devices=1,
            default_root_dir=folder,
        )
        module = Module()
        started = time.perf_counter()
        trainer.fit(module, *loaders)
        seconds = time.perf_counter() - started
    return _rate(config, training, seconds), *(
        float(trainer.callback_metrics[f"val_{each}"]) for each in ("loss", "accuracy")
    )


def bare(items: list[str]) -> Measured:
    """(c)"""
    import torch
    from torch.nn.functional import cross_entropy

    from mnist_sweep import hardware
    from mnist_sweep.training.trainer import keep_memory

    keep_memory()
    config, training, validation = _prepared(items)
    network = config.model.build(*training.standardisation, config.data.images)
    optimizer = torch.optim.Adam(network.parameters(), lr=config.optimizer.lr, fused=True)
    half = hardware.precision(config.trainer.precision, False)[0] == "bf16"

    def step(chosen: Any) -> None:
        images = training.take(chosen).float() / 255
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            logits = network(images)
        loss = cross_entropy(logits.float(), training.labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def evaluate() -> tuple[float, float]:
        network.eval()
        with torch.inference_mode():
            parts = [network(validation.take(part).float() / 255) for part in torch.arange(len(validation)).split(100)]
        network.train()
        return _scores(torch.cat(parts), validation.labels)

    return _loop(config, training, step, evaluate)


def ours(items: list[str]) -> Measured:
    """(d)"""
    from mnist_sweep.config.command import CommandLine
    from mnist_sweep.run import train

    with tempfile.TemporaryDirectory() as folder:
        given = [*items, f"output={folder}", "name=one"]  # what MLflow keeps goes there, too
        config, training, _ = _prepared(given)
        result = train(CommandLine.of(given))
    assert result.status == "finished", result.detail
    last = result.history[-1]
    return _rate(config, training, result.train_seconds), last["val/loss"], last["val/accuracy"]


def floor(items: list[str], half: bool) -> float:
    """Images a second, if a step were nothing but a matrix product."""
    import torch

    config, _, _ = _prepared(items)
    on_gpu = config.trainer.accelerator != "cpu" and torch.cuda.is_available()
    side, device = (8192, "cuda") if on_gpu else (2048, "cpu")
    a, b = (torch.rand(side, side, dtype=torch.bfloat16 if half else torch.float32, device=device) for _ in range(2))
    best = math.inf
    for _ in range(5):
        started = time.perf_counter()
        float((a @ b)[0, 0])  # waits for it
        best = min(best, time.perf_counter() - started)
    return side**3 / best / (3 * sum(layer.multiply_adds for layer in config.layers()))


def sweep(items: list[str], workers: Any, divided: Any, folder: str, trials: int = 1) -> Measured:
    """(e): so many trials a worker."""
    from mnist_sweep.config.command import CommandLine
    from mnist_sweep.sweep.workers import Task
    from mnist_sweep.training import data

    common = CommandLine.of(items).with_(
        {"trainer.threads": divided.threads, "trainer.precision": divided.precision, "output": folder}
    )
    training, _ = data.parts(common.config.data)
    stamp = time.monotonic_ns()
    tasks = [
        Task(index, common.with_(seed=index, name=f"run{stamp}-{index}")) for index in range(trials * divided.workers)
    ]
    started = time.perf_counter()
    results = workers.perform(tasks)
    seconds = time.perf_counter() - started
    assert all(result.status == "finished" for result in results.values())
    lasts = [result.history[-1] for result in results.values()]
    loss, accuracy = (sum(last[f"val/{name}"] for last in lasts) / len(lasts) for name in ("loss", "accuracy"))
    return len(tasks) * _rate(common.config, training, seconds), loss, accuracy
