"""Image sets of the user's own: a file of numpy's, with images and labels. Without torch."""

import functools
import hashlib
import zipfile
from pathlib import Path

import numpy as np

from mnist_sweep.config.image_data import Arrays, Contents
from mnist_sweep.config.overrides import text
from mnist_sweep.errors import RequestError, one_line
from mnist_sweep.training.image_source import MOST_CLASSES, Source, check_enough, options, refused, split
from mnist_sweep.training.kept_images import Array, save


def look_through(settings: Arrays) -> Source:
    """Read a file, and check what is in it."""
    path, allowed = Path(settings.path), "a file of numpy.savez with images and labels"
    try:
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)  # a pickled object could be any code
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise refused(settings, "a single array", allowed)
            names, known = archive.files, ("images", "labels", "test_images", "test_labels", "class_names")
            found = {name: archive[name] for name in known if name in names}
        digest = hashlib.sha256(options(settings).encode() + path.read_bytes()).hexdigest()[:32]
    except RequestError:
        raise
    except OSError as error:
        raise refused(settings, f"cannot be read ({error.strerror or one_line(error, 100)})", allowed) from error
    except Exception as error:  # of a damaged file numpy, zipfile and zlib raise anything
        why = f"damaged ({one_line(error, 100)})"
        if "allow_pickle" in str(error):  # which numpy says of any file that it does not know, too
            within = zipfile.is_zipfile(path)
            why = "it holds pickled objects, which are never loaded" if within else "no file of numpy's"
        raise refused(settings, why, f"{allowed}, of numbers") from error
    if lacking := [name for name in ("images", "labels") if name not in found]:
        raise refused(settings, f"no {lacking[0]} among {', '.join(names) or 'nothing'}", allowed)
    if ("test_images" in found) != ("test_labels" in found):
        raise refused(settings, "one of test_images and test_labels alone", "both or none")
    images, labels = _checked(settings, found, "")
    parts = {"train": (images, labels)}
    classes = int(labels.max()) + 1
    if not 2 <= classes <= MOST_CLASSES:
        raise refused(settings, f"labels 0 … {classes - 1:,}", f"2 to {MOST_CLASSES:,} classes")
    if empty := sorted({*range(classes)} - {*np.unique(labels).tolist()}):
        raise refused(settings, f"no image with the label {empty[0]}", f"labels 0 … {classes - 1}, each at least once")
    if "test_images" in found:
        parts["test"] = test_images, test_labels = _checked(settings, found, "test_")
        if test_images.shape[1:] != images.shape[1:] or test_labels.max() >= classes:
            are = f"test_images of {test_images.shape[1:]}, labels to {test_labels.max()}"
            raise refused(settings, are, f"as images and labels, {images.shape[1:]} and at most {classes - 1}")
    else:
        both = zip(("train", "test"), split(settings, labels), strict=True)
        parts = {part: (images[at], labels[at]) for part, at in both}
    check_enough(settings, parts["train"][1])
    called = [str(name) for name in np.atleast_1d(found.get("class_names", np.arange(classes)))]
    if len(called) != classes:
        raise refused(settings, f"{len(called)} class_names for {classes} classes", "one for each")
    channels, *size = images.shape[1:]
    about = Contents.model_validate({"channels": channels, "size": size, "classes": called, "digest": digest})
    return Source(about, functools.partial(_save_all, parts))


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
        raise refused(settings, f"{of}images is {text(list(shape))} {images.dtype}", form)
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or (len(labels) and int(labels.min()) < 0):
        low = f", lowest {labels.min()}" if labels.dtype.kind in "iu" and labels.size else ""
        raise refused(settings, f"{of}labels is {text(list(labels.shape))} {labels.dtype}{low}", "(N,) integers from 0")
    if len(images) != len(labels):
        raise refused(settings, f"{len(images):,} {of}images and {len(labels):,} {of}labels", "as many of each")
    return images, labels
