"""Workers on a Ray cluster (https://docs.ray.io): actors, that hear and say what a worker's process does.

Ray places them, carries what is said, and tells that one is gone; it restarts nothing by itself. There is no disk in
common: before each report, and at its end, a worker sends what is new in its run's folder, so that another one can go
on with the run. The images travel once to each machine.
"""

import contextlib
import logging
import math
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from mnist_sweep import hardware
from mnist_sweep.config import image_data, options, schema
from mnist_sweep.config.command import CommandLine
from mnist_sweep.errors import RequestError, handlers_kept, one_line
from mnist_sweep.result import Result
from mnist_sweep.sweep.workers.actor import Actor, Sent, write
from mnist_sweep.sweep.workers.messages import Task, Train
from mnist_sweep.sweep.workers.pool import Handle, Workers
from mnist_sweep.sweep.workers.seeds import further
from mnist_sweep.sweep.workers.worker import WORKER_ENVIRONMENT
from mnist_sweep.training import datasets

log = logging.getLogger(__name__)

#: Seconds in which a cluster answers, or is not there.
_PATIENCE = 8.0
#: Seconds for which what the cluster has is not asked again.
_LOOK_EVERY = 5.0
#: Read by Ray when it is imported, or starts: no reports to its makers; no GPU is hidden behind a warning.
_ENVIRONMENT = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}

#: What a client of HTTP/2 says first (RFC 9113, 3.4), with an empty frame of settings.
_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\x04\0\0\0\0\0"

#: Not empty where this process has joined a cluster for a sweep.
_joined: list[bool] = []


def connect(launcher: options.RayLauncher) -> Any:
    """Ray, connected to the cluster; a RequestError, within ten seconds, where that is not to be had."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    where = f"launcher.address={launcher.address}"
    try:
        import ray
    except ImportError as error:
        allowed = 'pip install "mnist_sweep[ray]", or launcher=local'
        raise RequestError(f"launcher=ray: {error}; allowed: {allowed}") from error
    if ray.is_initialized():  # also by the user's own program
        return ray
    try:
        if launcher.address not in (None, "auto"):
            _greet(launcher.address)
        more: dict[str, Any] = {} if launcher.address else {"num_cpus": hardware.cores(), "include_dashboard": False}
        more |= {"log_to_driver": False, "logging_level": logging.ERROR}
        with handlers_kept():  # Ray takes SIGTERM for a crash, and aborts
            ray.init(launcher.address or "local", runtime_env={"py_modules": [str(Path(__file__).parents[2])]}, **more)
    except Exception as error:  # Ray's own, and those of what it stands on
        allowed = "allowed: HOST:PORT of a Ray cluster's head, on one of its machines; or null"
        raise RequestError(f"{where}: no cluster can be had ({one_line(error, 200)}); {allowed}") from error
    _joined.append(True)
    return ray


def _greet(address: str) -> None:
    """Raise an error, within `_PATIENCE`, where HOST:PORT is no head of a cluster; Ray would try for minutes."""
    host, _, port = address.partition(":")
    with socket.create_connection((host, int(port)), timeout=_PATIENCE / 2) as connection:
        if os.environ.get("RAY_USE_TLS", "0") == "0":
            connection.sendall(_GREETING)
            if connection.recv(9)[3:4] != b"\x04":  # HTTP/2's frame of settings, which gRPC begins with
                raise ConnectionError("what answers there is no head of a Ray cluster")


def resources(launcher: options.RayLauncher) -> dict[str, float]:
    """What the cluster has now, ``CPU`` and ``GPU`` among it; it raises as `connect` does.

    One on this machine is not started for that.
    """
    if launcher.address is None and not _is_initialized():
        return {"CPU": float(hardware.cores()), "GPU": float(len(hardware.gpus()))}
    found: dict[str, float] = connect(launcher).cluster_resources()
    return found


def _is_initialized() -> bool:
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


def capacity(there: Mapping[str, float], launcher: options.RayLauncher) -> int:
    """Workers that a cluster with these `resources` has room for; a RequestError where that is none."""
    asked = {"CPU": launcher.cpus_per_worker, "GPU": launcher.gpus_per_worker}
    for name, wanted in asked.items():
        if wanted > (has := there.get(name, 0)):
            key = f"launcher.{name.lower()}s_per_worker={wanted:g}"
            raise RequestError(f"{key}: the cluster has {has:g} {name}s; allowed: at most that, or another cluster")
    # a fraction of a GPU is of one of them
    return min(int(there[name] / wanted + 1e-9) for name, wanted in asked.items() if wanted)


def precision(command: CommandLine) -> tuple[hardware.Precision, str]:
    """What ``trainer.precision`` comes to on the machine of a worker."""
    config = command.config
    assert isinstance(config.launcher, options.RayLauncher)
    wanted, gpus = config.trainer.precision, config.launcher.gpus_per_worker
    if wanted != "auto" or config.launcher.address is None:
        return hardware.precision(wanted, gpus > 0)
    ray = connect(config.launcher)
    asked = ray.remote(num_cpus=config.launcher.cpus_per_worker, num_gpus=gpus)(hardware.precision)
    try:
        found: tuple[hardware.Precision, str] = ray.get(asked.remote(wanted, gpus > 0), timeout=60)
    except Exception as error:
        allowed = "allowed: 32, bf16, or a cluster with a free worker"
        said = f"no worker of the cluster says what it can do ({one_line(error, 200)})"
        raise RequestError(f"trainer.precision=auto: {said}; {allowed}") from error
    return found


def open_cluster(train: Train, size: int, command: CommandLine, common: CommandLine | None = None) -> Workers:
    """Workers in actors, each of which finds `train` again by its module and its name.

    Args:
        size: how many there are, although the cluster may not have room for all of them now. Without
            ``sweep.workers`` there are more where the cluster grows.
        command: of the sweep.
        common: what all tasks have in common.
    """
    config = command.config
    assert config.sweep is not None
    cluster = _Cluster(config, train, common)
    room = None if config.sweep.workers else cluster.room
    return Workers(size, cluster.start, cluster.launcher.memory_growth_mb, room=room, end=cluster.end)


class _Cluster:
    """The driver's side: actors are started, and a thread hears what all of them say."""

    def __init__(self, config: schema.Config, train: Train, common: CommandLine | None) -> None:
        assert isinstance(config.launcher, options.RayLauncher)
        assert config.sweep is not None
        self.launcher, self._runs, self._most = config.launcher, Path(config.output) / "runs", config.sweep.total
        self.ray = connect(self.launcher)
        threads = str(max(1, int(self.launcher.cpus_per_worker)))
        given = {name: value for name, value in os.environ.items() if name.startswith("MLFLOW_")}
        hidden = {"OMP_PROC_BIND": "false"} | ({} if self.launcher.gpus_per_worker else {"CUDA_VISIBLE_DEVICES": ""})
        images = self.ray.put(_images(config.data)) if common else None
        common_config = _portable(common.config) if common else None
        first = {**given, **hidden, "OMP_NUM_THREADS": threads}, str(Path.cwd()), train, common, common_config
        actor = self.ray.remote(
            num_cpus=self.launcher.cpus_per_worker, num_gpus=self.launcher.gpus_per_worker,
            max_restarts=0, max_task_retries=0, max_concurrency=2,
            runtime_env={"env_vars": {**WORKER_ENVIRONMENT, **hidden, "OMP_NUM_THREADS": threads}},
        )(Actor)  # fmt: skip
        self._new: Callable[[], Any] = lambda: actor.remote(*first, images)
        self._heard: dict[Any, tuple[_Handle, Connection]] = {}  # by Ray's reference to what each will say next
        self._changing = threading.Lock()
        self._ended = threading.Event()
        self._looked, self._room = -math.inf, 0
        threading.Thread(target=self._listen, daemon=True).start()

    def start(self, _: int) -> Handle:
        """A worker, as soon as the cluster has room for it."""
        ours, theirs = Pipe()
        handle = _Handle(ours, cluster=self, actor=self._new())
        self._hear(handle, theirs)
        return handle

    def room(self) -> int:
        """Workers that there is room and work for now."""
        if time.monotonic() > self._looked + _LOOK_EVERY:
            self._looked = time.monotonic()
            with contextlib.suppress(RequestError):  # the last machine has gone; another one may come
                before, room = self._room, capacity(self.ray.cluster_resources(), self.launcher)
                self._room = int(min(room, self._most))
                if 0 < before < self._room:
                    log.info("the Ray cluster has grown: room for %d workers", self._room)
        return self._room

    def end(self) -> None:
        """Leave the cluster, if this process has joined it for this."""
        self._ended.set()
        if _joined:
            _joined.clear()
            self.ray.shutdown()

    def sent(self, task: Task) -> Task:
        """A task as it travels."""
        config, found = _portable(task.command.config), dict[str, bytes | None]()
        for name in [str(config.name), *further(config, task.seeds).values()] if task.resume else ():
            files = [path for path in (self._runs / name).rglob("*") if path.is_file()]
            found |= {str(path.relative_to(self._runs)): path.read_bytes() for path in files}
        known = {each.name: getattr(task, each.name) for each in fields(Task)}
        return Sent(**known, config=config, files=found)

    def _hear(self, handle: "_Handle", theirs: Connection) -> None:
        with self._changing:
            self._heard[handle.actor.hear.remote()] = handle, theirs

    def _listen(self) -> None:
        """Pass on what the actors say, until the end."""
        while not self._ended.is_set():
            with self._changing:
                waiting = [*self._heard]
            if not waiting or not self.ray.wait(waiting, num_returns=1, timeout=0.2)[0]:
                self._ended.wait(0 if waiting else 0.05)
                continue
            for said in self.ray.wait(waiting, num_returns=len(waiting), timeout=0)[0]:
                with self._changing:
                    handle, theirs = self._heard.pop(said)
                try:
                    for message in self.ray.get(said):
                        self._pass_on(message, theirs)
                    self._hear(handle, theirs)
                except Exception as error:  # the actor, its machine, or our end of the connection is gone
                    with contextlib.suppress(OSError), theirs:
                        theirs.send(("left", one_line(error, 120)))

    def _pass_on(self, message: tuple[Any, ...], theirs: Connection) -> None:
        match message:
            case ("files", changed):
                write(self._runs, changed)
                return
            case ("finished", Result() as result, _) if result.folder and (own := Result.found(Path(result.folder))):
                own.write()  # it names its folder on the worker's disk until now; a trial's is that of its first seed
        theirs.send(message)


@dataclass(eq=False)
class _Handle(Handle):
    """An actor as the sweep sees it."""

    cluster: Any = None
    actor: Any = None

    @property
    def can_be_killed(self) -> bool:
        return True

    def send(self, message: Any) -> None:
        self.actor.tell.remote(self.cluster.sent(message) if isinstance(message, Task) else message)

    def close(self) -> str:
        self.connection.close()
        self.cluster.ray.kill(self.actor)
        return "its process or its machine is gone"


def _images(data: image_data.Data) -> "dict[str, np.ndarray]":
    """The bytes (N,) uint8 of the files that training needs, by their paths below ``data.root``."""
    return {name: np.fromfile(path, np.uint8) for name, path in datasets.needed(data).items()}


def _portable(config: schema.Config) -> schema.Config:
    """The config, with what an image set of the user's own holds: another machine does not have its files."""
    if isinstance(config.data, image_data.KnownSet):
        return config
    data = config.data.model_copy(update={"contents": config.data.found})
    return config.model_copy(update={"data": data})
