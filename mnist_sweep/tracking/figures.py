"""Plain arrays → figures. Without pyplot, which keeps every figure alive.

Colours are Okabe and Ito's, which differ for the colour-blind and in brightness; lines differ in their dashes, too.
(M. Okabe, K. Ito: Color Universal Design, 2008, https://jfly.uni-koeln.de/color/)
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

Array = np.ndarray[Any, Any]

#: Dots per inch.
_DPI = 110
BLUE, ORANGE, GREY = "#0072b2", "#e69f00", "#555555"


def _axes(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
    return figure, list(np.ravel(figure.subplots(rows, columns)))


def confusion_matrix(confusion: Array, title: str, *, normalised: bool = False) -> Figure:
    """Counts, or shares of each true class, shaded on a logarithmic scale, so that rare mistakes show.

    Args:
        confusion: (classes, classes) counts, a row for each true class, a column for each predicted one.
        title: above the table.
        normalised: show each row in per cent of its sum.
    """
    classes = len(confusion)
    share = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    shade = np.log10(np.maximum(share, 1e-4)) + 4  # 0 for a ten-thousandth and less, 4 for all
    figure, (axes,) = _axes(6.4, 6.0)
    axes.imshow(shade, cmap="Blues", vmin=0, vmax=4)
    for row in range(classes):
        for column in range(classes):
            if count := int(confusion[row, column]):
                ink = "white" if shade[row, column] > 2.6 else "black"
                said = f"{100 * share[row, column]:.1f}" if normalised else str(count)
                axes.text(column, row, said, ha="center", va="center", color=ink, fontsize=9)
    unit = " (per cent of the row)" if normalised else ""
    axes.set(xticks=range(classes), yticks=range(classes), xlabel=f"predicted{unit}", ylabel="true", title=title)
    axes.tick_params(length=0)
    return figure


def curves(history: Sequence[Mapping[str, float]], best: int | None, title: str) -> Figure:
    """Loss and accuracy of training and validation by epoch; the best epoch is marked.

    Args:
        history: the metrics of each epoch.
        best: the best epoch, counted from 1.
        title: above both.
    """
    figure, panels = _axes(9.6, 4.0, 1, 2)
    epochs = range(1, len(history) + 1)
    for axes, metric in zip(panels, ("loss", "accuracy"), strict=True):
        for part, colour, style in (("train", ORANGE, "--"), ("val", BLUE, "-")):
            values = [epoch[f"{part}/{metric}"] for epoch in history]
            axes.plot(epochs, values, color=colour, linestyle=style, marker="o", markersize=4, label=f"{part}/{metric}")
        if best:
            axes.axvline(best, color=GREY, linewidth=1, linestyle=":", label=f"best epoch ({best})")
        axes.set(xlabel="epoch", ylabel=metric)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend(fontsize=9)
    figure.suptitle(title)
    return figure


def mistakes(images: Array, true: Array, predicted: Array, probability: Array, title: str) -> Figure:
    """Images with the true class, the predicted one and its probability.

    Args:
        images: (N, 28, 28), 0 … 255, N ≥ 1.
        true, predicted: (N,) classes.
        probability: (N,) of the predicted class.
        title: above all.
    """
    columns = min(6, len(images))
    rows = math.ceil(len(images) / columns)
    sheet = np.full(
        (rows * 38, columns * 44), 255.0
    )  # one picture: an axes for each image would take ten times as long
    figure, (axes,) = _axes(max(1.5 * columns, 5.0), 1.35 * rows + 0.6)
    for index, (image, truth, said, sure) in enumerate(zip(images, true, predicted, probability, strict=True)):
        top, left = 38 * (index // columns) + 9, 44 * (index % columns) + 8
        sheet[top : top + 28, left : left + 28] = 255 - image.astype(np.float64)
        axes.text(
            left + 13.5, top - 2.5, f"{truth} taken for {said}: {100 * sure:.0f}%", ha="center", va="bottom", fontsize=8
        )
    axes.imshow(sheet, cmap="gray", vmin=0, vmax=255)
    axes.set_axis_off()
    axes.set_title(title)
    return figure


def calibration(found: Mapping[str, Array], error: float, title: str) -> Figure:
    """A reliability diagram: accuracy against confidence, and how many images each bin holds.

    Args:
        found: by `metrics.calibration`.
        error: the expected calibration error.
        title: above all.
    """
    figure, (diagram, counts) = _axes(5.6, 6.0, 2, 1)
    bins = len(found["images"])
    left, width = np.arange(bins) / bins, 1 / bins
    filled = found["images"] > 0
    diagram.bar(left, found["accuracy"], width, align="edge", color=BLUE, edgecolor="white", label="accuracy")
    diagram.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1, label="perfectly calibrated")
    diagram.plot(
        found["confidence"][filled], found["accuracy"][filled], "o", color=ORANGE, markeredgecolor="black",
        markersize=5, label="mean confidence of a bin",
    )  # fmt: skip
    diagram.set(xlim=(0, 1), ylim=(0, 1.02), ylabel="accuracy", title=f"expected calibration error {error:.4f}")
    counts.bar(left, found["images"], width, align="edge", color=GREY, edgecolor="white")
    counts.set(xlim=(0, 1), xlabel="confidence", ylabel="images", yscale="log", ylim=(0.7, None))
    figure.legend(loc="outside lower center", ncols=3, fontsize=9)
    figure.suptitle(title)
    return figure


def filters(kernels: Array, title: str) -> Figure:
    """Learned kernels, all on one scale: dark is positive, light is negative.

    Args:
        kernels: (N, K, K), N ≥ 1; at most 64 are shown.
        title: above all.
    """
    shown = kernels[:64]
    side = kernels.shape[-1]
    columns = min(8, len(shown))
    rows = math.ceil(len(shown) / columns)
    sheet = np.full((rows * (side + 1) - 1, columns * (side + 1) - 1), np.nan)
    for index, kernel in enumerate(shown):
        top, left = (side + 1) * (index // columns), (side + 1) * (index % columns)
        sheet[top : top + side, left : left + side] = kernel
    limit = float(np.abs(shown).max()) or 1.0
    figure, (axes,) = _axes(max(0.8 * columns, 4.0) + 1.4, max(0.8 * rows, 1.6) + 0.8)
    picture = axes.imshow(sheet, cmap="gray_r", vmin=-limit, vmax=limit, interpolation="nearest")
    axes.set_axis_off()
    axes.set_title(title, fontsize=10)
    figure.colorbar(picture, ax=axes, shrink=0.8, label="weight")
    return figure


def activations(digits: Array, labels: Sequence[int], blocks: Sequence[Array], title: str, each: int = 5) -> Figure:
    """What each block makes of some images: a row for each image, its most active maps block by block.

    Args:
        digits: (N, 28, 28), 0 … 255.
        labels: N classes.
        blocks: for each block (N, filters, S, S); at least one.
        title: above all.
        each: the greatest number of maps of a block: those that vary most over all images.
    """
    chosen = [np.sort(np.argsort(-maps.std(axis=(0, 2, 3)), kind="stable")[:each]) for maps in blocks]
    widths = [1, *(len(indices) for indices in chosen)]
    size = 0.6
    columns, rows = sum(widths) + len(blocks), len(digits)
    sheet = np.ones((rows * 30, columns * 30, 3))
    figure, (axes,) = _axes(size * columns + 0.6, size * rows + 1.0)
    middles = [(15.0, "image")]
    for row, digit in enumerate(digits):
        _paste(sheet, row, 0, 255 - digit.astype(np.float64), 0, 255)
    column = 2
    for number, (maps, indices) in enumerate(zip(blocks, chosen, strict=True), start=1):
        for offset, index in enumerate(indices):
            low, high = float(maps[:, index].min()), float(maps[:, index].max())
            for row in range(rows):
                _paste(sheet, row, column + offset, high + low - maps[row, index], low, high)
        side, named = maps.shape[-1], "maps" if len(indices) > 1 else "map"
        said = f"block {number}: {len(indices)} of {maps.shape[1]} {named}, {side} × {side}"
        middles.append((30 * (column + len(indices) / 2), said.replace(": ", "\n")))
        column += len(indices) + 1
    axes.imshow(sheet, interpolation="nearest")
    axes.set(xticks=[x for x, _ in middles], yticks=[30 * row + 15 for row in range(rows)], title=title)
    axes.set_xticklabels([said for _, said in middles], fontsize=9)
    axes.set_yticklabels([str(label) for label in labels])
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return figure


def _paste(sheet: Array, row: int, column: int, picture: Array, low: float, high: float) -> None:
    """Put a square picture into a cell of 28 × 28 of the sheet, enlarged by repeating pixels, low as black."""
    side = picture.shape[-1]
    at = (np.arange(28) * side) // 28
    grey = ((picture[np.ix_(at, at)] - low) / ((high - low) or 1.0)).clip(0, 1)  # rounding may leave the range
    sheet[30 * row + 1 : 30 * row + 29, 30 * column + 1 : 30 * column + 29] = grey[..., None]


def heatmap(values: Array, rows: Sequence[str], columns: Sequence[str], title: str, labels: tuple[str, str]) -> Figure:
    """A table of shares, shaded.

    Args:
        values: (rows, columns), 0 … 1.
        rows, columns: their names.
        title: above the table.
        labels: of the horizontal and of the vertical axis.
    """
    longest = max(map(len, rows), default=0)
    figure, (axes,) = _axes(0.6 * len(columns) + 0.085 * longest + 1.4, 0.42 * len(rows) + 1.5)
    axes.imshow(values, cmap="Blues", vmin=0, vmax=max(float(values.max()), 1e-9), aspect="auto")
    for row, column in np.ndindex(values.shape):
        ink = "white" if values[row, column] > 0.6 * values.max() else "black"
        axes.text(column, row, f"{100 * values[row, column]:.0f}", ha="center", va="center", color=ink, fontsize=9)
    axes.set(xticks=range(len(columns)), yticks=range(len(rows)), title=title, xlabel=labels[0], ylabel=labels[1])
    axes.set_xticklabels(columns)
    axes.set_yticklabels(rows)
    axes.tick_params(length=0)
    return figure
