"""What MLflow could not be told of a run: it is kept in the run's folder and sent later, in its order.

To send a call twice does no harm: metrics have their first moment, a run is found by its key, files take their old
place.
"""

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

#: Seconds for which a process leaves a store alone that did not answer.
LEFT_ALONE = 20.0
#: What reading a damaged line raises.
_DAMAGED = (AttributeError, IndexError, KeyError, RecursionError, TypeError, ValueError)
_silent: dict[str, float] = {}  # until when, on the monotonic clock, by address


def is_silent(uri: str) -> bool:
    """Whether a store did not answer a moment ago."""
    return time.monotonic() < _silent.get(uri, 0.0)


def leave_alone(uri: str, seconds: float = LEFT_ALONE) -> None:
    """Ask a store nothing for a while."""
    _silent[uri] = time.monotonic() + seconds


@dataclass(frozen=True)
class Journal:
    """The calls of one run, a line of JSON each in ``unsent.jsonl``, their name and their arguments; the first is
    ``run``, with what the run is made of. Files that are nowhere else lie in ``unsent/``.
    """

    folder: Path  # of the run

    @property
    def file(self) -> Path:
        """Where the calls are; it is there only while there are any."""
        return self.folder / "unsent.jsonl"

    @property
    def files(self) -> Path:
        """The folder of the files."""
        return self.folder / "unsent"

    def add(self, call: str, arguments: dict[str, Any], run: dict[str, Any]) -> None:
        """Keep a call; an OSError says that it cannot be written."""
        with self._held():
            lines = self._lines() or [json.dumps(["run", run])]
            self._write([*lines, json.dumps([call, arguments])])

    def run(self) -> dict[str, Any]:
        """What the run is made of; empty where all has been sent, or the file is damaged."""
        with contextlib.suppress(*_DAMAGED):
            call, known = json.loads(self._lines()[0])
            tags = {str(key): str(value) for key, value in known["tags"].items()}
            if call == "run" and isinstance(known["resume"], str | None):
                return {"tags": tags, "resume": known["resume"], "started": int(known["started"])}
        return {}

    def send(self, perform: Callable[[str, dict[str, Any]], bool]) -> bool:
        """Perform the calls and forget each that got through; whether none is left.

        One for which `perform` returns False stays. An error of its ends this; the calls from there on stay.
        """
        with self._held():
            first, *lines = self._lines() or [""]
            stay: list[str] = []
            try:
                while lines:
                    try:
                        call, arguments = json.loads(lines[0])
                    except _DAMAGED:  # by whatever has been at the file
                        call, arguments = "begin", {}
                    if not perform(call, arguments):
                        stay.append(lines[0])
                    elif call == "file":
                        with contextlib.suppress(*_DAMAGED):
                            self.drop(self.folder / arguments["path"])
                    del lines[0]
            finally:
                self._write([first, *stay, *lines] if stay or lines else [])
        return not stay

    @contextlib.contextmanager
    def _held(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.folder / ".unsent.lock", timeout=60, mode=0o666)
        with lock:
            yield
            if not self.file.exists():
                (self.folder / ".unsent.lock").unlink(missing_ok=True)

    def _lines(self) -> list[str]:
        try:
            return self.file.read_text(encoding="utf-8").splitlines()
        except (FileNotFoundError, UnicodeDecodeError):
            return []

    def _write(self, lines: list[str]) -> None:
        if lines:
            part = self.file.with_suffix(".part")
            part.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
            part.replace(self.file)
        else:
            self.file.unlink(missing_ok=True)

    def drop(self, file: Path) -> None:
        """Remove a file that has been sent, where it lies here for this alone, and the folders that are empty then."""
        with contextlib.suppress(OSError):
            path = Path(os.path.normpath(file))
            if path.is_relative_to(self.files):
                path.unlink()
                for folder in path.relative_to(self.folder).parents[:-1]:
                    (self.folder / folder).rmdir()
