"""Pictures → MNIST's form: what comes back, and one line for what is no picture."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from mnist_sweep.inference.preprocess import BOX, Array, decode, normalised, read
from mnist_sweep.training import data
from mnist_sweep.training.pictures import PictureError
from tests.styles import STYLES


def drawn(height: int, width: int, top: int, left: int, size: int, paper: int, ink: int) -> Array:
    """A thick "7" of this size on a sheet of paper."""
    sheet = np.full((height, width), paper, dtype=np.uint8)
    wide = max(2, size // 6)
    sheet[top : top + wide, left : left + size // 2] = ink
    for row in range(size):
        middle = left + size // 2 - row * size // 3 // size
        sheet[top + row, max(left, middle - wide) : middle] = ink
    return sheet


@settings(max_examples=60, deadline=None)
@given(sides=st.tuples(*[st.integers(60, 500)] * 2), at=st.tuples(*[st.floats(0.1, 0.9)] * 2), part=st.floats(0.2, 0.8),
       paper=st.integers(0, 255), ink=st.integers(0, 255))  # fmt: skip
def test_any_sheet_becomes_mnists_form(
    sides: tuple[int, int], at: tuple[float, float], part: float, paper: int, ink: int
) -> None:
    if abs(paper - ink) < 80:
        ink = (paper + 128) % 256
    size = int(part * (min(sides) - 8))
    top, left = (4 + int(share * (side - size - 8)) for side, share in zip(sides, at, strict=True))
    found = normalised(drawn(*sides, top, left, size, paper, ink))
    assert (found.shape, found.dtype, found.max()) == ((28, 28), np.uint8, 255)
    rows, columns = np.flatnonzero(found.any(axis=1)), np.flatnonzero(found.any(axis=0))
    assert max(np.ptp(rows), np.ptp(columns)) + 1 <= BOX
    centre = np.array(ndimage.center_of_mass(found.astype(float)))
    assert np.abs(centre - 13.5).max() <= 1.0


def test_mnists_own_digits_stay_as_they_are_and_a_photographed_one_is_near() -> None:
    training, _ = data.training_and_validation("mnist5k", "data", 0, 200)
    images = training.images[:, 0].numpy()
    same = [np.array_equal(normalised(image), image) for image in images]
    assert np.mean(same) > 0.95
    assert same == [np.array_equal(normalised(255 - image), image) for image in images]
    for style in ("enlarged", "noisy"):
        draw = np.random.default_rng(0)
        taken = [normalised(np.asarray(STYLES[style][0](image, draw))) for image in images[:60]]
        near = [np.corrcoef(one.ravel(), other.ravel())[0, 1] for one, other in zip(taken, images, strict=False)]
        assert np.median(near) > 0.8


def packed(*chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of these chunks."""
    whole = b"\x89PNG\r\n\x1a\n"
    for kind, content in chunks:
        whole += struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    return whole


def header(width: int, height: int, depth: int = 8) -> tuple[bytes, bytes]:
    return b"IHDR", struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)


def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, format=kind, **options)
    return file.getvalue()


PIXELS, END = (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (80, 80), dtype=np.uint8))
BAD = {
    "a text": (b"hello", "not a PNG or JPEG"),
    "nothing": (b"", "empty"),
    "an odd chunk": (packed(header(8, 8), PIXELS, (b"gAMA", b"a"), END), r"^damaged or cut \(.+\)$"),  # struct.error
    "a chunk without content": (packed(header(8, 8), PIXELS, (b"tRNS", b""), END), "damaged or cut"),  # IndexError
    "a cut JPEG": (encoded(NOISE, "JPEG")[:300], "damaged or cut"),
    "a cut PNG": (encoded(NOISE, "PNG")[:300], "damaged or cut"),
    "a bomb": (packed(header(50_000, 50_000, 1), PIXELS, END), "pixels"),
    "a smaller bomb": (packed(header(11_000, 11_000), PIXELS, END), "11,000 × 11,000 pixels"),
    "an animation": (
        encoded(NOISE, "PNG", save_all=True, append_images=[NOISE.rotate(90)], duration=9), "animation of 2 pictures"),
    "another kind": (encoded(NOISE, "GIF"), "not a PNG or JPEG"),
    "white paper": (encoded(Image.new("L", (90, 90), 255), "PNG"), "nothing is drawn"),
    "black paper": (encoded(Image.new("L", (28, 28), 0), "PNG"), "nothing is drawn"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "said"), BAD.values(), ids=BAD)
def test_what_is_no_picture_gets_one_line(content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "it.png"
    path.write_bytes(content)
    with pytest.raises(PictureError, match=said) as caught:
        normalised(read(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("tag", "value"), [(0x11A, 72.0), (0x128, 2)])
def test_odd_exif_is_no_hindrance_and_the_picture_is_turned(tag: int, value: float) -> None:
    """Data of a type that the tag does not have, which Pillow reads but cannot write."""
    exif = Image.Exif()
    exif[0x112], exif[tag] = 6, value  # lies on its side
    content = encoded(NOISE.resize((80, 60)), "JPEG", exif=exif)
    at = content.index(tag.to_bytes(2, "big"))
    assert decode(content[: at + 2] + b"\x00\x07" + content[at + 4 :]).shape == (80, 60)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P", "1", "I;16", "I;16 with 8 bits"])
def test_every_kind_of_pixel(mode: str) -> None:
    grey = drawn(100, 90, 20, 20, 50, 255, 0)
    if mode.startswith("I;16"):
        picture = Image.fromarray(grey.astype(np.uint16) * (257 if mode == "I;16" else 1))
    elif mode in ("RGBA", "LA"):  # black ink on nothing
        picture = Image.merge("LA", [Image.new("L", (90, 100)), Image.fromarray(255 - grey)]).convert(mode)
    else:
        picture = Image.fromarray(grey).convert(mode)
    found = normalised(decode(encoded(picture, "PNG")))
    assert np.abs(found.astype(int) - normalised(grey).astype(int)).mean() < 3
