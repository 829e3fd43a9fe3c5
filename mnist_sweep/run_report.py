"""What a finished run shows in its account: curves, tables, pictures, a note, the model."""

import logging
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec

import numpy as np
import torch
from matplotlib.figure import Figure

from mnist_sweep.config import metrics, schema
from mnist_sweep.config.metrics import Measured
from mnist_sweep.result import BEST, Result
from mnist_sweep.tracking import Account, SavedModel, figures
from mnist_sweep.training import data, datasets
from mnist_sweep.training import trained_model as inspection
from mnist_sweep.training import trainer as training
from mnist_sweep.training.data import ImageSet
from mnist_sweep.training.lightning_module import Classifier
from mnist_sweep.training.trained_model import Ensemble, Network

log = logging.getLogger(__name__)

Array = np.ndarray[Any, Any]

_MISTAKES = 30
#: Images of the input example, which stand for a batch of any size.
_EXAMPLES = 3

P = ParamSpec("P")


def _harmless(method: Callable[Concatenate[Account, P], None]) -> Callable[Concatenate[Account, P], None]:
    """Wrap a function so that no run fails over its pictures."""

    @wraps(method)
    def safe(account: Account, /, *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            method(account, *args, **kwargs)
        except Exception:
            log.exception("the pictures of this run could not be drawn; the run goes on without them")

    return safe


@_harmless
def keep(account: Account, config: schema.Config, result: Result, classifier: Classifier, validation: ImageSet) -> None:
    """All that a finished run shows, except the test set.

    Args:
        account: open.
        config: of the run.
        result: of the run.
        classifier: it has been trained, and has the best epoch's weights afterwards.
        validation: the images that the best epoch was chosen by.
    """
    classifier.load_state_dict(training.weights(Path(result.folder) / BEST))
    probabilities = classifier.validated
    if probabilities is None:
        probabilities = inspection.probabilities(classifier, validation.images)
    for name, figure in _pictures(config, result, classifier, validation).items():
        account.figure(figure, f"{name}.png")
    _keep_part(account, "validation", np.array(result.confusion), probabilities, validation, result)
    keep_note(account, config, result)
    parameters = {key: str(value) for key, value in config.parameters().items() if key.startswith(("model.", "data"))}
    _keep_model(account, result, classifier, validation, parameters)


@_harmless
def keep_ensemble(
    account: Account, result: Result, ensemble: Ensemble, validation: ImageSet, found: Measured, members: str
) -> None:
    """What an ensemble shows: matrices, mistakes and calibration on validation, its members, the model.

    Args:
        account: open.
        result: of the ensemble.
        ensemble: in evaluation mode.
        validation: the images that its members were chosen by.
        found: on these.
        members: as Markdown.
    """
    _keep_part(account, "validation", found.confusion, found.probabilities, validation, result)
    account.note(members)
    _keep_model(account, result, ensemble, validation, {"members": str(len(ensemble.members))})


def _keep_model(
    account: Account, result: Result, network: Network, validation: ImageSet, parameters: dict[str, str]
) -> None:
    """The model, with an example, and what was measured of it on validation."""
    step = result.best_epoch or 0
    served = inspection.served(network)
    images = validation.take(torch.arange(_EXAMPLES)).cpu().float() / 255
    with torch.no_grad():
        probabilities = served(images)
    saved = SavedModel(served, images.numpy(), probabilities.numpy(), Path(result.folder) / BEST, parameters)
    account.model(saved, step)
    account.link_metrics([name for name in result.metrics if not name.startswith("test/")], step)


@_harmless
def keep_test(account: Account, config: schema.Config, result: Result, network: Network) -> None:
    """The test set's metrics and pictures.

    Args:
        account: open.
        config: of the run.
        result: of the run.
        network: with the best epoch's weights; it has been tested.
    """
    assert network.test is not None
    found = network.test
    step = result.best_epoch or 0
    account.metrics(found.metrics, step)
    account.link_metrics(list(found.metrics), step)
    test = data.test_set(config.data.name, config.data.root)
    _keep_part(account, "test", found.confusion, found.probabilities, test, result)
    source = datasets.SOURCES[config.data.name]
    account.dataset(
        f"{config.data.name}-test",  # a data set is an input of a run once, under its name and digest
        datasets.verify(config.data),
        str(datasets.folder(config.data).resolve()),
        "testing",
        {"images": source.test},
    )


def pictures(config: schema.Config, result: Result, classifier: Network, validation: ImageSet) -> dict[str, Figure]:
    """All pictures of a finished run but those of the test set, by name; the arguments are those of `keep`."""
    probabilities = inspection.probabilities(classifier, validation.images)
    confusion = np.array(result.confusion)
    return _pictures(config, result, classifier, validation) | _part_pictures(
        "validation", confusion, probabilities, validation, result
    )


def _pictures(config: schema.Config, result: Result, classifier: Network, validation: ImageSet) -> dict[str, Figure]:
    """Curves, filters and activation maps."""
    title = f"{config.name} on {result.dataset}"
    drawn = {"curves": figures.curves(result.history, result.best_epoch, title)}
    kernels = inspection.first_filters(classifier)
    if len(kernels):
        of = "" if len(kernels) <= 64 else f" (64 of {len(kernels)})"
        drawn["filters"] = figures.filters(kernels, f"first block's filters{of}, {title}")
    chosen = inspection.one_of_each(validation.labels)
    if maps := inspection.activation_maps(classifier, validation.take(torch.as_tensor(chosen))):
        labels = validation.labels[chosen].tolist()
        digits = inspection.images_at(validation, chosen)
        drawn["activations"] = figures.activations(digits, labels, maps, f"activation maps, {title}")
    return drawn


def _part_pictures(
    part: str, confusion: Array, probabilities: Array, images: ImageSet, result: Result
) -> dict[str, Figure]:
    """Matrices, mistakes and calibration on one part of the data set."""
    right = 100 * confusion.trace() / confusion.sum()
    title = f"{result.dataset}, {confusion.sum():,} {part} images: {right:.2f}% right"
    drawn = {
        f"confusion_matrix_{part}": figures.confusion_matrix(confusion, title),
        f"confusion_matrix_{part}_normalised": figures.confusion_matrix(confusion, title, normalised=True),
    }
    labels = images.labels.cpu().numpy()
    wrong = metrics.confident_mistakes(probabilities, labels, _MISTAKES)
    if len(wrong):
        predicted, sure = probabilities[wrong].argmax(axis=1), probabilities[wrong].max(axis=1)
        of = int((probabilities.argmax(axis=1) != labels).sum())
        which = f"the {len(wrong)} most confident of {of}" if len(wrong) < of else f"all {of}"
        said = f"{which} mistakes on the {part} images"
        shown = inspection.images_at(images, wrong.tolist())
        drawn[f"mistakes_{part}"] = figures.mistakes(shown, labels[wrong], predicted, sure, said)
    found = metrics.calibration(probabilities, labels)
    error = metrics.calibration_error(found)
    drawn[f"calibration_{part}"] = figures.calibration(found, error, f"{result.dataset}, {part}")
    return drawn


def _keep_part(
    account: Account, part: str, confusion: Array, probabilities: Array, images: ImageSet, result: Result
) -> None:
    """Matrix, classes, mistakes and calibration on one part of the data set."""
    for name, figure in _part_pictures(part, confusion, probabilities, images, result).items():
        account.figure(figure, f"{name}.png")
    name = f"confusion_matrix_{part}"
    account.document(confusion.tolist(), f"{name}.json")
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    account.document(shares.tolist(), f"{name}_normalised.json")
    classes = {key: values.tolist() for key, values in metrics.per_class(confusion).items()}
    account.document(classes, f"per_class_{part}.json")
    account.table({"class": list(range(len(confusion))), **classes}, f"per_class_{part}_table.json")
    found = metrics.calibration(probabilities, images.labels.cpu().numpy())
    error = metrics.calibration_error(found)
    account.document({key: values.tolist() for key, values in found.items()}, f"calibration_{part}.json")
    short = {"validation": "val", "test": "test"}[part]
    account.metrics({f"{short}/calibration_error": error}, result.best_epoch or 0)


def keep_note(account: Account, config: schema.Config, result: Result) -> None:
    """The run's note."""
    account.note(note(config, result))


def note(config: schema.Config, result: Result) -> str:
    """A run in Markdown: what came out, the network as a table of layers, the command."""
    best = f"**{config.objective} {result.objective:.4f}** in epoch {result.best_epoch} of {result.epochs}"
    lines = [
        f"{best}, {result.train_seconds:.1f} s of training on {result.device}, {result.dataset}, seed {result.seed}"
    ]
    if "test/accuracy" in result.metrics:
        lines.append(f"\n**test/accuracy {result.metrics['test/accuracy']:.4f}** (opened {result.test_opened_at})")
    lines += ["", "| layer | output | parameters | multiply-adds |", "|---|---|---:|---:|"]
    table = config.model.layers()
    for layer in table:
        output = " × ".join(map(str, layer.output))
        lines.append(f"| {layer.name} | {output} | {layer.parameters:,} | {layer.multiply_adds:,} |")
    sums = sum(layer.parameters for layer in table), sum(layer.multiply_adds for layer in table)
    lines.append(f"| **all** | | **{sums[0]:,}** | **{sums[1]:,}** |")
    network = config.model
    lines += [
        "",
        f"Blocks: convolution ({network.padding} padding){', batch norm' if network.batch_norm else ''}, "
        f"{network.activation}, {network.pool} pooling{'; global average pooling' if network.global_pool else ''}; "
        f"dropout {network.dropout:g}; softmax at the end.",
        "",
        "Again:",
        "",
        "```",
        result.command,
        "```",
    ]
    return "\n".join(lines)
