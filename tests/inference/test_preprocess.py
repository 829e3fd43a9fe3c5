"""Pictures → MNIST's form: what comes back, and one line for what is no picture."""

import contextlib
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

from mnist_sweep.inference import preprocess
from mnist_sweep.training import data
from tests.styles import STYLES


def drawn(height: int, width: int, top: int, left: int, size: int, paper: int, ink: int) -> preprocess.Array:
    """A thick "7" of this size on a sheet of paper."""
    sheet = np.full((height, width), paper, dtype=np.uint8)
    wide = max(2, size // 6)
    sheet[top : top + wide, left : left + size // 2] = ink
    for row in range(size):
        middle = left + size // 2 - row * size // 3 // size
        sheet[top + row, max(left, middle - wide) : middle] = ink
    return sheet


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(60, 500), width=st.integers(60, 500), part=st.floats(0.2, 0.8), x=st.floats(0.1, 0.9),
    y=st.floats(0.1, 0.9), paper=st.integers(0, 255), ink=st.integers(0, 255),
)  # fmt: skip
def test_any_sheet_becomes_mnists_form(
    height: int, width: int, part: float, x: float, y: float, paper: int, ink: int
) -> None:
    if abs(paper - ink) < 80:
        ink = (paper + 128) % 256
    size = int(part * (min(height, width) - 8))
    top, left = 4 + int(y * (height - size - 8)), 4 + int(x * (width - size - 8))
    found = preprocess.normalised(drawn(height, width, top, left, size, paper, ink))
    assert found.shape == (28, 28)
    assert found.dtype == np.uint8
    assert found.max() == 255
    rows, columns = np.flatnonzero(found.any(axis=1)), np.flatnonzero(found.any(axis=0))
    assert max(np.ptp(rows), np.ptp(columns)) + 1 <= preprocess.BOX
    centre = np.array(ndimage.center_of_mass(found.astype(float)))
    assert np.abs(centre - 13.5).max() <= 1.0


def test_mnists_own_digits_stay_as_they_are(mnist: Path) -> None:
    training, _ = data.training_and_validation("mnist", str(mnist), 0, None)
    images = training.images[:300, 0].numpy()
    same = [np.array_equal(preprocess.normalised(image), image) for image in images]
    inverted = [np.array_equal(preprocess.normalised(255 - image), image) for image in images]
    assert np.mean(same) > 0.95
    assert same == inverted


@pytest.mark.parametrize("style", ["enlarged", "noisy"])
def test_a_photographed_digit_is_near_the_original(style: str) -> None:
    training, _ = data.training_and_validation("mnist5k", "data", 0, 200)
    draw, near = np.random.default_rng(0), []
    for image in training.images[:60, 0].numpy():
        found = preprocess.normalised(STYLES[style][0](image, draw))
        near.append(np.corrcoef(found.ravel(), image.ravel())[0, 1])
    assert np.median(near) > 0.8


def packed(*chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of these chunks."""
    whole = b"\x89PNG\r\n\x1a\n"
    for kind, content in chunks:
        whole += struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    return whole


def png(
    width: int,
    height: int,
    depth: int = 8,
    *,
    before: tuple[bytes, bytes] = (b"tEXt", b"a\0b"),
    after: tuple[bytes, bytes] = (b"tEXt", b"a\0b"),
) -> bytes:
    """A PNG of a few bytes that claims to be so large, with a chunk before its pixels and one after them."""
    header = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
    return packed((b"IHDR", header), before, (b"IDAT", zlib.compress(bytes(1000))), after, (b"IEND", b""))


def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, format=kind, **options)
    return file.getvalue()


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (80, 80), dtype=np.uint8))
BAD = {
    "a text": (b"hello", "not a PNG or JPEG"),
    "nothing": (b"", "empty"),
    "a cut JPEG": (encoded(NOISE, "JPEG")[:300], "damaged or cut"),
    "a cut PNG": (encoded(NOISE, "PNG")[:300], "damaged or cut"),
    "a bomb": (png(50_000, 50_000, 1), "pixels"),
    "a smaller bomb": (png(11_000, 11_000, 1), "11,000 × 11,000 pixels"),
    "an animation": (
        encoded(NOISE, "PNG", save_all=True, append_images=[NOISE.rotate(90)], duration=9), "animation of 2 pictures"),
    "another kind": (encoded(NOISE, "GIF"), "not a PNG or JPEG"),
    "white paper": (encoded(Image.new("L", (90, 90), 255), "PNG"), "nothing is drawn"),
    "black paper": (encoded(Image.new("L", (28, 28), 0), "PNG"), "nothing is drawn"),
}  # fmt: skip


@pytest.mark.parametrize("name", list(BAD))
def test_what_is_no_picture_gets_one_line(name: str, tmp_path: Path) -> None:
    content, said = BAD[name]
    path = tmp_path / "it.png"
    path.write_bytes(content)
    with pytest.raises(preprocess.PictureError, match=said) as caught:
        preprocess.normalised(preprocess.read(path))
    assert "\n" not in str(caught.value)


@settings(max_examples=80, deadline=None)
@given(at=st.integers(8, 5000), value=st.integers(0, 255), length=st.integers(0, 5000))
def test_a_damaged_file_never_crashes(at: int, value: int, length: int) -> None:
    for kind in ("PNG", "JPEG"):
        content = bytearray(encoded(NOISE, kind))
        content[at % len(content)] = value
        with contextlib.suppress(preprocess.PictureError):
            found = preprocess.normalised(preprocess.decode(bytes(content[: max(20, len(content) - length)])))
            assert found.shape == (28, 28)


@pytest.mark.parametrize(("tag", "value"), [(0x11A, 72.0), (0x128, 2)])
def test_odd_exif_is_no_hindrance_and_the_picture_is_turned(tag: int, value: float) -> None:
    """Data of a type that the tag does not have, which Pillow reads but cannot write."""
    exif = Image.Exif()
    exif[0x112], exif[tag] = 6, value  # lies on its side
    content = encoded(NOISE.resize((80, 60)), "JPEG", exif=exif)
    at = content.index(tag.to_bytes(2, "big"))
    assert preprocess.decode(content[: at + 2] + b"\x00\x07" + content[at + 4 :]).shape == (80, 60)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P", "1", "I;16", "I;16 with 8 bits"])
def test_every_kind_of_pixel(mode: str) -> None:
    grey = drawn(100, 90, 20, 20, 50, 255, 0)
    if mode.startswith("I;16"):
        picture = Image.fromarray(grey.astype(np.uint16) * (257 if mode == "I;16" else 1))
    elif mode in ("RGBA", "LA"):  # black ink on nothing
        picture = Image.merge("LA", [Image.new("L", (90, 100)), Image.fromarray(255 - grey)]).convert(mode)
    else:
        picture = Image.fromarray(grey).convert(mode)
    found = preprocess.normalised(preprocess.decode(encoded(picture, "PNG")))
    wanted = preprocess.normalised(grey)
    assert np.abs(found.astype(int) - wanted.astype(int)).mean() < 3


@pytest.mark.parametrize("chunk", [(b"gAMA", b"a"), (b"tRNS", b""), (b"cHRM", b"\0"), (b"iCCP", b"")])
def test_an_odd_chunk_is_one_line(chunk: tuple[bytes, bytes]) -> None:
    """Of which Pillow lets out struct.error and IndexError, where it stands after the pixels."""
    with pytest.raises(preprocess.PictureError, match=r"^damaged or cut \(.+\)$"):
        preprocess.decode(png(8, 8, after=chunk))
    with contextlib.suppress(preprocess.PictureError):
        assert preprocess.decode(png(8, 8, before=chunk)).shape == (8, 8)
