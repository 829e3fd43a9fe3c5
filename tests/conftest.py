"""What several tests need: the real digits where they are at hand, a small request, the program as a process."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from filelock import FileLock

from mnist_sweep.config.command import CommandLine
from mnist_sweep.errors import Interrupted
from mnist_sweep.result import Result
from mnist_sweep.tracking import journal

ROOT = Path(__file__).parent.parent
os.environ["OMP_NUM_THREADS"] = "1"  # read by torch when it is imported; small networks are faster so, too
hypothesis.settings.register_profile("untimed", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("untimed")
#: A run of a second: 200 images, one epoch, a small network, no MLflow.
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


def command(output: Path, name: str, *items: str) -> CommandLine:
    """The command line of a small run; further overrides take the place of the same ones."""
    return CommandLine.of(SMALL).add(f"output={output}", f"name={name}", *items)


def tracked(output: Path, name: str, *items: str) -> CommandLine:
    """The same with MLflow, in the store of the folder."""
    return command(output, name, "tracking=mlflow", *items)


@pytest.fixture(autouse=True)
def _on_its_own() -> Iterator[None]:
    """A store that did not answer in one test is not left alone in the next, nor is one test's store the next one's."""
    journal._silent.clear()
    before = os.environ.get("MLFLOW_TRACKING_URI")
    yield
    assert os.environ.get("MLFLOW_TRACKING_URI") == before


@pytest.fixture(scope="session")
def mnist() -> Path:
    """The folder of the real MNIST."""
    folder = os.environ.get("MNIST_SWEEP_DATA")
    if not folder or not (Path(folder) / "MNIST" / "raw").is_dir():
        pytest.skip("MNIST_SWEEP_DATA does not name a folder with MNIST")
    return Path(folder).resolve()


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's tables in a file ``mlflow.db``, made once for all processes of the tests, since that takes seconds."""
    from mnist_sweep.tracking.store import client_of

    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    with FileLock(folder / "mlflow.lock"):
        if not (folder / "mlflow.db").exists():
            client_of(f"sqlite:///{folder}/part.db").search_experiments()
            (folder / "part.db").rename(folder / "mlflow.db")
    return folder / "mlflow.db"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Path:
    """An output folder with an MLflow database, for all tests of a file."""
    folder = tmp_path_factory.mktemp("store")
    shutil.copy(empty_store, folder / "mlflow.db")
    return folder


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
    """Train a small run named ``it``, with further overrides, in a folder of the test."""

    def call(*items: str, **arguments: Any) -> Result:
        from mnist_sweep.run import train

        return train(command(tmp_path, "it", *items), **arguments)

    return call


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Results must not depend on the machine's cores, nor on the threads of the test before."""
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)


def interrupt_in(last: int) -> Callable[[int, dict[str, float]], bool]:
    """An `on_epoch` that is interrupted at the end of this epoch."""

    def on_epoch(epoch: int, _: dict[str, float]) -> bool:
        if epoch == last:
            raise Interrupted(2)
        return True

    return on_epoch
