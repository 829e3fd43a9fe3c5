"""Plain arrays → figures. Without pyplot, which keeps every figure alive."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure


def confusion_matrix(confusion: np.ndarray[Any, Any], title: str) -> Figure:
    """Counts as a table, shaded by the share of each true class on a logarithmic scale, so that rare mistakes show.

    Args:
        confusion: (classes, classes) counts, a row for each true class, a column for each predicted one.
        title: above the table.
    """
    classes = len(confusion)
    share = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    shade = np.log10(np.maximum(share, 1e-4)) + 4  # 0 for a ten-thousandth and less, 4 for all
    figure = Figure(figsize=(6.4, 6.0), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(shade, cmap="Blues", vmin=0, vmax=4)
    for row in range(classes):
        for column in range(classes):
            if count := int(confusion[row, column]):
                ink = "white" if shade[row, column] > 2.6 else "black"
                axes.text(column, row, str(count), ha="center", va="center", color=ink, fontsize=9)
    axes.set(xticks=range(classes), yticks=range(classes), xlabel="predicted", ylabel="true", title=title)
    axes.tick_params(length=0)
    return figure
