"""Image sets of the user's own: a folder of pictures, or a file of numpy's. Without torch."""

import contextlib
import functools
import hashlib
import json
import os
from pathlib import Path

from mnist_sweep.config.image_data import Arrays, Contents, Folder
from mnist_sweep.training import numpy_file, picture_folder
from mnist_sweep.training.image_source import Own, Source, below, options, refused
from mnist_sweep.training.kept_images import keep, writable


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
        raise refused(settings, why, f"the files as they were, or data.cache with {settings.contents.digest} in it")
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


def _identity(settings: Own) -> tuple[str, str]:
    """The folder of what is kept, and a digest of the files' names, sizes and times: they need not be read again."""
    found = hashlib.sha256(options(settings).encode() + settings.path.encode())
    path = Path(settings.path)
    for file in [path] if path.is_file() else below(path):
        with contextlib.suppress(OSError):
            stat = os.stat(file)  # noqa: PTH116  # faster, of which there may be 100,000
            found.update(f"{file}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
    return settings.cache, found.hexdigest()[:32]


def _known(cache: str, listing: str) -> Contents | None:
    with contextlib.suppress(OSError, ValueError):
        found = Contents.model_validate_json(Path(cache, f"{listing}.json").read_text(encoding="utf-8"))
        return found if Path(cache, found.digest).is_dir() else None
    return None


def _source(settings: Own) -> Source:
    return _looked_through(settings.model_dump_json(exclude={"augmentation", "contents"}), *_identity(settings))


@functools.lru_cache(maxsize=4)
def _looked_through(settings: str, _cache: str, _listing: str) -> Source:
    plain = {**json.loads(settings), "augmentation": {"rotation": 0.0, "shift": 0.0, "scale": 0.0}}
    own: Own = (Folder if plain["name"] == "folder" else Arrays).model_validate(plain)
    return picture_folder.look_through(own) if isinstance(own, Folder) else numpy_file.look_through(own)
