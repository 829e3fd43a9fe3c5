"""An image set of the user's own, wherever it comes from: what was seen of it, and how it is refused."""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mnist_sweep.config.image_data import Arrays, Contents, Folder
from mnist_sweep.errors import RequestError
from mnist_sweep.training.kept_images import VERSION, Array, part_of

Own = Folder | Arrays

#: A set of so many classes is still images of classes, rather than a mistake.
MOST_CLASSES = 1_000


@dataclass(frozen=True)
class Source:
    """An image set that has been looked through."""

    contents: Contents
    write: Callable[[Path], None] = field(repr=False)


def refused(settings: Own, why: str, allowed: str) -> RequestError:
    """What is wrong with a set, and what is allowed, in one line."""
    return RequestError(f"data.path={settings.path}: {why}; allowed: {allowed}")


def options(settings: Own) -> str:
    """What bears on the images besides their files."""
    keys = {"name", "size", "channels", "skip_bad", "test_share"}
    return json.dumps([VERSION, settings.model_dump(include=keys)], sort_keys=True)


def split(settings: Own, labels: Array) -> tuple[Array, Array]:
    """Positions of the training and of the test images, where the set says nothing of them; no seed bears on them."""
    count = min(max(1, round(len(labels) * settings.test_share)), len(labels) - 1)
    return part_of(labels, count, np.random.default_rng(0))


def check_enough(settings: Own, labels: Array | Sequence[int]) -> None:
    """Refuse training images with these labels (N,) where no class has two: one is for the validation."""
    if np.unique(labels, return_counts=True)[1].max() < 2:
        why = "one training image of each class, which leaves none for validation"
        raise refused(settings, why, "two of some class, besides those for the test")


def below(folder: Path) -> list[str]:
    """All files below a folder, sorted; hidden ones are none of a set."""
    found = []
    for where, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [f"{where}/{name}" for name in files if not name.startswith(".")]
    return sorted(found)
