"""Image sets of the user's own: a folder of pictures, or a file of numpy's. Without torch."""

import contextlib
import functools
import hashlib
import json
import logging
import os
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from mnist_sweep.config.image_data import Arrays, Contents, Folder
from mnist_sweep.config.overrides import text
from mnist_sweep.errors import RequestError, one_line
from mnist_sweep.training import pictures
from mnist_sweep.training.kept_images import VERSION, Array, keep, part_of, save, writable
from mnist_sweep.training.pictures import PictureError

log = logging.getLogger(__name__)

Own = Folder | Arrays

MOST_CLASSES = 1_000
#: Names that a part of an image set has, and hardly a class.
_PARTS = {"train", "test", "val", "valid", "validation"}


def contents(settings: Own) -> Contents:
    """What the files hold, without a trace; RequestError, in one line, where they are no image set."""
    return _known(*_identity(settings)) or _source(settings).contents


def decoded(settings: Own) -> Path:
    """The folder of the images, which is made where it is not there.

    RequestError where that fails, or where the files are not those any more that a run was made with.
    """
    cache = Path(settings.cache)
    if settings.contents and (folder := cache / settings.contents.digest).is_dir():
        return folder  # of a run that was made; its pictures may be gone
    found = contents(settings)
    if settings.contents and settings.contents.digest != found.digest:
        why = "these are not the images that the run was made with, nor are those in data.cache"
        raise _refused(settings, why, f"the files as they were, or data.cache with {settings.contents.digest} in it")
    if not (folder := cache / found.digest).is_dir():
        source = _source(settings)

        def write(scratch: Path) -> None:
            source.write(scratch)
            (scratch / "classes.json").write_text(json.dumps(found.classes), encoding="utf-8")

        keep(folder, write)
    with writable(cache):
        listing = cache / f"{_identity(settings)[1]}.json"
        if not listing.is_file():
            part = listing.with_suffix(f".{os.getpid()}")
            part.write_text(found.model_dump_json(), encoding="utf-8")
            part.replace(listing)
    return folder


def _refused(settings: Own, why: str, allowed: str) -> RequestError:
    return RequestError(f"data.path={settings.path}: {why}; allowed: {allowed}")


def _options(settings: Own) -> str:
    """What bears on the images besides their files."""
    keys = {"name", "size", "channels", "skip_bad", "test_share"}
    return json.dumps([VERSION, settings.model_dump(include=keys)], sort_keys=True)


def _identity(settings: Own) -> tuple[str, str]:
    """The folder of what is kept, and a digest of the files' names, sizes and times: they need not be read again."""
    found = hashlib.sha256(_options(settings).encode() + settings.path.encode())
    path = Path(settings.path)
    for file in [path] if path.is_file() else _below(path):
        with contextlib.suppress(OSError):
            stat = os.stat(file)  # noqa: PTH116  # faster, of which there may be 100,000
            found.update(f"{file}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
    return settings.cache, found.hexdigest()[:32]


def _known(cache: str, listing: str) -> Contents | None:
    with contextlib.suppress(OSError, ValueError):
        found = Contents.model_validate_json(Path(cache, f"{listing}.json").read_text(encoding="utf-8"))
        return found if Path(cache, found.digest).is_dir() else None
    return None


def _below(folder: Path) -> list[str]:
    """All files below a folder, sorted; hidden ones are none of a set."""
    found = []
    for where, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [f"{where}/{name}" for name in files if not name.startswith(".")]
    return sorted(found)


@dataclass(frozen=True)
class _Source:
    """An image set that has been looked through."""

    contents: Contents
    write: Callable[[Path], None] = field(repr=False)


def _source(settings: Own) -> _Source:
    return _looked_through(settings.model_dump_json(exclude={"augmentation", "contents"}), *_identity(settings))


@functools.lru_cache(maxsize=4)
def _looked_through(settings: str, _cache: str, _listing: str) -> _Source:
    plain = {**json.loads(settings), "augmentation": {"rotation": 0.0, "shift": 0.0, "scale": 0.0}}
    own: Own = (Folder if plain["name"] == "folder" else Arrays).model_validate(plain)
    return _folder(own) if isinstance(own, Folder) else _arrays(own)


def _split(settings: Own, labels: Array) -> tuple[Array, Array]:
    """Positions of the training and of the test images, where the set says nothing of them; no seed bears on them."""
    count = min(max(1, round(len(labels) * settings.test_share)), len(labels) - 1)
    return part_of(labels, count, np.random.default_rng(0))


def _check_enough(settings: Own, labels: Array | Sequence[int]) -> None:
    """Refuse training images with these labels (N,) where no class has two: one is for the validation."""
    if np.unique(labels, return_counts=True)[1].max() < 2:
        why = "one training image of each class, which leaves none for validation"
        raise _refused(settings, why, "two of some class, besides those for the test")


# ---- a folder of pictures


def _classes(settings: Folder, folder: Path) -> list[str]:
    """The names of the folders in a folder."""
    try:
        names = sorted(each.name for each in os.scandir(folder) if each.is_dir() and not each.name.startswith("."))
    except OSError as error:
        raise _refused(settings, f"{folder} cannot be read ({error.strerror})", "a folder of folders") from error
    if not 2 <= len(names) <= MOST_CLASSES:
        which = f"{len(names):,} {'class' if len(names) == 1 else 'classes'} in {folder}"
        raise _refused(settings, which, f"2 to {MOST_CLASSES:,} folders of pictures, one for each class")
    return names


def _files(settings: Folder, folder: Path, classes: Sequence[str]) -> list[tuple[str, int]]:
    """The pictures of each class with its label."""
    suffixes, found = set(Image.registered_extensions()), list[tuple[str, int]]()
    for label, name in enumerate(classes):
        files = [file for file in _below(folder / name) if os.path.splitext(file)[1].lower() in suffixes]  # noqa: PTH122
        if not files:
            raise _refused(settings, f"no pictures in {folder / name}", "at least one for each class")
        found += [(file, label) for file in files]
    return found


def _folder(settings: Folder) -> _Source:
    """Look through a folder: every file is read, none is decoded."""
    path = Path(settings.path)
    try:
        top = {each.name for each in os.scandir(path) if each.is_dir()} & _PARTS
    except OSError as error:
        raise _refused(
            settings, f"cannot be read ({error.strerror})", "a folder with a folder for each class"
        ) from error
    if top and top != {"train", "test"}:
        both = f"{path}/train and {path}/test, or a folder for each class"
        raise _refused(settings, f"there are {', '.join(sorted(top))}", both)
    classes = _classes(settings, path / "train" if top else path)
    parts = {"train": _files(settings, path / "train" if top else path, classes)}
    if top:
        if (others := _classes(settings, path / "test")) != classes:
            differ = sorted({*others} ^ {*classes})[0]
            raise _refused(settings, f"only one of train and test has the class {differ}", "the same classes in both")
        parts["test"] = _files(settings, path / "test", classes)
    digest = hashlib.sha256(_options(settings).encode())
    bad: list[tuple[str, PictureError]] = []
    sizes: dict[tuple[int, int], str] = {}  # of the pictures, with the first that has it
    grey, good = True, {part: list[tuple[str, int]]() for part in parts}
    for part, files in parts.items():
        for file, label in files:
            try:
                content = pictures.content_of(Path(file))
                picture = pictures.opened(content)
            except PictureError as error:
                bad.append((file, error))
                continue
            digest.update(f"{part}\0{file[len(str(path)) :]}\0".encode("utf-8", "surrogateescape"))
            digest.update(hashlib.sha256(content).digest())
            sizes.setdefault(pictures.size_of(picture), file)
            grey = grey and pictures.is_grey(picture)
            good[part].append((file, label))
    _left_out(settings, bad)
    _all_there(settings, classes, good)
    if settings.size is None and len(sizes) > 1:
        (one, first), (other, second) = list(sizes.items())[:2]
        are = f"{first} is {one[0]} × {one[1]}, {second} is {other[0]} × {other[1]}"
        raise RequestError(f"data.size=null: pictures of several sizes ({are}); allowed: data.size=[HEIGHT,WIDTH]")
    size = settings.size or list(next(iter(sizes)))
    channels = settings.channels or (1 if grey else 3)
    if not top:
        labels = np.array([label for _, label in good["train"]])
        train, test = _split(settings, labels)
        everything = good["train"]
        good = {"train": [everything[at] for at in train], "test": [everything[at] for at in test]}
    _check_enough(settings, [label for _, label in good["train"]])
    found = Contents(channels=channels, size=size, classes=classes, digest=digest.hexdigest()[:32])
    return _Source(found, functools.partial(_decode, settings, found, good))


def _left_out(settings: Folder, bad: Sequence[tuple[str, PictureError]]) -> None:
    """Refuse the first bad picture, or name those that are left out."""
    if bad and not settings.skip_bad:
        file, why = bad[0]
        fault, _, allowed = str(why).partition("; allowed: ")
        more = f" ({len(bad) - 1:,} more like it)" if len(bad) > 1 else ""
        allowed = f"{allowed or 'pictures that can be read'}; or data.skip_bad=true"
        raise _refused(settings, f"{file}: {fault}{more}", allowed)
    for file, why in bad[:10]:
        log.warning("left out: %s: %s", file, why)
    if len(bad) > 10:
        log.warning("left out: %d more", len(bad) - 10)


def _all_there(settings: Folder, classes: Sequence[str], good: dict[str, list[tuple[str, int]]]) -> None:
    counts = Counter(label for _, label in good["train"])
    if empty := [name for label, name in enumerate(classes) if not counts[label]]:
        raise _refused(settings, f"no picture of the class {empty[0]} can be read", "at least one for each class")


def _decode(settings: Folder, found: Contents, parts: dict[str, list[tuple[str, int]]], folder: Path) -> None:
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
            raise _refused(settings, f"no picture for the {part} part can be read", "at least one")
        save(folder, part, images[:count], labels[:count])
        if part == "train":
            if len(np.unique(labels[:count])) < len(found.classes):
                raise _refused(settings, "a class has no picture that can be read", "at least one for each class")
            _check_enough(settings, labels[:count])
        (folder / "all.npy").unlink()
    _left_out(settings, bad)


# ---- a file of numpy's


def _arrays(settings: Arrays) -> _Source:
    path, allowed = Path(settings.path), "a file of numpy.savez with images and labels"
    try:
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)  # a pickled object could be any code
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise _refused(settings, "a single array", allowed)
            names, known = archive.files, ("images", "labels", "test_images", "test_labels", "class_names")
            found = {name: archive[name] for name in known if name in names}
        digest = hashlib.sha256(_options(settings).encode() + path.read_bytes()).hexdigest()[:32]
    except RequestError:
        raise
    except OSError as error:
        raise _refused(settings, f"cannot be read ({error.strerror or one_line(error, 100)})", allowed) from error
    except Exception as error:  # of a damaged file numpy, zipfile and zlib raise anything
        why = f"damaged ({one_line(error, 100)})"
        if "allow_pickle" in str(error):  # which numpy says of any file that it does not know, too
            within = zipfile.is_zipfile(path)
            why = "it holds pickled objects, which are never loaded" if within else "no file of numpy's"
        raise _refused(settings, why, f"{allowed}, of numbers") from error
    if lacking := [name for name in ("images", "labels") if name not in found]:
        raise _refused(settings, f"no {lacking[0]} among {', '.join(names) or 'nothing'}", allowed)
    if ("test_images" in found) != ("test_labels" in found):
        raise _refused(settings, "one of test_images and test_labels alone", "both or none")
    images, labels = _checked(settings, found, "")
    parts = {"train": (images, labels)}
    classes = int(labels.max()) + 1
    if not 2 <= classes <= MOST_CLASSES:
        raise _refused(settings, f"labels 0 … {classes - 1:,}", f"2 to {MOST_CLASSES:,} classes")
    if empty := sorted({*range(classes)} - {*np.unique(labels).tolist()}):
        raise _refused(settings, f"no image with the label {empty[0]}", f"labels 0 … {classes - 1}, each at least once")
    if "test_images" in found:
        parts["test"] = test_images, test_labels = _checked(settings, found, "test_")
        if test_images.shape[1:] != images.shape[1:] or test_labels.max() >= classes:
            are = f"test_images of {test_images.shape[1:]}, labels to {test_labels.max()}"
            raise _refused(settings, are, f"as images and labels, {images.shape[1:]} and at most {classes - 1}")
    else:
        parts = dict(
            zip(parts | {"test": 0}, ((images[at], labels[at]) for at in _split(settings, labels)), strict=True)
        )
    _check_enough(settings, parts["train"][1])
    called = [str(name) for name in np.atleast_1d(found.get("class_names", np.arange(classes)))]
    if len(called) != classes:
        raise _refused(settings, f"{len(called)} class_names for {classes} classes", "one for each")
    channels, *size = images.shape[1:]
    about = Contents.model_validate({"channels": channels, "size": size, "classes": called, "digest": digest})
    return _Source(about, functools.partial(_save_all, parts))


def _save_all(parts: dict[str, tuple[Array, Array]], folder: Path) -> None:
    for part, (images, labels) in parts.items():
        save(folder, part, images, labels)


def _checked(settings: Arrays, found: dict[str, Array], of: str) -> tuple[Array, Array]:
    """Images (N, channels, height, width) uint8 and labels (N,) of a file, or a RequestError."""
    images, labels = found[f"{of}images"], found[f"{of}labels"]
    form = "(N, H, W), (N, H, W, C) or (N, C, H, W) uint8, 0 … 255, with 1 or 3 channels C"
    if images.ndim == 4 and images.shape[3] in (1, 3):
        images = images.transpose(0, 3, 1, 2)
    elif images.ndim == 3:
        images = images[:, None]
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3) or not images.size:
        shape = found[f"{of}images"].shape
        raise _refused(settings, f"{of}images is {text(list(shape))} {images.dtype}", form)
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or (len(labels) and int(labels.min()) < 0):
        low = f", lowest {labels.min()}" if labels.dtype.kind in "iu" and labels.size else ""
        raise _refused(
            settings, f"{of}labels is {text(list(labels.shape))} {labels.dtype}{low}", "(N,) integers from 0"
        )
    if len(images) != len(labels):
        raise _refused(settings, f"{len(images):,} {of}images and {len(labels):,} {of}labels", "as many of each")
    return images, labels
