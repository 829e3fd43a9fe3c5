"""The far side of a Ray cluster's workers: what an actor does on its machine, without the sweep's disk."""

import contextlib
import logging.handlers
import os
import queue
import tempfile
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from mnist_sweep.config import schema
from mnist_sweep.config.command import CommandLine
from mnist_sweep.result import Result
from mnist_sweep.run_folder import RunFolder
from mnist_sweep.sweep.workers.messages import OnEpoch, Stopped, Task, Train
from mnist_sweep.sweep.workers.worker import Worker

#: Seconds after which a worker that has nothing to say answers all the same.
_QUIET = 10.0

#: Files by their paths below the folder of all runs; None = one that is gone.
Files = dict[str, bytes | None]


@dataclass(frozen=True)
class Sent(Task):
    """A task as it travels: with its config, since configs are files, and what the folders of its runs hold."""

    config: schema.Config | None = None
    files: Files = field(default_factory=dict)


class _Channel:
    """What a `Worker` takes for its connection to the sweep."""

    def __init__(self) -> None:
        self.inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.outbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.recv, self.send = self.inbox.get, self.outbox.put


class Actor:
    """A worker in a process of Ray's; its first arguments are those of `_Cluster`."""

    def __init__(
        self, environment: dict[str, str], folder: str, train: Train, common: CommandLine | None,
        config: schema.Config | None, images: "dict[str, np.ndarray] | None",
    ) -> None:  # fmt: skip
        os.environ.update(environment)
        with contextlib.suppress(OSError):  # where the sweep's machine is this one, its paths mean the same
            os.chdir(folder)
        self._train, self._data_root = train, None
        if config and images is not None and common:
            self._data_root = _placed(images)
            data = config.data.below(self._data_root) if self._data_root else config.data
            common = common.composed_as(config.model_copy(update={"data": data}))
        self._channel = _Channel()
        worker = Worker(self._channel, gone=lambda: os._exit(1))  # type: ignore[arg-type]
        logging.root.handlers = [logging.handlers.QueueHandler(worker)]  # type: ignore[arg-type]
        logging.root.setLevel(logging.INFO)
        self._channel.inbox.put((self._perform, common))
        threading.Thread(target=worker.live, daemon=True).start()

    def tell(self, message: Any) -> None:
        """Take a message of the sweep's."""
        if isinstance(message, Sent) and message.config:
            message = replace(message, command=message.command.composed_as(message.config))
        self._channel.inbox.put(message)

    def hear(self) -> list[Any]:
        """What the worker has said since; none where it says nothing for a while."""
        said: list[Any] = []
        with contextlib.suppress(queue.Empty):
            said.append(self._channel.outbox.get(timeout=_QUIET))
            while True:
                said.append(self._channel.outbox.get_nowait())
        return said

    def _perform(self, task: Task, on_epoch: OnEpoch, stopped: Stopped) -> Result | None:
        """Train in folders of this machine, and send what is new in them before each report and at the end.

        A trial of several seeds has a folder for each, of which the later ones are sent at the end.
        """
        assert isinstance(task, Sent)
        assert task.config is not None
        scratch = tempfile.TemporaryDirectory(prefix="mnist_sweep-", ignore_cleanup_errors=True)
        home, runs = RunFolder.of(task.config).path, Path(scratch.name)
        write(runs, task.files)
        seen = _stamps(runs)

        def send_new() -> None:
            now = _stamps(runs)
            changed: Files = {str(path.relative_to(runs)): None for path in seen.keys() - now.keys()}
            changed |= {str(path.relative_to(runs)): path.read_bytes() for path in now if now[path] != seen.get(path)}
            seen.clear()
            seen.update(now)
            if changed:
                self._channel.send(("files", changed))

        def after_epoch(epoch: int, values: dict[str, float]) -> Any:
            send_new()
            return on_epoch(epoch, values)

        try:
            here = replace(task, folder=runs / home.name, data_root=self._data_root)
            result = self._train(here, after_epoch, stopped)
            return replace(result, folder=str(home)) if result else None
        finally:
            send_new()
            scratch.cleanup()


def _stamps(folder: Path) -> dict[Path, tuple[int, int]]:
    """The files below a folder, with what tells that one has changed; not what is being written."""
    whole = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".part"]
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in whole if path.name[0] != "."}


def write(folder: Path, files: Files) -> None:
    """Write files below a folder, each whole or not at all, and remove those that are gone."""
    for name, content in files.items():
        path = folder / name
        if content is None:
            path.unlink(missing_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_name(f".{path.name}.part")
            part.write_bytes(content)
            part.replace(path)


def _placed(images: "dict[str, np.ndarray]") -> str | None:
    """The ``data.root`` of this machine, where the first of its workers leaves the images; None if there are none."""
    if not images:
        return None
    root = Path(tempfile.gettempdir()) / f"mnist_sweep-images-{os.getuid()}"
    root.mkdir(mode=0o700, exist_ok=True)
    with FileLock(root / ".lock"):
        for name, content in images.items():
            path = root / name
            if not path.is_file() or path.stat().st_size != content.size:
                path.parent.mkdir(parents=True, exist_ok=True)
                content.tofile(part := path.with_name(f"{path.name}.part"))
                part.replace(path)
    return str(root)
