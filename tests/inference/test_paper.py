"""Where on a picture the digit is: each kind comes out as MNIST's own digit, or is refused with a reason."""

import io

import numpy as np
import pytest
from PIL import Image

from mnist_sweep.inference import paper
from mnist_sweep.inference.paper import without_lines
from mnist_sweep.inference.preprocess import Array, decode, normalised
from mnist_sweep.training import data
from mnist_sweep.training.pictures import PictureError
from tests.styles import STYLES

KINDS = [style for style in STYLES if style not in ("original", "inverted", "small_noisy", "two_digits")]


def file_of(picture: Array | Image.Image, suffix: str) -> bytes:
    file = io.BytesIO()
    made = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    made.save(file, format={"png": "PNG", "jpg": "JPEG"}[suffix])
    return file.getvalue()


def likeness(one: Array, other: Array) -> float:
    """The correlation of two pictures, moved by at most a pixel."""
    moved = [np.roll(one, (down, right), (0, 1)) for down in (-1, 0, 1) for right in (-1, 0, 1)]
    return float(max(np.corrcoef(each.ravel(), other.ravel())[0, 1] for each in moved))


@pytest.fixture(scope="module")
def digits() -> Array:
    """One of each class, (10, 28, 28)."""
    training, _ = data.training_and_validation("mnist5k", "data", 0, 200)
    first = np.unique(training.labels.numpy(), return_index=True)[1]
    return np.asarray(training.images[first][:, 0].numpy())


@pytest.mark.parametrize("style", KINDS)
def test_a_digit_is_found(style: str, digits: Array) -> None:
    make, suffix = STYLES[style]
    draw = np.random.default_rng(0)
    near = []
    for digit in digits[: 3 if style == "on_a_page" else 10]:
        found = normalised(decode(file_of(make(digit, draw), suffix)))
        near.append(likeness(found, digit))
    turned = style == "on_a_desk"  # by up to 12 degrees, as it comes out
    assert min(near) > (0.5 if turned else 0.75)
    assert np.median(near) > (0.7 if turned else 0.85)


def test_two_digits_are_two(digits: Array) -> None:
    draw = np.random.default_rng(0)
    for digit in digits:
        with pytest.raises(PictureError, match="two shapes"):
            normalised(np.asarray(STYLES["two_digits"][0](digit, draw)))
    tall = np.concatenate([digits[0], digits[8]])
    with pytest.raises(PictureError, match="two shapes"):
        normalised(255 - np.kron(tall, np.ones((6, 6), np.uint8)))


def five(bar: int) -> Array:
    """A 5, 200 × 200, whose upper stroke ends so many pixels before the rest of it."""
    sheet = np.full((200, 200), 255, np.uint8)
    sheet[30:44, 80 + bar : 140] = 0
    sheet[44 if bar == 0 else 30 : 100, 66:80] = 0
    sheet[86:100, 66:130] = sheet[86:160, 120:134] = sheet[150:164, 66:134] = 0
    return sheet


def test_a_five_in_two_strokes_stays_one_digit() -> None:
    whole, parted = normalised(five(0)), normalised(five(8))
    assert likeness(whole, parted) > 0.8


def sheet_on_desk(paper: Array) -> Array:
    return np.pad(paper, ((60, 90), (80, 70)), constant_values=30)


BLANK = np.full((300, 220), 230, np.uint8)
RULED = BLANK.copy()
RULED[20:-20:40] = 20
BLOB = BLANK.copy()
BLOB[100:200, 60:150] = 20


@pytest.mark.parametrize(
    ("grey", "said"),
    [
        (sheet_on_desk(BLANK), "nothing is drawn"),
        (RULED, "nothing is drawn on it but lines"),
        (BLOB, "a blob rather than strokes"),
        (sheet_on_desk(BLOB), "a blob rather than strokes"),
        (np.kron(np.eye(1, 1, dtype=np.uint8) * 30, np.ones((20, 200), np.uint8)), "nothing is drawn"),
    ],
    ids=["a blank sheet on a desk", "ruled paper", "a blob", "a blob on a sheet on a desk", "black"],
)
def test_what_holds_no_digit_is_refused_with_the_reason(grey: Array, said: str) -> None:
    with pytest.raises(PictureError, match=said):
        normalised(grey)


def test_lines_as_dark_as_the_ink_are_no_strokes() -> None:
    sheet = np.full((300, 240), 240, np.uint8)
    sheet[60:200, 110:126] = 20  # a 1
    plain = normalised(sheet)
    for row in range(25, 280, 30):
        sheet[row : row + 6] = 20
    with pytest.raises(PictureError, match="lines as dark as the ink run through it"):
        normalised(sheet)
    sheet[sheet < 240] = 150
    sheet[60:200, 110:126] = 20
    assert likeness(normalised(sheet), plain) > 0.9


def test_a_line_that_noise_breaks_into_pieces_is_found_and_a_thin_stroke_is_kept() -> None:
    level = np.zeros((300, 300))
    level[60:240, 140:160] = 180  # a stroke, and how much ink it has
    level[60:64, 160:200] = 100  # its thin end
    ink = level > 0
    line = 60 + np.random.default_rng(0).normal(0, 4, (2, 300))
    level[149:151] = np.maximum(level[149:151], line)
    assert 0.2 < (line > 60).mean() < 0.8
    assert np.array_equal(without_lines(level, 60.0), ink)
    assert np.array_equal(without_lines(level, 40.0), ink)


def test_a_picture_whose_colour_says_something_is_read_by_its_colour() -> None:
    alpha = np.zeros((200, 200), np.uint8)
    alpha[20:180, 20:180] = 255  # a sheet cut out of its background
    sheet = np.full((200, 200), 255, np.uint8)
    sheet[60:140, 95:105] = 0
    picture = Image.merge("LA", (Image.fromarray(sheet), Image.fromarray(alpha)))
    assert np.array_equal(decode(file_of(picture, "png")), np.asarray(Image.fromarray(sheet)))


def test_a_strip_of_paper_that_is_nothing_but_edge_is_no_sheet() -> None:
    desk = np.full((62, 50), 30, np.uint8)
    desk[26:36, 13:37] = 240
    assert paper.sheet(desk) is desk
