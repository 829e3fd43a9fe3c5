"""What several tests need: the real digits where they are at hand, a small request, the program as a process."""

import os
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import coverage
import hypothesis
import pytest

from mnist_sweep.errors import Interrupted
from mnist_sweep.result import Result

ROOT = Path(__file__).parent.parent
hypothesis.settings.register_profile("untimed", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("untimed")
#: A run of a second: 200 images, one epoch, a small network, no account.
SMALL = [
    "data=mnist5k",
    "data.limit=200",
    "trainer.max_epochs=1",
    "model.filters=[4]",
    "model.hidden=[16]",
    "trainer.threads=1",
    "trainer.accelerator=cpu",
    "tracking=none",
]

Program = Callable[..., subprocess.CompletedProcess[str]]
Perform = Callable[..., Result]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Without coverage's tracers where a test is marked ``untraced``, nor while what it needs is set up.

    Of pytest-cov's own marker, ``no_cover``, only the upper one of the two in a worker of pytest-xdist knows.
    """
    stopped: list[coverage.Coverage] = []
    while item.get_closest_marker("untraced") and (running := coverage.Coverage.current()):
        running.stop()
        stopped.append(running)
    try:
        return (yield)
    finally:
        for tracer in reversed(stopped):
            tracer.start()


@pytest.fixture(scope="session")
def mnist() -> Path:
    """The folder of the real MNIST."""
    folder = os.environ.get("MNIST_SWEEP_DATA")
    if not folder or not (Path(folder) / "MNIST" / "raw").is_dir():
        pytest.skip("MNIST_SWEEP_DATA does not name a folder with MNIST")
    return Path(folder).resolve()


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """``python -m mnist_sweep ARGUMENTS`` in an empty folder, without the real MNIST; gives the finished process."""

    def call(*arguments: str, module: str = "mnist_sweep", **environment: str) -> subprocess.CompletedProcess[str]:
        inherited = {key: value for key, value in os.environ.items() if key != "MNIST_SWEEP_DATA"}
        return subprocess.run(
            [sys.executable, "-m", module, *arguments],
            cwd=tmp_path,
            env={**inherited, "PYTHONPATH": str(ROOT), **environment},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    return call


@pytest.fixture
def perform(tmp_path: Path) -> Perform:
    """A small run with further overrides, in a folder of the test."""

    def call(*items: str, **arguments: Any) -> Result:
        from mnist_sweep.config.command import compose
        from mnist_sweep.run import run

        given = [*SMALL, f"output={tmp_path}", "name=it", *items]
        given = [item for item in given if item.split("=")[0] not in {i.split("=")[0] for i in items} or item in items]
        return run(compose(given), given, **arguments)

    return call


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Results must not depend on the machine's cores; small networks are faster so, too."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep ends without its report, which has tests of its own and takes most of a small sweep's time."""
    monkeypatch.setattr("mnist_sweep.sweep.report.report", lambda *_: None)


@pytest.fixture
def fresh_stubs() -> Iterator[None]:
    """Nothing has been performed by the stubs, and nothing twists their results."""
    from tests import stubs

    stubs.performed.clear()
    stubs.twist.clear()
    yield
    stubs.twist.clear()


def interrupt_in(last: int) -> Callable[[int, dict[str, float]], bool]:
    """A report that is interrupted at the end of this epoch."""

    def report(epoch: int, _: dict[str, float]) -> bool:
        if epoch == last:
            raise Interrupted(2)
        return True

    return report
