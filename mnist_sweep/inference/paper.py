"""Where on a picture a digit is: on a sheet of paper, on a page of other size, between the lines of a ruled one."""

from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage
from scipy.spatial import ConvexHull

from mnist_sweep.training.pictures import PictureError

Array = np.ndarray[Any, Any]

LONGEST = 560  #: the side that is worked with: 28 × 28 pixels can show no more of a larger picture
FAINTEST = 24.0  #: a difference between ink and paper below this (of 255) is noise
_COARSE = 280  # the side at which a sheet of paper is told from the desk below it


def reduced(grey: Array, side: int) -> Array:
    """A picture, (height, width) uint8, of which no side is longer than this."""
    picture = Image.fromarray(grey)
    picture.thumbnail((side, side), Image.Resampling.BOX)
    return np.asarray(picture)


def sheet(grey: Array) -> Array:
    """Only the sheet of paper of a picture that shows more than it, such as the desk; else the picture as it is.

    What is around it within the smallest part that holds it gets the brightness of the sheet's edge.
    """
    small = ndimage.gaussian_filter(reduced(grey, _COARSE).astype(np.float64), 1.0)
    if max(grey.shape) <= 60 or np.ptp(small) < 2 * FAINTEST:
        return grey
    bright, _ = ndimage.label(small > otsu(small))
    lit = bright == 1 + np.argmax(np.bincount(bright.ravel())[1:])
    corners, rectangle = _hull(lit)
    outline = Image.new("1", lit.shape[::-1])
    ImageDraw.Draw(outline).polygon([(float(x), float(y)) for y, x in corners], fill=1)
    hull = np.asarray(outline)
    # not in a picture whose paper fills it, nor of strokes on black; and light fades, where a sheet has an edge
    thin = 2 * ndimage.distance_transform_edt(lit).max() < 0.3 * min(rectangle)
    share, filled, covered = hull.mean(), hull.sum() / np.prod(rectangle), lit.sum() / hull.sum()
    if not 0.06 < share < 0.98 or filled < 0.84 or covered < 0.6 or thin or max(rectangle) > 2.5 * min(rectangle):
        return grey
    middle = ndimage.binary_erosion(hull, iterations=5)  # without the shadow of its edge
    if not (middle & lit).any():
        return grey
    inner, outer = ndimage.binary_erosion(hull, iterations=3), ndimage.binary_dilation(hull, iterations=3)
    around = ndimage.binary_dilation(outer, iterations=3) & ~outer
    rim = hull & ~inner
    rim[[0, 1, 2, -3, -2, -1]] = rim[:, [0, 1, 2, -3, -2, -1]] = False  # where the picture ends, not the sheet
    edge = np.median(small[inner & ndimage.binary_dilation(rim, iterations=4)])
    if not around.any() or edge - np.median(small[around]) < 2 * FAINTEST:
        return grey
    nearest = ndimage.distance_transform_edt(~(middle & lit), return_distances=False, return_indices=True)
    size = grey.shape[::-1]
    fill = np.asarray(Image.fromarray(small[tuple(nearest)].astype(np.uint8)).resize(size, Image.Resampling.BILINEAR))
    inside = np.asarray(Image.fromarray(middle).resize(size))
    rows, columns = extent(inside)
    return np.where(inside, grey, fill)[rows, columns]


def _hull(mask: Array) -> tuple[Array, tuple[float, float]]:
    """The corners (N, 2) of the convex hull of a mask, and the sides of the smallest rectangle around it."""
    points = np.argwhere(mask).astype(np.float64)
    if min(np.ptp(points, axis=0)) < 2:
        return points[[0, -1]], (1.0, float(len(points)))
    corners = points[ConvexHull(points).vertices]
    angles = np.deg2rad(np.arange(0, 90, 3))
    along = corners @ np.stack([np.cos(angles), np.sin(angles)])
    across = corners @ np.stack([-np.sin(angles), np.cos(angles)])
    sides = np.ptp(along, axis=0) + 1, np.ptp(across, axis=0) + 1
    best = int(np.argmin(sides[0] * sides[1]))
    return corners, (float(sides[0][best]), float(sides[1][best]))


def around_the_ink(grey: Array) -> Array:
    """The part of a page around what is drawn on it, where that is small; else the whole picture.

    What is as long as half of the page, such as its lines, is not looked at.
    """
    side = max(grey.shape)
    if side <= LONGEST:
        return grey
    smooth = ndimage.gaussian_filter(grey.astype(np.float32), side / 1500)
    coarse = ndimage.median_filter(np.asarray(reduced(grey, 70)), 9, mode="nearest")
    paper = Image.fromarray(coarse).resize(grey.shape[::-1], Image.Resampling.BILINEAR)
    level = np.abs(smooth - np.asarray(paper, dtype=np.float32))
    spread = float(np.median(level))
    labels, _ = ndimage.label(level > max(FAINTEST, 6 * spread), structure=np.ones((3, 3)))
    boxes = ndimage.find_objects(labels)
    sizes = [max(part.stop - part.start for part in box) for box in boxes]
    largest = max((size for size in sizes if size < side / 2), default=0)
    shown = [box for box, size in zip(boxes, sizes, strict=True) if 0.4 * largest <= size < side / 2]
    if not shown:
        return grey
    low = [min(box[axis].start for box in shown) for axis in (0, 1)]
    high = [max(box[axis].stop for box in shown) for axis in (0, 1)]
    longest = max(high[0] - low[0], high[1] - low[1])
    if longest > side / 5:
        return grey
    rows, columns = (slice(max(0, low[axis] - longest), high[axis] + longest) for axis in (0, 1))
    return grey[rows, columns]


def without_lines(level: Array, threshold: float) -> Array:
    """What is drawn, without lines from edge to edge, as on ruled paper; `level` is how much ink a pixel has.

    A PictureError says that they are as dark as the ink, and run through it.
    """
    drawn, nearly = level > threshold, level > 0.5 * threshold  # a faint line is drawn in pieces, and nearly as a whole
    lines = _lines(nearly) | _lines(nearly.T).T
    if not lines.any():
        return np.asarray(drawn)
    faint, rest = float(np.percentile(level[lines], 75)), drawn & ~lines
    ink = float(np.percentile(level[rest], 90)) if rest.any() else 0.0
    if ink > 1.5 * faint:  # far below the ink, whose thinnest strokes are faint, too
        return np.asarray(level > max(threshold, min(1.5 * faint, (faint * ink) ** 0.5)))
    if not rest.any():
        raise PictureError("nothing is drawn on it but lines")
    labels, _ = ndimage.label(rest, structure=np.ones((3, 3)))
    if (labels[ndimage.binary_dilation(lines, iterations=2)]).any():
        raise PictureError("lines as dark as the ink run through it; allowed: a digit on plain or fainter ruled paper")
    return np.asarray(rest)


def _lines(drawn: Array) -> Array:
    """The pixels of straight lines from the left edge to the right one, at most as steep as 1 : 7."""
    height, width = drawn.shape
    y, x = np.nonzero(drawn)
    found = np.zeros_like(drawn)
    for slope in np.linspace(-0.14, 0.14, 29):
        rows = np.rint(y - slope * x).astype(int)
        low = int(rows.min(initial=0))
        full = np.bincount(rows - low, minlength=1) > 0.85 * width
        for row in np.flatnonzero(full) + low:
            middle = row + slope * width / 2
            if 0.04 * height < middle < 0.96 * height:  # a 7 that fills the picture has its bar at the top
                near = np.abs(rows - row) <= 2
                found[y[near], x[near]] = True
    return found


def extent(values: Array) -> tuple[slice, slice]:
    """Rows and columns of the smallest part that holds all values but 0; there is one."""
    rows, columns = np.flatnonzero(values.any(axis=1)), np.flatnonzero(values.any(axis=0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def otsu(values: Array) -> float:
    """The threshold that parts two classes best (N. Otsu, IEEE Trans. Systems, Man, and Cybernetics 9, 1979)."""
    counts, edges = np.histogram(values, bins=128)
    middles = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    above = below[-1] - below
    sums = np.cumsum(counts * middles)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    return float(edges[1 + int(np.nanargmax(between[:-1]))])
