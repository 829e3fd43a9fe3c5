"""Images that are read once and then mapped into memory, and the parts that they are divided into. Without torch.

A folder of them has ``train-images.npy`` (N, channels, height, width) uint8, ``train-labels.npy`` (N,) int64, the same
of ``test``, and, of a set of the user's own, the names of the classes. It is there whole or not at all.
"""

import contextlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mnist_sweep.errors import RequestError

Array = np.ndarray[Any, Any]

#: Of how images are read: another number makes the kept ones void.
VERSION = 1


def stratified(labels: Array, count: int, generator: np.random.Generator) -> Array:
    """Sorted positions (count,) of a part of labels (N,), in which each class has its share (largest remainder)."""
    classes, sizes = np.unique(labels, return_counts=True)
    shares = sizes * count / len(labels)
    quotas = np.floor(shares).astype(int)
    quotas[np.argsort(quotas - shares, kind="stable")[: count - quotas.sum()]] += 1
    members = [generator.permutation(np.flatnonzero(labels == label)) for label in classes]
    return np.sort(np.concatenate([each[:quota] for each, quota in zip(members, quotas, strict=True)]))


def part_of(labels: Array, count: int, generator: np.random.Generator) -> tuple[Array, Array]:
    """Positions of labels (N,) without a `stratified` part of about `count`, and that part; no class is taken whole."""
    part = stratified(labels, count, generator)
    rest = np.setdiff1d(np.arange(len(labels)), part)
    part = part[np.isin(labels[part], labels[rest])]
    return np.setdiff1d(np.arange(len(labels)), part), part


def keep(folder: Path, write: Callable[[Path], None]) -> None:
    """Have `write` fill a folder, which is there whole or not at all; another process may make the same one."""
    with writable(folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".part-", dir=folder.parent))
        try:
            write(scratch)
            scratch.chmod(0o755)
            with contextlib.suppress(OSError):
                scratch.rename(folder)
            if not folder.is_dir():
                raise OSError(None, "cannot be made", str(folder))
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


@contextlib.contextmanager
def writable(cache: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        why = f"{error.filename or cache} cannot be written ({error.strerror or error})"
        raise RequestError(f"data.cache={cache}: {why}; allowed: a folder that can") from error


def save(folder: Path, part: str, images: Array, labels: Array) -> None:
    """Keep a part: images (N, channels, height, width) uint8, labels (N,)."""
    np.save(folder / f"{part}-images.npy", np.ascontiguousarray(images))
    np.save(folder / f"{part}-labels.npy", labels.astype(np.int64))


def load(folder: Path, part: str) -> tuple[Array, Array]:
    """A kept part; its images are mapped into memory, so that the processes of a machine share them."""
    return np.load(folder / f"{part}-images.npy", mmap_mode="c"), np.load(folder / f"{part}-labels.npy")


def load_classes(folder: Path) -> list[str]:
    """The names of the classes of a kept set of the user's own."""
    found: list[str] = json.loads((folder / "classes.json").read_text(encoding="utf-8"))
    return found
