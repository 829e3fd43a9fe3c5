"""A picture of a digit, photographed or drawn → MNIST's own form.

That is the digit scaled, its proportions kept, into a box of 20 × 20 pixels, and placed in 28 × 28 with its centre of
mass at the centre (LeCun, Cortes, Burges: The MNIST database of handwritten digits, http://yann.lecun.com/exdb/mnist/).
"""

import contextlib
import io
import itertools
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from scipy import ndimage

from mnist_sweep.errors import one_line
from mnist_sweep.inference import paper
from mnist_sweep.inference.paper import FAINTEST, LONGEST, extent, otsu, reduced
from mnist_sweep.training.pictures import PictureError as PictureError
from mnist_sweep.training.pictures import check_single

Array = np.ndarray[Any, Any]

IMAGE_SIZE = 28  #: the side of MNIST's images
SUFFIXES = (".png", ".jpg", ".jpeg")
BOX = 20  #: the side of the box that a digit is scaled into
_FINEST = 2240  # the side at which a small digit is looked for on a page
_FULL = 1.2  # of the darkest place: the ink of MNIST is white over the whole width of a stroke
_SPECK = 0.08  # parts of the ink smaller than this share of the largest are specks
#: What no digit of MNIST comes near: the radius of its thickest place by its longer side; its width by its height.
_THICKEST, _WIDEST = 0.36, 2.1


def read(path: Path) -> Array:
    """The grey values of a PNG or JPEG file; see `decode` for what it returns and raises."""
    try:
        return decode(path.read_bytes())
    except FileNotFoundError as error:
        raise PictureError("no such file") from error
    except OSError as error:
        raise PictureError(f"cannot be read ({error.strerror})") from error


def decode(content: bytes) -> Array:
    """The grey values, (height, width) uint8, of a PNG or JPEG; 0 is black, and what is transparent is white.

    A PictureError says that it is empty, no PNG or JPEG, cut, an animation, or too large.
    """
    if not content:
        raise PictureError("the file is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its size, which is checked here
            with Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as picture:
                _load(picture)
                return np.asarray(to_grey(picture))
    except PictureError:
        raise
    except UnidentifiedImageError as error:
        raise PictureError("not a PNG or JPEG picture, whatever its name says") from error
    except Exception as error:  # Pillow's decoders raise anything: struct.error, IndexError, TypeError, …
        raise PictureError(f"damaged or cut ({one_line(error, 80)})") from error


def _load(picture: Image.Image) -> None:
    """Read the pixels of a picture that has been opened; it raises as `check_single` does."""
    check_single(picture)
    picture.draft("L", (_FINEST, _FINEST))
    picture.load()
    with contextlib.suppress(Exception):  # odd EXIF raises anything, once the picture has been turned
        ImageOps.exif_transpose(picture, in_place=True)


def to_grey(picture: Image.Image) -> Image.Image:
    """Grey, 8 bits; transparency over white, unless the colour says nothing: then what is opaque is ink."""
    if picture.mode.startswith(("I", "F")):  # 16 bits a pixel, in which cameras and scanners store 8, 10, 12 or all
        values = np.asarray(picture, dtype=np.float64)
        bits = max(8, int(values.max()).bit_length())
        return Image.fromarray((values / (2.0**bits - 1) * 255).clip(0, 255).astype(np.uint8))
    if "A" in picture.getbands() or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        alpha, grey = np.asarray(picture.getchannel("A")), np.asarray(picture.convert("L"))
        opaque = grey[alpha > 128]
        if opaque.size and alpha.min() < 128 and np.ptp(np.percentile(opaque, (1, 99))) < FAINTEST:
            return Image.fromarray(255 - alpha)
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture.convert("L")


def as_it_is(grey: Array, size: tuple[int, int] = (IMAGE_SIZE, IMAGE_SIZE)) -> Array:
    """The same picture, for a network of another data set; a PictureError where it has not this height and width."""
    if grey.shape != size:
        is_, own = f"{grey.shape[1]} × {grey.shape[0]} pixels", f"{size[1]} × {size[0]}, as in its data set"
        raise PictureError(f"{is_}; allowed for a network that was not trained on MNIST's digits: {own}")
    return grey


def tight(grey: Array, size: tuple[int, int]) -> Array:
    """A picture of one digit as sets without a margin have it, (height, width) uint8; raises as `normalised` does."""
    margin = (IMAGE_SIZE - BOX) // 2
    box = Image.fromarray(normalised(grey)[margin : margin + BOX, margin : margin + BOX])
    return np.asarray(box.resize(size[::-1], Image.Resampling.BOX))


def normalised(grey: Array) -> Array:
    """A picture of one digit, (height, width) uint8, dark on light or light on dark → (28, 28) uint8, white on black.

    A sheet of paper is told from a dark desk or frame around it, and a digit may be a small part of a page.

    A PictureError says that nothing is drawn on it, or more than one digit, or what can be no digit.
    """
    for values in (grey, 255 - grey):
        if _is_normal(values):
            return values
    part = paper.around_the_ink(paper.sheet(reduced(grey, _FINEST)))
    digit = _cropped(_ink(reduced(part, LONGEST).astype(np.float64)))
    height, width = digit.shape
    scale = BOX / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    resample = Image.Resampling.BOX if scale < 1 else Image.Resampling.BICUBIC
    small = np.asarray(Image.fromarray(digit.astype(np.float32)).resize(size, resample)).clip(0, 1)
    return (255 * _centred((_FULL * small / max(float(small.max()), 1e-6)).clip(0, 1))).round().astype(np.uint8)


def _is_normal(values: Array) -> bool:
    """Whether a picture is in MNIST's form already: 28 × 28, black around a box of 20, its mass at the centre."""
    if values.shape != (IMAGE_SIZE, IMAGE_SIZE) or values.max() < 128 or values[0].any() or values[:, 0].any():
        return False
    centre = np.array(ndimage.center_of_mass(values.astype(np.float64)))
    return max(_cropped(values).shape) <= BOX and bool(np.abs(centre - (IMAGE_SIZE - 1) / 2).max() <= 1.0)


def _cropped(values: Array) -> Array:
    return values[extent(values)]


def _ink(grey: Array) -> Array:
    """How much ink each pixel has, 0 … 1: without the paper, its shadows, noise and specks; there is some."""
    side = max(grey.shape)
    large = side > 60
    smooth = ndimage.gaussian_filter(grey, side / 250) if large else grey
    # light moves slowly over a page: a plane through its border takes most of a photograph's shadow away
    level = smooth - (_plane(smooth) if large else np.median(_border(smooth)))
    spread = float(np.median(np.abs(_border(level))))
    high, low = float(np.percentile(level, 99.9)), float(np.percentile(level, 0.1))
    level = level if high > -low else -level  # what differs most from the paper is ink, dark or light
    top = float(np.percentile(level, 99.9)) if large else float(level.max())
    if top < max(FAINTEST, 6 * spread):
        raise PictureError("nothing is drawn on it: all of it has one brightness")
    threshold = max(otsu(level.clip(0, None)), 4 * spread, 0.12 * top)
    drawn = paper.without_lines(level, threshold) if large else level > 0.5 * threshold
    labels, count = ndimage.label(drawn, structure=np.ones((3, 3)))
    if not count:
        raise PictureError("nothing is drawn on it")
    weights = ndimage.sum_labels(level.clip(0, None), labels, np.arange(1, count + 1))
    chosen = np.flatnonzero(weights >= _SPECK * weights.max())
    kept = np.isin(labels, 1 + chosen)
    boxes = ndimage.find_objects(labels)
    _check([boxes[index] for index in chosen], kept)
    around = ndimage.binary_dilation(kept, iterations=max(1, side // 200))  # the soft edge of a stroke is ink, too
    full = max(float(np.percentile(level[kept], 90)), 1e-6)
    soft = (level / full).clip(0, 1)
    return np.where(around & (soft > 0.25 * threshold / full), soft, 0.0)


def _check(boxes: Sequence[tuple[slice, slice]], drawn: Array) -> None:
    """Raise a PictureError unless what is drawn, its parts in these boxes, can be one digit."""
    rows, columns = extent(drawn)
    height, width = rows.stop - rows.start, columns.stop - columns.start
    for one, other in itertools.combinations(boxes, 2):
        low, narrow = (min(one[axis].stop - one[axis].start, other[axis].stop - other[axis].start) for axis in (0, 1))
        down, beside = (
            max(one[axis].start, other[axis].start) - min(one[axis].stop, other[axis].stop) for axis in (0, 1)
        )
        # the strokes of a 5, or of a broken digit, are near each other, or not both tall
        if (beside > -0.1 * narrow and low > 0.5 * height) or (down > 0.1 * height and low > 0.33 * height):
            raise PictureError("two shapes are drawn on it; allowed: a single digit")
        if max(beside, down) > 0.25 * max(height, width):
            raise PictureError("two shapes are drawn on it; allowed: a single digit")
    if width > _WIDEST * height:
        raise PictureError(f"what is drawn is {width / height:.1f} times as wide as high; allowed: a single digit")
    shape = drawn[rows, columns]
    # to the next pixel's centre, which is half a pixel beyond the edge
    radius = (ndimage.distance_transform_edt(np.pad(shape, 1)).max() - 0.5) / max(height, width)
    if radius > _THICKEST or (shape.mean() > 0.8 and radius > 0.22):
        raise PictureError("what is drawn is a blob rather than strokes; allowed: a single digit")


def _border(values: Array) -> Array:
    """The pixels of the four edges, in a row."""
    return np.concatenate([values[0], values[-1], values[:, 0], values[:, -1]])


def _plane(values: Array) -> Array:
    """The plane, by least squares, through the border of a picture, a thirtieth of its side wide."""
    wide = max(1, min(values.shape) // 30)
    edge = np.ones(values.shape, dtype=bool)
    edge[wide:-wide, wide:-wide] = False
    y, x = np.indices(values.shape)
    basis = np.stack([np.ones(values.shape), x, y], axis=-1)
    plane, *_ = np.linalg.lstsq(basis[edge], values[edge], rcond=None)
    return np.asarray(basis @ plane)


def _centred(values: Array) -> Array:
    """A picture of at most 20 × 20, 0 … 1, in 28 × 28, its centre of mass at the centre."""
    sheet = np.zeros((IMAGE_SIZE, IMAGE_SIZE))
    room = IMAGE_SIZE - np.array(values.shape)
    corner = (IMAGE_SIZE - 1) / 2 - np.array(ndimage.center_of_mass(values))
    top, left = corner.round().astype(int).clip(0, room)
    sheet[top : top + values.shape[0], left : left + values.shape[1]] = values
    return sheet
