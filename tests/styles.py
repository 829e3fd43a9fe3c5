"""Test digits as the pictures that a user may have: four styles of the same digit."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Array = np.ndarray[Any, Any]


def original(digit: Array, _: np.random.Generator) -> Array:
    """As it is: white on black, 28 × 28."""
    return digit


def inverted(digit: Array, _: np.random.Generator) -> Array:
    """Black on white."""
    return 255 - digit


def enlarged(digit: Array, draw: np.random.Generator) -> Array:
    """Dark grey on light grey, 300 × 400, the digit somewhere on it, in the width as large as in the height or not."""
    height = int(draw.integers(120, 240))
    size = int(height * draw.uniform(0.85, 1.15)), height
    big = np.asarray(Image.fromarray(digit).resize(size, Image.Resampling.BICUBIC), dtype=np.float64) / 255
    sheet = np.full((300, 400), 225.0)
    top, left = int(draw.integers(0, 300 - size[1] + 1)), int(draw.integers(0, 400 - size[0] + 1))
    sheet[top : top + size[1], left : left + size[0]] -= 180 * big
    return sheet.astype(np.uint8)


def noisy(digit: Array, draw: np.random.Generator) -> Array:
    """A JPEG of low quality of a larger picture, with noise, uneven light and soft edges."""
    scale = int(draw.integers(3, 8))
    side = 28 * scale
    big = np.asarray(Image.fromarray(digit).resize((side, side), Image.Resampling.BILINEAR), dtype=np.float64) / 255
    light = 170 + 50 * np.linspace(0, 1, side)[None, :] * draw.uniform(0, 1) + 20 * np.linspace(0, 1, side)[:, None]
    sheet = light - 120 * big + draw.normal(0, 12, (side, side))
    file = io.BytesIO()
    Image.fromarray(sheet.clip(0, 255).astype(np.uint8)).save(file, format="JPEG", quality=40)
    return np.asarray(Image.open(file))


def small_noisy(digit: Array, draw: np.random.Generator) -> Array:
    """The 28 × 28 pixels themselves with noise."""
    return (digit + draw.normal(0, 20, digit.shape)).clip(0, 255).astype(np.uint8)


STYLES: dict[str, tuple[Callable[[Array, np.random.Generator], Array], str]] = {
    "original": (original, "png"),
    "inverted": (inverted, "png"),
    "enlarged": (enlarged, "png"),
    "noisy": (noisy, "jpg"),
    "small_noisy": (small_noisy, "jpg"),
}


def write(folder: Path, style: str, digits: Array) -> list[Path]:
    """Write digits (N, 28, 28) uint8 in a style; the files in the same order."""
    make, suffix = STYLES[style]
    draw = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, digit in enumerate(digits):
        paths.append(folder / f"{number:04d}.{suffix}")
        Image.fromarray(make(digit, draw)).save(paths[-1])
    return paths
