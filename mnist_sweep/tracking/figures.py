"""Plain arrays → figures. Without pyplot, which keeps every figure alive.

Colours are Okabe and Ito's, which differ for the colour-blind and in brightness; lines differ in their dashes, too.
(M. Okabe, K. Ito: Color Universal Design, 2008, https://jfly.uni-koeln.de/color/)
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

Array = np.ndarray[Any, Any]

BLUE, ORANGE, GREY = "#0072b2", "#e69f00", "#555555"


def _axes(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    return figure, list(np.ravel(figure.subplots(rows, columns)))


def confusion_matrix(confusion: Array, title: str, names: Sequence[str] | None = None) -> Figure:
    """Counts (classes, classes), a row for each true class; the shading is logarithmic, so that rare mistakes show.

    The names are those of the classes; None = their numbers. Of more than 30 classes no counts are written.
    """
    classes = range(len(confusion))
    share = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    shade = 1 + np.log10(np.maximum(share, 1e-4)) / 4  # 0 for a ten-thousandth of the row and less, 1 for all of it
    figure, (axes,) = _axes(7.2, 6.0)
    picture = axes.imshow(shade, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for row, column in np.argwhere(confusion).tolist() if len(confusion) <= 30 else []:
        ink = "white" if shade[row, column] > 0.62 else "black"
        axes.text(column, row, str(confusion[row, column]), ha="center", va="center", color=ink, fontsize=9)
    labels, size = list(names or map(str, classes)), 10 if len(confusion) <= 30 else 4
    axes.set(xlabel="predicted", ylabel="true", title=title)
    axes.set_xticks(classes, labels, rotation=90 if max(map(len, labels)) > 3 else 0, fontsize=size)
    axes.set_yticks(classes, labels, fontsize=size)
    axes.tick_params(length=0)
    bar = figure.colorbar(picture, ax=axes, label="share of the images of a true class (logarithmic)")
    bar.set_ticks([0, 0.25, 0.5, 0.75, 1], labels=["≤ 0.01%", "0.1%", "1%", "10%", "100%"])
    return figure


def curves(history: Sequence[Mapping[str, float]], best: int | None, title: str, rates: Sequence[float] = ()) -> Figure:
    """Loss, accuracy and, where it is known, learning rate by epoch; the best epoch, counted from 1, is marked.

    Those of training are means over the epoch's batches, each as it was trained: with dropout and augmentation, and
    with the weights of that moment. Accuracies that are all above 95% are drawn as errors on a logarithmic axis.
    """
    rates = rates if len(rates) == len(history) else ()
    rows = 3 if rates else 2  # one above the other, so that all can be read on a narrow screen
    figure, panels = _axes(6.4, 2.6 * rows + 0.4, rows)
    epochs = range(1, len(history) + 1)
    if rates:
        panels[2].plot(epochs, rates, color=GREY, marker="o", markersize=4, label="lr")
        panels[2].set(ylabel="learning rate")
        if min(rates) == max(rates):  # else the axis would be about its rounding
            panels[2].set_ylim(0, 2 * rates[0])
    for axes, metric in zip(panels[:2], ("loss", "accuracy"), strict=True):
        values = {part: np.array([epoch[f"{part}/{metric}"] for epoch in history]) for part in ("train", "val")}
        errors = metric == "accuracy" and all(0.95 < value < 1 for each in values.values() for value in each)
        for part, when, colour, style in (("train", "during the epoch", ORANGE, "--"), ("val", "after it", BLUE, "-")):
            shown = 1 - values[part] if errors else values[part]
            label = f"{part}/{metric}, {when}"
            axes.plot(epochs, shown, color=colour, linestyle=style, marker="o", markersize=4, label=label)
        axes.set(ylabel="error: 1 − accuracy" if errors else metric)
        if errors:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(PercentFormatter(1))
            axes.yaxis.set_minor_formatter(PercentFormatter(1))
    for axes in panels:
        if best:
            axes.axvline(best, color=GREY, linewidth=1, linestyle=":", label=f"best epoch ({best})")
        axes.set(xlabel="epoch")
        axes.set_xlim(0.7, len(history) + 0.3)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend(fontsize=9)
    figure.suptitle(title)
    return figure


def _sheet(tiles: Array, columns: int) -> Array:
    """Tiles (N, H, W) beside each other as one picture, since an axes for each would take ten times as long.

    Tiles in colour are (N, H, W, 3), 0 … 1; where there is none, that picture is white.
    """
    rows, (height, width), colours = math.ceil(len(tiles) / columns), tiles.shape[1:3], tiles.shape[3:]
    whole = np.full((rows * columns, height, width, *colours), 1.0 if colours else np.nan)
    whole[: len(tiles)] = tiles
    whole = whole.reshape(rows, columns, height, width, *colours).swapaxes(1, 2)
    return whole.reshape(rows * height, columns * width, *colours)


def mistakes(images: Array, true: Array, predicted: Array, probability: Array, title: str) -> Figure:
    """Images (N, H, W), 0 … 255, or (N, H, W, 3), N ≥ 1, with the true class, the predicted one and its probability.

    These are (N,) each. Grey images that are mostly black are shown as ink on paper.
    """
    columns = min(5, len(images))  # so few that the words can be read on a narrow screen
    figure, (axes,) = _axes(max(1.3 * columns, 5.0), 1.2 * math.ceil(len(images) / columns) + 0.5)
    shown = _at(images, 28) / 255.0
    shown = 1.0 - shown if shown.ndim == 3 and shown.mean() < 0.5 else shown
    tiles = np.pad(shown, ((0, 0), (10, 1), (8, 8), *[(0, 0)] * (shown.ndim - 3)), constant_values=0.85)
    axes.imshow(_sheet(tiles, columns), cmap="gray", vmin=0, vmax=1)
    for index, (truth, said, sure) in enumerate(zip(true, predicted, probability, strict=True)):
        left, top = 44 * (index % columns) + 21.5, 39 * (index // columns) + 7.5
        words, size = f"{truth} taken for {said}: {100 * sure:.0f}%", 8
        if len(words) > 24:  # of names, which are longer than numbers
            words, size = f"{str(truth)[:22]}\n→ {str(said)[:16]}: {100 * sure:.0f}%", 6
        axes.text(left, top, words, ha="center", va="bottom", fontsize=size)
    axes.set_axis_off()
    axes.set_title(title)
    return figure


def calibration(found: Mapping[str, Array], error: float, title: str) -> Figure:
    """A reliability diagram of what `metrics.calibration` found, with the expected calibration error."""
    figure, (diagram, counts) = _axes(5.6, 6.0, 2, 1)
    bins = len(found["images"])
    left, width, filled = np.arange(bins) / bins, 1 / bins, found["images"] > 0
    confidence, accuracy = found["confidence"][filled], found["accuracy"][filled]
    diagram.bar(left, found["accuracy"], width, align="edge", color=BLUE, edgecolor="white", label="accuracy")
    diagram.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1, label="perfectly calibrated")
    diagram.plot(confidence, accuracy, "o", color=ORANGE, markersize=5, label="mean confidence of a bin")
    diagram.set(xlim=(0, 1), ylim=(0, 1.02), ylabel="accuracy", title=f"expected calibration error {error:.4f}")
    counts.bar(left, found["images"], width, align="edge", color=GREY, edgecolor="white")
    counts.set(xlim=(0, 1), xlabel="confidence", ylabel="images", yscale="log", ylim=(0.7, None))
    figure.legend(loc="outside lower center", ncols=3, fontsize=9)
    figure.suptitle(title)
    return figure


def filters(kernels: Array, title: str) -> Figure:
    """Learned kernels (N, K, K), N ≥ 1, the first 64, all on one scale: dark is positive, light is negative."""
    shown = kernels[:64]
    columns = min(8, len(shown))
    rows = math.ceil(len(shown) / columns)
    sheet = _sheet(np.pad(shown, ((0, 0), (0, 1), (0, 1)), constant_values=np.nan), columns)
    limit = float(np.abs(shown).max()) or 1.0
    figure, (axes,) = _axes(max(0.8 * columns, 4.0) + 1.4, max(0.8 * rows, 1.6) + 0.8)
    shades = colormaps["gray_r"].with_extremes(bad="#cce1ee")  # between the kernels: white is a weight
    picture = axes.imshow(sheet, cmap=shades, vmin=-limit, vmax=limit, interpolation="nearest")
    axes.set_axis_off()
    axes.set_title(title, fontsize=10)
    figure.colorbar(picture, ax=axes, shrink=0.8, label="weight")
    return figure


def activations(images: Array, labels: Sequence[str], blocks: Sequence[Array], title: str) -> Figure:
    """What each block makes of some images: a row for each image, the five maps of a block that vary most.

    Args:
        images: (N, H, W), 0 … 255, or (N, H, W, 3), which are shown in grey.
        labels: the names of N classes.
        blocks: for each block (N, filters, H, W); at least one.
    """
    grey = images.mean(axis=3) if images.ndim == 4 else images
    columns, middles = [_framed(1 - grey / 255)], {15.0: "image"}
    for number, maps in enumerate(blocks, start=1):
        shown = maps[:, np.sort(np.argsort(-maps.std(axis=(0, 2, 3)), kind="stable")[:5])]
        low, high = shown.min(axis=(0, 2, 3), keepdims=True), shown.max(axis=(0, 2, 3), keepdims=True)
        dark = (high - shown) / np.where(high > low, high - low, 1)
        count, (height, width) = shown.shape[1], maps.shape[2:]
        columns.append(np.ones_like(columns[0]))
        what = f"{count} of {maps.shape[1]} {'maps' if count > 1 else 'map'}, {height} × {width}"
        middles[30 * (len(columns) + count / 2)] = f"block {number}\n{what}"
        columns += [_framed(dark[:, index]) for index in range(count)]
    figure, (axes,) = _axes(0.6 * len(columns) + 0.6, 0.6 * len(grey) + 1.0)
    sheet = _sheet(np.concatenate(np.stack(columns, axis=1)), len(columns))
    axes.imshow(sheet, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set(xticks=list(middles), yticks=[30 * row + 15 for row in range(len(grey))], title=title)
    axes.set_xticklabels(list(middles.values()), fontsize=9)
    axes.set_yticklabels(list(map(str, labels)))
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


def _framed(pictures: Array) -> Array:
    """Pictures (N, H, W), 0 … 1, brought to (N, 30, 30) by repeating pixels, with a light frame."""
    return np.pad(_at(pictures, 28), ((0, 0), (1, 1), (1, 1)), constant_values=1.0)


def _at(pictures: Array, side: int) -> Array:
    """Pictures (N, H, W, …) as (N, side, side, …) by repeating or leaving out pixels."""
    rows, columns = (np.arange(side) * size // side for size in pictures.shape[1:3])
    return pictures[:, rows][:, :, columns]
