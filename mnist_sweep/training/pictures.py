"""Picture files as arrays. Without torch."""

import contextlib
import functools
import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from mnist_sweep.errors import one_line

Array = np.ndarray[Any, Any]

MOST_PIXELS = 100_000_000  # more than any camera's: a few bytes can claim to be a picture that fills the memory
_GREY = ("1", "L", "LA", "La", "I", "F")


class PictureError(ValueError):
    """The file is no picture that can be used; the text says why, in one line."""


def content_of(path: Path) -> bytes:
    """The bytes of a file; PictureError where it cannot be read."""
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise PictureError("no such file") from error
    except OSError as error:
        raise PictureError(f"cannot be read ({error.strerror})") from error


@contextlib.contextmanager
def _faults() -> Any:
    """Within, whatever Pillow raises is a PictureError: struct.error, IndexError, TypeError, …"""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its size, which is checked here
            yield
    except PictureError:
        raise
    except UnidentifiedImageError as error:
        raise PictureError("not a picture that Pillow reads by itself, whatever its name says") from error
    except Exception as error:
        raise PictureError(f"damaged or cut ({one_line(error, 80)})") from error


@functools.cache
def _formats() -> list[str]:
    """The formats that Pillow decodes by itself.

    For an EPS file it would start Ghostscript, a program with a language of its own, whatever the file is called; and
    an IPTC file may hold one.
    """
    Image.init()
    return [name for name in Image.ID if name not in ("EPS", "IPTC")]


def check_single(picture: Image.Image) -> None:
    """Raise a PictureError where there are too many pixels, or several pictures."""
    width, height = picture.size
    if width * height > MOST_PIXELS:
        raise PictureError(f"{width:,} × {height:,} pixels; allowed: at most {MOST_PIXELS:,} in all")
    frames = getattr(picture, "n_frames", 1)
    if frames > 1 and picture.format != "MPO":  # which telephones write, with a small second picture
        raise PictureError(f"an animation of {frames} pictures; allowed: a single picture")


def opened(content: bytes) -> Image.Image:
    """A picture whose pixels are not decoded yet; PictureError where it cannot be one image of a set.

    That is an empty file, none that Pillow reads, an animation, one in colours for print, or one too large.
    """
    if not content:
        raise PictureError("the file is empty")
    with _faults():
        picture = Image.open(io.BytesIO(content), formats=_formats())
        check_single(picture)
        if picture.mode not in ("RGB", "RGBA", "RGBa", "P", "PA", *_GREY) and not picture.mode.startswith("I;"):
            raise PictureError(f"its colours are {picture.mode}; allowed: grey or RGB, with transparency or without")
        return picture


def is_grey(picture: Image.Image) -> bool:
    """Whether a picture has no colours."""
    return picture.mode in _GREY or picture.mode.startswith("I;")


def size_of(picture: Image.Image) -> tuple[int, int]:
    """Height and width, turned as its EXIF says."""
    width, height = picture.size
    turned = False
    with contextlib.suppress(Exception):  # odd EXIF raises anything
        turned = picture.getexif().get(0x0112, 1) in (5, 6, 7, 8)
    return (width, height) if turned else (height, width)


def pixels(picture: Image.Image, channels: int, size: Sequence[int]) -> Array:
    """An `opened` picture as (channels, height, width) uint8, brought to this height and width if it has another.

    What is transparent is white. PictureError where it is damaged.
    """
    with _faults():
        picture.load()
        with contextlib.suppress(Exception):  # odd EXIF raises anything, once the picture has been turned
            ImageOps.exif_transpose(picture, in_place=True)
        plain = to_grey(picture) if channels == 1 else _opaque(picture).convert("RGB")
        height, width = size
        if plain.size != (width, height):
            plain = plain.resize((width, height), Image.Resampling.BILINEAR)  # over all pixels where it shrinks
        values = np.asarray(plain)
        return values[None] if channels == 1 else values.transpose(2, 0, 1)


def read(path: Path, channels: int, size: Sequence[int]) -> Array:
    """A picture file as an image set has it, see `pixels`; PictureError where it cannot be."""
    return pixels(opened(content_of(path)), channels, size)


def _opaque(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith(("I", "F")):  # 16 bits a pixel, in which some programs store 8
        values = np.asarray(picture, dtype=np.float64)
        top = 65535.0 if values.max() > 255 else 255.0
        return Image.fromarray((values / top * 255).clip(0, 255).astype(np.uint8))
    if "A" in picture.getbands() or "transparency" in picture.info:
        return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture.convert("RGBA"))
    return picture


def to_grey(picture: Image.Image) -> Image.Image:
    """Grey, 8 bits; transparency over white."""
    return _opaque(picture).convert("L")
