"""Test digits as the pictures that a user may have: the same digit in many styles."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

Array = np.ndarray[Any, Any]
Make = Callable[[Array, np.random.Generator], Array | Image.Image]


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


def _large(digit: Array, height: int) -> Array:
    """How much ink each pixel has, 0 … 1, of a digit so many pixels high, (height, height)."""
    big = Image.fromarray(digit).resize((height, height), Image.Resampling.BICUBIC)
    return np.asarray(big, dtype=np.float64) / 255


def _put(sheet: Array, digit: Array, height: int, draw: np.random.Generator, ink: float = 40.0) -> Array:
    """A sheet, (H, W) float, with a digit somewhere on it, a tenth of its sides from its edges."""
    big, (rows, columns) = _large(digit, height), sheet.shape
    top = int(draw.integers(rows // 10, rows - height - rows // 10 + 1))
    left = int(draw.integers(columns // 10, columns - height - columns // 10 + 1))
    part = sheet[top : top + height, left : left + height]
    sheet[top : top + height, left : left + height] = part + big * (np.minimum(part, ink) - part)
    return sheet


def _photo(values: Array, draw: np.random.Generator, noise: float = 4.0) -> Array:
    """With a camera's noise and softness."""
    soft = np.asarray(Image.fromarray(values.clip(0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(0.8)))
    return (soft + draw.normal(0, noise, values.shape)).clip(0, 255).astype(np.uint8)


def white_on_transparent(digit: Array, _: np.random.Generator) -> Image.Image:
    """White ink on transparent paper, as a canvas saves it."""
    alpha = Image.fromarray(digit).resize((280, 280), Image.Resampling.BICUBIC)
    picture = Image.new("RGBA", (280, 280), "white")
    picture.putalpha(alpha)
    return picture


def grey_on_transparent(digit: Array, draw: np.random.Generator) -> Image.Image:
    """Light or dark grey ink on transparent paper, grey and alpha (LA)."""
    alpha = Image.fromarray(digit).resize((200, 200), Image.Resampling.BICUBIC)
    return Image.merge("LA", (Image.new("L", (200, 200), int(draw.integers(0, 256))), alpha))


def palette(digit: Array, _: np.random.Generator) -> Image.Image:
    """A palette of two colours, one of them transparent; the ink is white."""
    picture = Image.fromarray((_large(digit, 140) > 0.3).astype(np.uint8), "P")
    picture.putpalette([255] * 6)
    picture.info["transparency"] = 0
    return picture


def two_digits(digit: Array, draw: np.random.Generator) -> Array:
    """Two digits beside each other, which no single answer is right for."""
    gap = np.zeros((28, int(draw.integers(2, 6))), np.uint8)
    ink = digit[:, (digit > 64).any(axis=0)]
    pair = np.concatenate([gap, ink, gap, np.rot90(ink, 2), gap], axis=1)
    return 255 - np.asarray(Image.fromarray(pair).resize((pair.shape[1] * 8, 28 * 8), Image.Resampling.BICUBIC))


def on_a_desk(digit: Array, draw: np.random.Generator) -> Array:
    """A sheet of paper, turned a little, on a dark desk."""
    paper = _put(np.full((420, 320), draw.uniform(190, 240)), digit, int(draw.integers(130, 220)), draw)
    desk = Image.new("L", (560, 560), int(draw.integers(20, 90)))
    mask = Image.new("L", (320, 420), 255).rotate(angle := draw.uniform(-12, 12), expand=True)
    turned = Image.fromarray(paper.astype(np.uint8)).rotate(angle, Image.Resampling.BICUBIC, expand=True)
    desk.paste(turned, (int(draw.integers(0, 560 - mask.width)), int(draw.integers(0, 560 - mask.height))), mask)
    light = 0.85 + 0.15 * np.linspace(0, 1, 560)[None, :]
    return _photo(np.asarray(desk) * light, draw)


def on_a_page(digit: Array, draw: np.random.Generator) -> Array:
    """A digit 40 pixels high on a page of 1700 × 2200; that is, 40 with the margin that MNIST has, and 57 in all."""
    return _photo(_put(np.full((2200, 1700), 245.0), digit, 57, draw), draw, 2.0)


def ruled(digit: Array, draw: np.random.Generator) -> Array:
    """On ruled paper, whose lines are fainter than the ink, or as dark."""
    sheet = np.full((500, 400), 240.0)
    step = int(draw.integers(40, 90))
    sheet[step // 2 :: step] = sheet[step // 2 + 1 :: step] = draw.uniform(50, 205)
    whole = Image.fromarray(_put(sheet, digit, int(draw.integers(150, 300)), draw).astype(np.uint8))
    turned = whole.rotate(draw.uniform(-2, 2), Image.Resampling.BICUBIC, fillcolor=240)
    return _photo(np.asarray(turned)[15:-15, 15:-15].astype(np.float64), draw)


def framed(digit: Array, draw: np.random.Generator) -> Array:
    """A scan with a black frame, on all sides or on some."""
    sheet = _put(np.full((500, 400), 235.0), digit, int(draw.integers(120, 300)), draw)
    wide = draw.integers(4, 40, 4) * (draw.random(4) < 0.75)
    return _photo(np.pad(sheet, ((wide[0], wide[1]), (wide[2], wide[3])), constant_values=8.0), draw, 3.0)


def sixteen_bits(digit: Array, draw: np.random.Generator) -> Array:
    """A PNG of 16 bits a pixel that holds 10 or 12."""
    top = 2 ** int(draw.choice([10, 12])) - 1
    return np.asarray(_put(np.full((300, 300), 0.9), digit, 180, draw, ink=0.1) * top, dtype=np.uint16)


#: By name: how it is made, and the ending of its file.
STYLES: dict[str, tuple[Make, str]] = {
    "original": (original, "png"),
    "inverted": (inverted, "png"),
    "enlarged": (enlarged, "png"),
    "noisy": (noisy, "jpg"),
    "small_noisy": (small_noisy, "jpg"),
    "white_on_transparent": (white_on_transparent, "png"),
    "grey_on_transparent": (grey_on_transparent, "png"),
    "palette": (palette, "png"),
    "two_digits": (two_digits, "png"),
    "on_a_desk": (on_a_desk, "jpg"),
    "on_a_page": (on_a_page, "png"),
    "ruled": (ruled, "jpg"),
    "framed": (framed, "jpg"),
    "sixteen_bits": (sixteen_bits, "png"),
}


def write(folder: Path, style: str, digits: Array, seed: int = 0) -> list[Path]:
    """Write digits (N, 28, 28) uint8 in a style, drawn with a seed; the files in the same order."""
    make, suffix = STYLES[style]
    draw = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, digit in enumerate(digits):
        paths.append(folder / f"{number:04d}.{suffix}")
        made = make(digit, draw)
        picture = made if isinstance(made, Image.Image) else Image.fromarray(made)
        quick: dict[str, Any] = {"compress_level": 1} if suffix == "png" else {}  # else most of a page's time
        picture.save(paths[-1], **quick)
    return paths
