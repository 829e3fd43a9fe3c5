"""A picture of a digit, photographed or drawn → MNIST's own form.

MNIST's images were made so: the digit scaled, its proportions kept, into a box of 20 × 20 pixels, grey from the
anti-aliasing, and placed in 28 × 28 so that its centre of mass is at the centre (LeCun, Cortes, Burges: The MNIST
database of handwritten digits, http://yann.lecun.com/exdb/mnist/).
"""

import contextlib
import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from scipy import ndimage

from mnist_sweep.config.network_shapes import IMAGE_SIZE

Array = np.ndarray[Any, Any]

#: The side of the box that a digit is scaled into.
BOX = 20
#: More pixels than any camera's: a few bytes can claim to be a picture that fills the memory.
MOST_PIXELS = 100_000_000
#: Larger pictures are shrunk first; there is nothing to see in them that 28 × 28 pixels could show.
_WORKING_SIZE = 560
#: Parts of the ink smaller than this share of the largest are specks.
_SPECK = 0.08
#: A difference between ink and paper below this (of 255) is noise.
_FAINTEST = 24.0
SUFFIXES = (".png", ".jpg", ".jpeg")


class PictureError(ValueError):
    """The file is no picture of a digit; the text says why, in one line, without its name."""


def read(path: Path) -> Array:
    """A picture as grey values, as large as it is.

    Args:
        path: of a PNG or JPEG file.

    Returns:
        (height, width) uint8, 0 is black; what is transparent is white.

    Raises:
        PictureError: no file, empty, not a PNG or JPEG, cut, an animation, or too large.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise PictureError("no such file") from error
    except OSError as error:
        raise PictureError(f"cannot be read ({error.strerror})") from error
    if not content:
        raise PictureError("the file is empty")
    return decode(content)


def decode(content: bytes) -> Array:
    """A picture in memory as grey values; see `read`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its size, which is checked here
        try:
            with Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as picture:
                width, height = picture.size
                if width * height > MOST_PIXELS:
                    raise PictureError(f"{width:,} × {height:,} pixels; allowed: at most {MOST_PIXELS:,} in all")
                frames = getattr(picture, "n_frames", 1)
                if frames > 1 and picture.format != "MPO":  # which telephones write, with a small second picture
                    raise PictureError(f"an animation of {frames} pictures; allowed: a single picture")
                picture.draft("L", (2 * _WORKING_SIZE, 2 * _WORKING_SIZE))
                picture.load()
                with contextlib.suppress(Exception):  # odd EXIF raises anything, once the picture has been turned
                    ImageOps.exif_transpose(picture, in_place=True)
                return np.asarray(to_grey(picture))
        except UnidentifiedImageError as error:
            raise PictureError("not a PNG or JPEG picture, whatever its name says") from error
        except Image.DecompressionBombError as error:
            raise PictureError(f"too many pixels; allowed: at most {MOST_PIXELS:,} in all") from error
        except PictureError:
            raise
        except Exception as error:  # Pillow's decoders raise anything: struct.error, IndexError, TypeError, …
            said = " ".join(str(error).split())[:80] or type(error).__name__
            raise PictureError(f"damaged or cut ({said})") from error


def to_grey(picture: Image.Image) -> Image.Image:
    """Grey, 8 bits; transparency over white."""
    if picture.mode.startswith(("I", "F")):  # 16 bits a pixel, in which some programs store 8
        values = np.asarray(picture, dtype=np.float64)
        top = 65535.0 if values.max() > 255 else 255.0
        return Image.fromarray((values / top * 255).clip(0, 255).astype(np.uint8))
    if "A" in picture.getbands() or "transparency" in picture.info:
        seen = picture.convert("RGBA")
        paper = Image.new("RGBA", seen.size, "white")
        picture = Image.alpha_composite(paper, seen)
    return picture.convert("L")


def as_it_is(grey: Array) -> Array:
    """A picture that has a data set's own form, which is not known for others than MNIST's.

    Args:
        grey: (28, 28) uint8, light on black.

    Raises:
        PictureError: it has another size.
    """
    if grey.shape != (IMAGE_SIZE, IMAGE_SIZE):
        height, width = grey.shape
        raise PictureError(
            f"{width} × {height} pixels; allowed for a network that was not trained on MNIST's digits: "
            f"{IMAGE_SIZE} × {IMAGE_SIZE}, as in its data set"
        )
    return grey


def normalised(grey: Array) -> Array:
    """Bring a picture of one digit to MNIST's form.

    Args:
        grey: (height, width) uint8, dark on light or light on dark.

    Returns:
        (28, 28) uint8, white on black.

    Raises:
        PictureError: nothing is drawn on it.
    """
    if grey.size == 0:
        raise PictureError("the picture has no pixels")
    if grey.shape == (IMAGE_SIZE, IMAGE_SIZE):
        for values in (grey, 255 - grey):
            if _is_normal(values):
                return values
    ink = _ink(_shrunk(grey))
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    digit = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    height, width = digit.shape
    scale = BOX / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = Image.fromarray(digit.astype(np.float32)).resize(
        size, Image.Resampling.BOX if scale < 1 else Image.Resampling.BICUBIC
    )
    values = np.asarray(small).clip(0, 1)
    values = values / max(float(values.max()), 1e-6)
    return (255 * _centred(values)).round().astype(np.uint8)


def _is_normal(values: Array) -> bool:
    """Whether a 28 × 28 picture is in MNIST's form already: black around a box of 20, its mass at the centre."""
    ink = values > 0
    if values.max() < 128 or not ink.any():
        return False
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    if max(np.ptp(rows), np.ptp(columns)) + 1 > BOX or min(rows[0], columns[0]) < 1:
        return False
    centre = np.array(ndimage.center_of_mass(values.astype(np.float64)))
    return bool(np.abs(centre - (IMAGE_SIZE - 1) / 2).max() <= 1.0)


def _shrunk(grey: Array) -> Array:
    """At most `_WORKING_SIZE` pixels a side, as float."""
    longest = max(grey.shape)
    if longest <= _WORKING_SIZE:
        return grey.astype(np.float64)
    size = tuple(max(1, round(side * _WORKING_SIZE / longest)) for side in reversed(grey.shape))
    return np.asarray(Image.fromarray(grey).resize(size, Image.Resampling.BOX), dtype=np.float64)


def _ink(grey: Array) -> Array:
    """How much ink each pixel has, 0 … 1: without the paper, its shadows, noise and specks.

    Raises:
        PictureError: there is none.
    """
    side = max(grey.shape)
    smooth = ndimage.gaussian_filter(grey, side / 250) if side > 60 else grey
    border = np.concatenate([smooth[0], smooth[-1], smooth[:, 0], smooth[:, -1]])
    paper = float(np.median(border))
    # light moves slowly over a page: a plane through its border takes most of a photograph's shadow away
    level = smooth - _plane(smooth) if side > 60 else smooth - paper
    spread = float(np.median(np.abs(np.concatenate([level[0], level[-1], level[:, 0], level[:, -1]]))))
    high, low = float(np.percentile(level, 99.9)), float(np.percentile(level, 0.1))
    level = level if high > -low else -level  # what differs most from the paper is ink, dark or light
    top = float(np.percentile(level, 99.9)) if side > 60 else float(level.max())
    if top < max(_FAINTEST, 6 * spread):
        raise PictureError("nothing is drawn on it: all of it has one brightness")
    threshold = max(_otsu(level.clip(0, None)), 4 * spread, 0.12 * top)
    mask = level > (0.5 * threshold if side <= 60 else threshold)
    labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
    if not count:
        raise PictureError("nothing is drawn on it")
    weights = ndimage.sum_labels(level.clip(0, None), labels, np.arange(1, count + 1))
    kept = np.isin(labels, 1 + np.flatnonzero(weights >= _SPECK * weights.max()))
    around = ndimage.binary_dilation(kept, iterations=max(1, side // 200))  # the soft edge of a stroke is ink, too
    full = max(float(np.percentile(level[kept], 90)), 1e-6)
    soft = (level / full).clip(0, 1)
    return np.where(around & (soft > 0.25 * threshold / full), soft, 0.0)


def _plane(values: Array) -> Array:
    """The plane, by least squares, through the border of a picture."""
    height, width = values.shape
    y, x = np.mgrid[0:height, 0:width]
    edge = np.zeros(values.shape, dtype=bool)
    wide = max(1, min(height, width) // 30)
    edge[:wide] = edge[-wide:] = edge[:, :wide] = edge[:, -wide:] = True
    basis = np.stack([np.ones(int(edge.sum())), x[edge], y[edge]], axis=1)
    found, *_ = np.linalg.lstsq(basis, values[edge], rcond=None)
    return np.asarray(found[0] + found[1] * x + found[2] * y)


def _otsu(values: Array) -> float:
    """The threshold that parts two classes best (N. Otsu, IEEE Trans. Systems, Man, and Cybernetics 9, 1979)."""
    counts, edges = np.histogram(values, bins=128)
    middles = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    above = below[-1] - below
    sums = np.cumsum(counts * middles)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    return float(edges[1 + int(np.nanargmax(between[:-1]))])


def _centred(values: Array) -> Array:
    """A picture of at most 20 × 20, 0 … 1, in 28 × 28, its centre of mass at the centre."""
    sheet = np.zeros((IMAGE_SIZE, IMAGE_SIZE))
    height, width = values.shape
    centre = ndimage.center_of_mass(values)
    top = round((IMAGE_SIZE - 1) / 2 - centre[0])
    left = round((IMAGE_SIZE - 1) / 2 - centre[1])
    top = min(max(top, 0), IMAGE_SIZE - height)
    left = min(max(left, 0), IMAGE_SIZE - width)
    sheet[top : top + height, left : left + width] = values
    return sheet
