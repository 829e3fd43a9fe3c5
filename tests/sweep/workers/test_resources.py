"""How a sweep divides a machine."""

import contextlib
import socket
import threading
from types import SimpleNamespace

import pytest
import torch

from mnist_sweep import hardware
from mnist_sweep.config.command import CommandLine
from mnist_sweep.errors import RequestError
from mnist_sweep.sweep.workers import cluster
from mnist_sweep.sweep.workers.resources import divide

_FEW = ["sweep.trials=3", "sweep.winner.top=1", "sweep.winner.seeds=2"]


@pytest.mark.parametrize(
    ("cores", "memory", "overrides", "divided"),
    [
        (2, [], [], (2, 1, 0)),
        (16, [80], [], (8, 2, 1)),
        (2, [80], [], (2, 1, 1)),
        (16, [80, 4.5], [], (4, 4, 2)),
        (16, [1], [], (1, 16, 1)),
        (4, [80] * 8, [], (8, 1, 8)),
        (64, [80, 80], _FEW, (4, 16, 2)),
        (64, [80, 80], [*_FEW, "sweep.workers=5"], (5, 12, 2)),
        (16, [80, 80], ["launcher=inline"], (1, 16, 1)),
        (2, [80], ["trainer.accelerator=cpu"], (2, 1, 0)),
    ],
)
def test_workers_by_cores_and_by_the_memory_of_gpus_and_no_more_than_there_is_work_for(
    monkeypatch: pytest.MonkeyPatch, cores: int, memory: list[float], overrides: list[str], divided: tuple[int, ...]
) -> None:
    """So many workers, each with so many threads, on so many GPUs."""
    monkeypatch.setattr(hardware, "cores", lambda: cores)
    monkeypatch.setattr(hardware, "memory", lambda: 512.0 * 2**30)
    monkeypatch.setattr(hardware, "gpus", lambda: tuple(map(str, range(len(memory)))))
    found = [SimpleNamespace(total_memory=int(gigabytes * 2**30)) for gigabytes in memory]
    monkeypatch.setattr(torch.cuda, "get_device_properties", found.__getitem__)
    resources = divide(CommandLine.of(["+sweep=optuna", "trainer.precision=32", *overrides]))
    assert (resources.workers, resources.threads, len(resources.gpus)) == divided


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["launcher=inline", "sweep.workers=2"], "sweep.workers=2: launcher=inline has one; allowed: launcher=local"),
        (["trainer.accelerator=gpu"], "trainer.accelerator=gpu: no GPU here that torch can use; allowed: auto, cpu"),
    ],
)
def test_what_a_machine_does_not_have(monkeypatch: pytest.MonkeyPatch, overrides: list[str], said: str) -> None:
    monkeypatch.setattr(hardware, "gpus", tuple)
    with pytest.raises(RequestError) as caught:
        divide(CommandLine.of(["+sweep=optuna", *overrides]))
    assert str(caught.value) == said


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"\0\0\0\x04\0\0\0\0\0", None),  # an empty frame of settings
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", ConnectionError),
        (b"", TimeoutError),
    ],
)
def test_only_a_server_that_answers_as_a_head_does_is_taken_for_one(
    monkeypatch: pytest.MonkeyPatch, answer: bytes, error: type[OSError] | None
) -> None:
    """Ray itself would try for minutes."""
    monkeypatch.setattr(cluster, "_PATIENCE", 2.0 if error is TimeoutError else 60.0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        kept = []

        def serve() -> None:
            kept.append(server.accept()[0])
            kept[0].sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        with pytest.raises(error) if error else contextlib.nullcontext():
            cluster._greet(f"127.0.0.1:{server.getsockname()[1]}")
        for each in kept:
            each.close()
