"""What a finished run shows in MLflow: curves, tables, pictures, a note, the model."""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn

from mnist_sweep.config import metrics, options, schema
from mnist_sweep.errors import RequestError
from mnist_sweep.result import BEST, Result
from mnist_sweep.run_folder import RunFolder
from mnist_sweep.tracking import MLflowRun, figures, harmless, is_silent
from mnist_sweep.training import data, trained_model
from mnist_sweep.training.data import ImageSet
from mnist_sweep.training.evaluate import Evaluation

log = logging.getLogger(__name__)

_MISTAKES = 30


def keep(
    run: MLflowRun, config: schema.Config, result: Result, network: nn.Module, images: ImageSet, found: Evaluation
) -> None:
    """Keep all that a finished run shows, except the test set.

    The network has the best epoch's weights: images (B, C, H, W), 0 … 1 → logits (B, classes). The images are those of
    validation, and `found` is what it does on them.
    """
    with harmless("the pictures of this run could not be drawn"):
        for name, figure in network_pictures(config, result, network, images).items():
            run.figure(figure, f"{name}.png")
    keep_part(run, "validation", result, images, found)
    run.note(note(config, result))
    keep_model(run, result, network, images)


def keep_trial(run: MLflowRun, result: Result, found: Evaluation, names: Sequence[str] | None = None) -> None:
    """Keep what a finished trial shows besides its metrics: the confusion matrix of the validation images."""
    run.document(found.confusion.tolist(), "validation/confusion_matrix.json")
    with harmless("the confusion matrix could not be drawn"):
        picture = figures.confusion_matrix(found.confusion, _title("validation", result, found), names)
        run.figure(picture, "validation/confusion_matrix.png")


def keep_test(run: MLflowRun, result: Result, images: ImageSet, found: Evaluation) -> None:
    """Keep what was found on the test set's images, by the best epoch's network."""
    run.metrics(found.metrics, result.best_epoch or 0, of_model=True)
    keep_part(run, "test", result, images, found)


def keep_model(run: MLflowRun, result: Result, network: nn.Module, images: ImageSet) -> None:
    """Keep the network as the run's model; the first images are its example."""
    with harmless("the model of this run could not be kept"):
        run.model(*_model(network, images, Path(result.folder), result))


def send(folder: RunFolder, uri: str | None = None) -> bool:
    """Tell MLflow what it could not be told of a run, or of a sweep, that is over; whether nothing is left.

    `uri` is the store's; None = that of the config. The id of a run that was made just now comes into ``result.json``.
    """
    config = None
    try:
        config = folder.config()
    except RequestError as error:  # the code of a network of one's own is gone
        log.warning("%s: %s", folder.path, error)
    if not config or not isinstance(settings := config.tracking, options.MLflow):
        return False
    if uri:
        settings = settings.model_copy(update={"uri": uri})
    if is_silent(settings.uri):
        return False
    run = MLflowRun(settings, Path(config.output), folder.path.name, folder=folder.path, ended=True)

    def model() -> tuple[nn.Module, np.ndarray[Any, Any], Path, int]:
        result = Result.read(folder.path)
        return _model(trained_model.read(folder.best).network, data.parts(config.data)[1], folder.path, result)

    sent, result = run.flush(model), folder.result()
    if result and run.run_id and result.mlflow_run_id != run.run_id:
        dataclasses.replace(result, mlflow_run_id=run.run_id, folder=str(folder.path)).write()
    return sent


def _model(
    network: nn.Module, images: ImageSet, folder: Path, result: Result
) -> tuple[nn.Module, np.ndarray[Any, Any], Path, int]:
    """What `MLflowRun.model` is called with."""
    first = torch.arange(3) % len(images)  # of which a small set may have fewer
    example = (images.take(first).cpu().float() / 255).numpy()
    return trained_model.served(network, result.dataset), example, folder / BEST, result.best_epoch or 0


def keep_part(run: MLflowRun, part: str, result: Result, images: ImageSet, found: Evaluation) -> None:
    """Keep matrix, classes, mistakes and calibration on one part of the data set, ``validation`` or ``test``.

    They lie in a folder of this name.
    """
    run.document(found.confusion.tolist(), f"{part}/confusion_matrix.json")
    classes = {key: values.tolist() for key, values in metrics.per_class(found.confusion).items()}
    labels = list(range(len(found.confusion)))
    names = [images.classes[label] for label in labels]
    run.table({"class": labels, "name": names, **classes}, f"{part}/per_class.json")
    bins = metrics.calibration(found.probabilities, images.labels.cpu().numpy())
    run.document({key: values.tolist() for key, values in bins.items()}, f"{part}/calibration.json")
    error = {f"{'val' if part == 'validation' else part}/calibration_error": metrics.calibration_error(bins)}
    run.metrics(error, result.best_epoch or 0)
    with harmless(f"the pictures of the {part} images could not be drawn"):
        for name, figure in part_pictures(part, result, images, found).items():
            run.figure(figure, f"{part}/{name.removesuffix(f'_{part}')}.png")


def network_pictures(config: schema.Config, result: Result, network: nn.Module, images: ImageSet) -> dict[str, Figure]:
    """Curves, filters and activation maps by name; the arguments are those of `keep`."""
    title = f"{config.name} on {result.dataset}"
    drawn = {"curves": figures.curves(result.history, result.best_epoch, title, result.learning_rates)}
    kernels = trained_model.first_filters(network)
    if len(kernels):
        of = "" if len(kernels) <= 64 else f" (64 of {len(kernels)})"
        drawn["filters"] = figures.filters(kernels, f"first block's filters{of}, {title}")
    chosen = np.unique(images.labels.cpu().numpy(), return_index=True)[1].tolist()[:10]  # the first of each class
    if maps := trained_model.activation_maps(network, images.take(torch.as_tensor(chosen))):
        shown, labels = trained_model.images_at(images, chosen), images.labels[chosen].tolist()
        names = [images.classes[label] for label in labels]
        drawn["activations"] = figures.activations(shown, names, maps, f"activation maps, {title}")
    return drawn


def part_pictures(part: str, result: Result, images: ImageSet, found: Evaluation) -> dict[str, Figure]:
    """Matrices, mistakes and calibration by name; the arguments are those of `keep_part`."""
    title, names = _title(part, result, found), np.array(images.classes)
    drawn = {f"confusion_matrix_{part}": figures.confusion_matrix(found.confusion, title, images.classes)}
    labels, probabilities = images.labels.cpu().numpy(), found.probabilities
    wrong = metrics.confident_mistakes(probabilities, labels, _MISTAKES)
    if len(wrong):
        predicted, sure = probabilities[wrong].argmax(axis=1), probabilities[wrong].max(axis=1)
        of = int(found.confusion.sum() - found.confusion.trace())
        which = f"the {len(wrong)} most confident of {of}" if len(wrong) < of else f"all {of}"
        shown, title = trained_model.images_at(images, wrong.tolist()), f"{which} mistakes on the {part} images"
        drawn[f"mistakes_{part}"] = figures.mistakes(shown, names[labels[wrong]], names[predicted], sure, title)
    bins = metrics.calibration(probabilities, labels)
    error = metrics.calibration_error(bins)
    drawn[f"calibration_{part}"] = figures.calibration(bins, error, f"{result.dataset}, {part}")
    return drawn


def _title(part: str, result: Result, found: Evaluation) -> str:
    count, right = int(found.confusion.sum()), int(found.confusion.trace())
    return f"{result.dataset}, {count:,} {part} images: {100 * right / count:.2f}% right"


def note(config: schema.Config, result: Result) -> str:
    """A run in Markdown: what came out, the network as a table of layers, the command."""
    best = f"**{config.objective} {result.objective:.4f}** in epoch {result.best_epoch} of {result.epochs}"
    where = f"{result.train_seconds:.1f} s of training on {result.device}, {result.dataset}, seed {result.seed}"
    lines = [f"{best}, {where}"]
    if "test/accuracy" in result.metrics:
        lines.append(f"\n**test/accuracy {result.metrics['test/accuracy']:.4f}** (opened {result.test_opened_at})")
    lines += ["", "| layer | output | parameters | multiply-adds |", "|---|---|---:|---:|"]
    for layer in config.layers():
        output = " × ".join(map(str, layer.output))
        lines.append(f"| {layer.name} | {output} | {layer.parameters:,} | {layer.multiply_adds:,} |")
    lines.append(f"| **all** | | **{result.parameters:,}** | **{result.multiply_adds:,}** |\n")
    return "\n".join([*lines, f"\nReproduce it:\n\n```\n{result.command}\n```"])
