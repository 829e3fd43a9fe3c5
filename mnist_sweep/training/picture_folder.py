"""Image sets of the user's own: a folder of pictures, with a folder for each class. Without torch."""

import functools
import hashlib
import logging
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from mnist_sweep.config.image_data import Contents, Folder
from mnist_sweep.errors import RequestError
from mnist_sweep.training import pictures
from mnist_sweep.training.image_source import MOST_CLASSES, Source, below, check_enough, options, refused, split
from mnist_sweep.training.kept_images import Array, save
from mnist_sweep.training.pictures import PictureError

log = logging.getLogger(__name__)

#: The pictures of each part of a set, ``train`` and ``test``, each with its label.
Parts = dict[str, list[tuple[str, int]]]
#: Names that a part of an image set has, and hardly a class.
_PARTS = {"train", "test", "val", "valid", "validation"}


def look_through(settings: Folder) -> Source:
    """Look through a folder: every file is read, none is decoded."""
    classes, parts = _parts(settings)
    scan = _scan(settings, parts)
    _left_out(settings, scan.bad)
    _all_there(settings, classes, scan.good)
    good = scan.good
    if "test" not in good:
        everything = good["train"]
        where = split(settings, np.array([label for _, label in everything]))
        good = {part: [everything[at] for at in of] for part, of in zip(("train", "test"), where, strict=True)}
    check_enough(settings, [label for _, label in good["train"]])
    size, channels = settings.size or scan.size(), settings.channels or (1 if scan.grey else 3)
    found = Contents(channels=channels, size=size, classes=classes, digest=scan.digest)
    return Source(found, functools.partial(_decode, settings, found, good))


def _parts(settings: Folder) -> tuple[list[str], Parts]:
    """The classes of a folder, and its pictures: the training's, and the test's where it has a folder of its own."""
    path = Path(settings.path)
    try:
        top = {each.name for each in os.scandir(path) if each.is_dir()} & _PARTS
    except OSError as error:
        allowed = "a folder with a folder for each class"
        raise refused(settings, f"cannot be read ({error.strerror})", allowed) from error
    if not top:
        classes = _classes(settings, path)
        return classes, {"train": _files(settings, path, classes)}
    if top != {"train", "test"}:
        both = f"{path}/train and {path}/test, or a folder for each class"
        raise refused(settings, f"there are {', '.join(sorted(top))}", both)
    classes, others = _classes(settings, path / "train"), _classes(settings, path / "test")
    if others != classes:
        differ = sorted({*others} ^ {*classes})[0]
        raise refused(settings, f"only one of train and test has the class {differ}", "the same classes in both")
    return classes, {part: _files(settings, path / part, classes) for part in ("train", "test")}


def _classes(settings: Folder, folder: Path) -> list[str]:
    """The names of the folders in a folder."""
    try:
        names = sorted(each.name for each in os.scandir(folder) if each.is_dir() and not each.name.startswith("."))
    except OSError as error:
        raise refused(settings, f"{folder} cannot be read ({error.strerror})", "a folder of folders") from error
    if not 2 <= len(names) <= MOST_CLASSES:
        which = f"{len(names):,} {'class' if len(names) == 1 else 'classes'} in {folder}"
        raise refused(settings, which, f"2 to {MOST_CLASSES:,} folders of pictures, one for each class")
    return names


def _files(settings: Folder, folder: Path, classes: Sequence[str]) -> list[tuple[str, int]]:
    """The pictures of each class with its label."""
    suffixes, found = set(Image.registered_extensions()), list[tuple[str, int]]()
    for label, name in enumerate(classes):
        files = [file for file in below(folder / name) if os.path.splitext(file)[1].lower() in suffixes]  # noqa: PTH122
        if not files:
            raise refused(settings, f"no pictures in {folder / name}", "at least one for each class")
        found += [(file, label) for file in files]
    return found


@dataclass(frozen=True)
class _Scan:
    """What was seen of the pictures of a folder."""

    good: Parts
    bad: list[tuple[str, PictureError]]
    sizes: dict[tuple[int, int], str]  # with the first picture that has it
    grey: bool  # all of them
    digest: str

    def size(self) -> list[int]:
        """Height and width of all pictures; a RequestError where they differ."""
        if len(self.sizes) > 1:
            (one, first), (other, second) = list(self.sizes.items())[:2]
            are = f"{first} is {one[0]} × {one[1]}, {second} is {other[0]} × {other[1]}"
            raise RequestError(f"data.size=null: pictures of several sizes ({are}); allowed: data.size=[HEIGHT,WIDTH]")
        return list(next(iter(self.sizes)))


def _scan(settings: Folder, parts: Parts) -> _Scan:
    """Read every picture's file."""
    digest = hashlib.sha256(options(settings).encode())
    good: Parts = {part: [] for part in parts}
    bad, sizes, grey = list[tuple[str, PictureError]](), dict[tuple[int, int], str](), True
    for part, files in parts.items():
        for file, label in files:
            try:
                content = pictures.content_of(Path(file))
                picture = pictures.opened(content)
            except PictureError as error:
                bad.append((file, error))
                continue
            name = file[len(str(Path(settings.path))) :]
            digest.update(f"{part}\0{name}\0".encode("utf-8", "surrogateescape"))
            digest.update(hashlib.sha256(content).digest())
            sizes.setdefault(pictures.size_of(picture), file)
            grey = grey and pictures.is_grey(picture)
            good[part].append((file, label))
    return _Scan(good, bad, sizes, grey, digest.hexdigest()[:32])


def _left_out(settings: Folder, bad: Sequence[tuple[str, PictureError]]) -> None:
    """Refuse the first bad picture, or name those that are left out."""
    if bad and not settings.skip_bad:
        file, why = bad[0]
        fault, _, allowed = str(why).partition("; allowed: ")
        more = f" ({len(bad) - 1:,} more like it)" if len(bad) > 1 else ""
        allowed = f"{allowed or 'pictures that can be read'}; or data.skip_bad=true"
        raise refused(settings, f"{file}: {fault}{more}", allowed)
    for file, why in bad[:10]:
        log.warning("left out: %s: %s", file, why)
    if len(bad) > 10:
        log.warning("left out: %d more", len(bad) - 10)


def _all_there(settings: Folder, classes: Sequence[str], good: Parts) -> None:
    counts = Counter(label for _, label in good["train"])
    if empty := [name for label, name in enumerate(classes) if not counts[label]]:
        raise refused(settings, f"no picture of the class {empty[0]} can be read", "at least one for each class")


def _decode(settings: Folder, found: Contents, parts: Parts, folder: Path) -> None:
    """Decode the pictures into a folder."""
    log.info("decoding the %d pictures of %s, once", sum(map(len, parts.values())), settings.path)
    bad: list[tuple[str, PictureError]] = []

    def one(file: str) -> Array | PictureError:
        try:
            return pictures.read(Path(file), found.channels, found.size)
        except PictureError as error:
            return error

    for part, files in parts.items():
        shape = (len(files), found.channels, *found.size)
        images = np.lib.format.open_memmap(folder / "all.npy", "w+", np.uint8, shape)
        labels, count = np.zeros(len(files), np.int64), 0
        with ThreadPoolExecutor() as threads:
            for (file, label), values in zip(files, threads.map(one, [file for file, _ in files]), strict=True):
                if isinstance(values, PictureError):
                    bad.append((file, values))
                else:
                    images[count], labels[count], count = values, label, count + 1
        if not count:
            raise refused(settings, f"no picture for the {part} part can be read", "at least one")
        save(folder, part, images[:count], labels[:count])
        if part == "train":
            if len(np.unique(labels[:count])) < len(found.classes):
                raise refused(settings, "a class has no picture that can be read", "at least one for each class")
            check_enough(settings, labels[:count])
        (folder / "all.npy").unlink()
    _left_out(settings, bad)
