"""Image sets of the user's own: what they say of themselves, how they are read, and what is refused."""

import contextlib
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mnist_sweep.config.command import CommandLine
from mnist_sweep.config.image_data import Folder
from mnist_sweep.config.network_shapes import Images
from mnist_sweep.errors import RequestError
from mnist_sweep.training import data, datasets, kept_images, own_images
from tests.own_sets import blobs, folder, of_folder


def test_a_folder_describes_itself_and_is_read_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    settings = of_folder(folder(tmp_path / "fruit", {"apple": 20, "fig": 10, "pear": 40}, (8, 6))).config.data
    assert settings.images == Images(3, 8, 6, 3)
    assert (settings.label, list(settings.classes)) == ("folder-fruit", ["apple", "fig", "pear"])
    assert not (tmp_path / "cache").exists()  # nothing is written to know this much
    assert datasets.obtain(settings) == "folder"
    (training, validation), test = data.parts(settings), data.test_images(settings)
    assert [len(part) for part in (training, validation, test)] == [50, 6, 14]
    assert [torch.bincount(part.labels).tolist() for part in (training, validation, test)] == [
        [14, 7, 29], [2, 1, 3], [4, 2, 8]
    ]  # fmt: skip
    files = sorted((tmp_path / "fruit" / "fig").iterdir())
    every = {np.asarray(Image.open(file)).transpose(2, 0, 1).tobytes() for file in files}
    kept = [image for part in (training, validation, test) for image in part.images[part.labels == 1].numpy()]
    assert {image.tobytes() for image in kept} == every
    assert isinstance(kept_images.load(own_images.decoded(settings), "train")[0], np.memmap)  # type: ignore[arg-type]
    mean, deviation = training.standardisation
    assert mean == pytest.approx((training.images.double() / 255).mean(dim=(0, 2, 3)).tolist())
    assert deviation == pytest.approx((training.images.double() / 255).std(dim=(0, 2, 3), correction=0).tolist())
    other = of_folder(tmp_path / "fruit", "data.split_seed=1").config.data
    assert torch.equal(data.test_images(other).pixels, test.pixels)
    assert not torch.equal(data.parts(other)[1].rows, validation.rows)  # type: ignore[arg-type]
    assert caplog.text.count("decoding the 70 pictures") == 1


def digest_of(path: Path, *items: str) -> str:
    settings = of_folder(path, *items).config.data
    assert isinstance(settings, Folder)
    return settings.found.digest


def test_the_digest_is_of_the_content(tmp_path: Path) -> None:
    fruit = folder(tmp_path / "fruit", {"apple": 4, "pear": 4})
    digest = digest_of(fruit)
    fruit.rename(tmp_path / "moved")
    for file in (tmp_path / "moved").rglob("*.png"):
        os.utime(file, (1, 1))
    assert digest_of(tmp_path / "moved") == digest
    assert digest_of(tmp_path / "moved", "data.channels=1") != digest
    Image.new("RGB", (8, 8)).save(tmp_path / "moved" / "pear" / "0000.png")
    assert digest_of(tmp_path / "moved") != digest


def test_other_pictures_are_not_taken_for_those_of_a_run(tmp_path: Path) -> None:
    fruit = folder(tmp_path / "fruit", {"apple": 4, "pear": 4})
    settings = of_folder(fruit).config.data
    assert isinstance(settings, Folder)
    of_a_run = settings.model_copy(update={"contents": settings.found})
    kept = own_images.decoded(of_a_run)
    Image.new("RGB", (8, 8)).save(fruit / "pear" / "0000.png")
    assert own_images.decoded(of_a_run) == kept
    kept.rename(tmp_path / "gone")
    why = r"data\.path=.*fruit: these are not the images that the run was made with.*; allowed: the files as they were"
    with pytest.raises(RequestError, match=why):
        own_images.decoded(of_a_run)
    assert own_images.decoded(settings) != kept


def test_the_scores_of_models_compare_only_where_the_images_were_split_alike(tmp_path: Path) -> None:
    path = folder(tmp_path / "fruit", {"apple": 9, "pear": 9})
    one, other = (datasets.split(of_folder(path, f"data.validation_share={share}").config.data) for share in (0.1, 0.3))
    assert (one, other) == tuple(f"{digest_of(path)}, split_seed 0, validation_share {share}" for share in (0.1, 0.3))


def test_train_and_test_folders_grey_pictures_and_another_size(tmp_path: Path) -> None:
    folder(tmp_path / "set" / "train", {"a": 6, "b": 6}, mode="L")
    folder(tmp_path / "set" / "test", {"a": 2, "b": 1}, (5, 9), mode="L")
    (tmp_path / "set" / "train" / "a" / "notes.txt").write_text("no picture, and not taken for one")
    settings = of_folder(tmp_path / "set", "data.size=[4,3]", "model=mlp").config.data
    assert settings.images == Images(1, 4, 3, 2)
    (training, validation), test = data.parts(settings), data.test_images(settings)
    assert (len(training), len(validation), len(test)) == (11, 1, 3)
    assert test.images.shape == (3, 1, 4, 3)


def picture(kind: str) -> bytes:
    file = io.BytesIO()
    image = Image.new("CMYK" if kind == "cmyk" else "RGB", (8, 8))
    if kind == "animated":
        image.save(file, "GIF", save_all=True, append_images=[Image.new("RGB", (8, 8), "red")])
    else:
        image.save(file, "EPS" if kind == "for Ghostscript" else "JPEG")
    content = file.getvalue()
    return {"cut": content[: len(content) // 2], "no picture": b"hello", "empty": b""}.get(kind, content)


BAD = {
    "cmyk": "its colours are CMYK; allowed: grey or RGB", "animated": "an animation of 2 pictures; allowed: a single",
    "no picture": "not a picture that Pillow reads by itself", "empty": "the file is empty", "cut": "damaged or cut",
    "for Ghostscript": "not a picture that Pillow reads by itself",
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_picture_is_named_and_can_be_left_out(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = folder(tmp_path / "set", {"a": 6, "b": 6})
    (path / "a" / "bad.jpg").write_bytes(picture(kind))
    with pytest.raises(RequestError, match=rf"data\.path=.*a/bad\.jpg: {BAD[kind]}.*data\.skip_bad=true") as refused:
        datasets.obtain(of_folder(path).config.data)
    assert str(refused.value).count("allowed") == 1
    assert not list(tmp_path.glob("cache/*"))
    settings = of_folder(path, "data.skip_bad=true").config.data
    datasets.obtain(settings)
    assert sum(map(len, (*data.parts(settings), data.test_images(settings)))) == 12
    assert f"left out: {path}/a/bad.jpg: {BAD[kind][:20]}" in caplog.text


def spoil(path: Path, how: str) -> None:
    match how:
        case "missing":
            return
        case "one class":
            folder(path, {"a": 2})
        case "empty class":
            folder(path, {"a": 2, "b": 2, "c": 0})
        case "many classes":
            for number in range(1_001):
                (path / str(number)).mkdir(parents=True)
        case "sizes":
            folder(path, {"a": 2, "b": 2})
            folder(path / "more", {"c": 1}, (9, 9))
        case "val":
            folder(path / "train", {"a": 2, "b": 2})
            folder(path / "val", {"a": 2, "b": 2})
        case "one each":
            folder(path / "train", {"a": 1, "b": 1})
            folder(path / "test", {"a": 2, "b": 2})
        case "classes differ":
            folder(path / "train", {"a": 2, "b": 2})
            folder(path / "test", {"a": 2, "c": 2})


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("missing", "cannot be read (No such file or directory)"),
        ("one class", "1 class in"),
        ("empty class", "no pictures in"),
        ("many classes", "1,001 classes in"),
        ("sizes", "data.size=null: pictures of several sizes"),
        ("val", "there are train, val; allowed:"),
        ("one each", "one training image of each class, which leaves none for validation; allowed: two of some class"),
        ("classes differ", "only one of train and test has the class b"),
    ],
)
def test_a_folder_that_is_no_image_set_is_refused_in_one_line(how: str, why: str, tmp_path: Path) -> None:
    spoil(tmp_path / "set", how)
    with pytest.raises(RequestError) as caught:
        _ = of_folder(tmp_path / "set").config
    assert why in str(caught.value)
    assert "allowed: " in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "cache").exists()


def arrays(tmp_path: Path, **values: Any) -> Any:
    images = np.concatenate([blobs(label, 3, 10, (8, 8)) for label in range(3)])
    known: dict[str, Any] = {"images": images, "labels": np.repeat(np.arange(3), 10), **values}
    np.savez(tmp_path / "set.npz", **{name: value for name, value in known.items() if value is not None})
    items = ["data=arrays", f"data.path={tmp_path / 'set.npz'}", f"data.cache={tmp_path / 'cache'}"]
    return CommandLine.of(items).config.data


def test_arrays_of_every_form(tmp_path: Path) -> None:
    settings = arrays(tmp_path, class_names=np.array(["x", "y", "z"]))
    assert (settings.images, settings.classes) == (Images(3, 8, 8, 3), ["x", "y", "z"])
    (training, validation), test = data.parts(settings), data.test_images(settings)
    assert [len(part) for part in (training, validation, test)] == [22, 2, 6]
    assert training.classes == test.classes == ["x", "y", "z"]
    grey = np.arange(30 * 6 * 4, dtype=np.uint8).reshape(30, 6, 4)
    settings = arrays(tmp_path, images=grey, test_images=grey[:2], test_labels=np.array([0, 2], np.uint8))
    assert settings.images == Images(1, 6, 4, 3)
    assert torch.equal(data.test_images(settings).images[:, 0], torch.from_numpy(grey[:2]))
    assert arrays(tmp_path, images=np.zeros((30, 3, 5, 7), np.uint8)).images == Images(3, 5, 7, 3)


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"labels": None}, "no labels among images"),
        ({"labels": np.arange(3)}, "30 images and 3 labels; allowed: as many of each"),
        ({"labels": np.repeat([0, 1, 3], 10)}, "no image with the label 2; allowed: labels 0 … 3, each at least once"),
        ({"labels": np.repeat([-1, 0, 1], 10)}, "lowest -1; allowed: (N,) integers from 0"),
        ({"labels": np.zeros(30)}, "labels is [30] float64"),
        ({"labels": np.zeros(30, int)}, "labels 0 … 0; allowed: 2 to 1,000 classes"),
        ({"images": np.zeros((2, 8, 8), np.uint8), "labels": np.arange(2)}, "one training image of each class"),
        ({"labels": np.array([{}] * 30)}, "it holds pickled objects, which are never loaded"),
        ({"images": np.zeros((30, 8, 8), np.float32)}, "images is [30,8,8] float32; allowed: (N, H, W)"),
        ({"test_images": np.zeros((1, 8, 8), np.uint8)}, "one of test_images and test_labels alone"),
        ({"test_images": np.zeros((1, 8, 8), np.uint8), "test_labels": np.zeros(1, int)}, "test_images of (1, 8, 8)"),
        ({"class_names": np.array(["x"])}, "1 class_names for 3 classes"),
        ({"class_names": np.array("x, y, z")}, "1 class_names for 3 classes"),
    ],
)
def test_arrays_that_are_no_image_set_are_refused_in_one_line(values: Any, why: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError) as caught:
        arrays(tmp_path, **values)
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_file_of_numpys(tmp_path: Path) -> None:
    items = ["data=arrays", f"data.path={tmp_path / 'set.npz'}"]
    for content, why in [(None, "No such file"), (b"hello", "no file of numpy's"), (b"PK\3\4nothing", "damaged")]:
        if content:
            (tmp_path / "set.npz").write_bytes(content)
        with pytest.raises(RequestError, match=why):
            _ = CommandLine.of(items).config


def test_a_compressed_file_that_is_damaged_anywhere_is_refused_in_one_line(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "set.npz", images=blobs(0, 2, 20, (8, 8)), labels=np.arange(20) % 2)
    whole = (tmp_path / "set.npz").read_bytes()
    for where in (*range(8, 12), *range(60, len(whole), 97)):  # how it is packed, and what is
        content = bytearray(whole)
        content[where] ^= 0xFF
        (tmp_path / "set.npz").write_bytes(content)
        items = ["data=arrays", f"data.path={tmp_path / 'set.npz'}", f"data.cache={tmp_path / 'cache'}"]
        with contextlib.suppress(RequestError):  # some bytes are of no account
            _ = CommandLine.of(items).config


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    path = folder(tmp_path / "set", {"a": 2, "b": 2})
    (tmp_path / "cache").write_text("in the way")
    with pytest.raises(RequestError, match=r"data\.cache=.*cannot be written"):
        own_images.decoded(of_folder(path).config.data)  # type: ignore[arg-type]
