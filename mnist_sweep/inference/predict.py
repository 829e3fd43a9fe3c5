"""Recognise digits: ``python -m mnist_sweep.inference.predict IMAGE… [--model URI | --checkpoint FILE]``."""

import json
import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mnist_sweep import cli as console
from mnist_sweep.inference import preprocess as digits

log = logging.getLogger("mnist_sweep.inference.predict")  # __name__ is __main__ here

_BATCH = 256


@dataclass(frozen=True)
class Answer:
    """What a network says of a picture.

    Attributes:
        image: its path, as given.
        digit: the most probable class.
        probabilities: of the ten classes; they sum to 1.
    """

    image: str
    digit: int
    probabilities: list[float]


def answers(classifier: Any, paths: Sequence[Path]) -> Iterator[Answer | None]:
    """Recognise the pictures in these files, in order and in batches; None for each that cannot be read, after a line.

    Args:
        classifier: a `Classifier` or an `Ensemble`.
        paths: of PNG and JPEG files.
    """
    import torch

    from mnist_sweep.training import trained_model as inspection

    formed = digits.normalised if classifier.config.data.name in console.DIGITS else digits.as_it_is
    for start in range(0, len(paths), _BATCH):
        batch = paths[start : start + _BATCH]
        read: list[Any] = []
        for path in batch:
            try:
                read.append(formed(digits.read(path)))
            except digits.PictureError as error:
                log.error("error: %s: %s", path, error)
                read.append(None)
        pictures = [each for each in read if each is not None]
        if pictures:
            images = torch.from_numpy(np.stack(pictures)).unsqueeze(1)
            said = iter(inspection.probabilities(classifier, images))
        for path, picture in zip(batch, read, strict=True):
            if picture is None:
                yield None
            else:
                row = next(said)
                yield Answer(str(path), int(row.argmax()), [float(value) for value in row])


def files(given: Sequence[Path]) -> Iterator[Path]:
    """The files that are meant: those given, and of a folder its pictures by name, also in folders within it.

    Yields:
        Also what is not there, for which there will be a line.
    """
    for path in given:
        if _is_folder(path):
            found = (file for file in path.rglob("*") if file.suffix.lower() in digits.SUFFIXES)
            yield from sorted(file for file in found if not _is_folder(file))
        else:
            yield path


def _is_folder(path: Path) -> bool:
    """Whether it is one that can be looked at; of what cannot, reading it says why."""
    try:
        return path.is_dir()
    except OSError:
        return False


def perform(arguments: Sequence[str]) -> int:
    """Answer to what was asked; the exit code is 1 where a picture could not be read."""
    parser = console.parser("predict", "Recognise handwritten digits, one line of JSON each; a table on a terminal.")
    parser.add_argument("images", nargs="+", metavar="IMAGE", type=Path, help="a PNG or JPEG file, or a folder of them")
    parser.add_argument("--json", action="store_true", help="lines of JSON also on a terminal")
    console.add_model(parser)
    options = parser.parse_args(arguments)
    classifier, name = console.classifier(options)
    empty = [path for path in options.images if _is_folder(path) and not list(files([path]))]
    for path in empty:
        log.error("error: %s: no pictures in this folder; allowed: %s", path, ", ".join(digits.SUFFIXES))
    paths = list(files(options.images))
    found = _shown(answers(classifier, paths), len(paths))
    right = _table(found, name) if sys.stdout.isatty() and not options.json else _lines(found)
    return console.FAILED if empty or not right else console.DONE


def _shown(found: Iterator[Answer | None], count: int) -> Iterator[Answer | None]:
    """The same answers, with a progress bar on a terminal where there are many."""
    from rich.console import Console
    from rich.progress import track

    terminal = Console(stderr=True)
    few = count < _BATCH or not sys.stderr.isatty()
    return iter(track(found, "recognising", total=count, console=terminal, transient=True, disable=few))


def _lines(found: Iterator[Answer | None]) -> bool:
    """A line of JSON for each; whether all could be read."""
    right = True
    for answer in found:
        if answer is None:
            right = False
        else:
            print(json.dumps(asdict(answer)), flush=True)
    return right


def _table(found: Iterator[Answer | None], name: str) -> bool:
    """A table of all; whether all could be read."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(name), box=box.SIMPLE, title_justify="left")
    for column in ("image", "digit", "probability", "next"):
        table.add_column(column, overflow="fold")
    right = True
    for answer in found:
        if answer is None:
            right = False
            continue
        order = np.argsort(answer.probabilities)[::-1]
        others = "  ".join(f"{label}: {100 * answer.probabilities[label]:.1f}%" for label in order[1:3])
        image = Text(answer.image)  # in a plain string, Rich takes [a] and :cat: for markup
        table.add_row(image, str(answer.digit), f"{100 * answer.probabilities[order[0]]:.1f}%", others)
    Console().print(table)
    return right


if __name__ == "__main__":
    console.leave(lambda: console.run(lambda: perform(sys.argv[1:])))
