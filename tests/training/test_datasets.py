"""Files: verified, named when damaged, had in another way when missing."""

import gc
import gzip
import shutil
import socket
import struct
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torchvision

from mnist_sweep import api
from mnist_sweep.config.command import CommandLine
from mnist_sweep.config.image_data import Data
from mnist_sweep.config.image_sets import IDX_BYTES
from mnist_sweep.errors import RequestError
from mnist_sweep.training import datasets
from mnist_sweep.training.data import test_set as images_of

#: Where Debian's package dataset-fashion-mnist puts its files.
FASHION = Path("/usr/share/datasets/fashion-mnist")
PIXELS, LABELS = "train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"


def data(root: Path | str, *items: str) -> Data:
    return CommandLine.of([f"data.root={root}", *items]).config.data


@pytest.fixture
def copy(mnist: Path, tmp_path: Path) -> Path:
    """A copy of MNIST that a test may spoil."""
    (tmp_path / "MNIST" / "raw").mkdir(parents=True)
    for file in (mnist / "MNIST" / "raw").iterdir():
        shutil.copyfile(file, tmp_path / "MNIST" / "raw" / file.name)
    return tmp_path


def test_what_is_there_and_right_is_used(mnist: Path) -> None:
    assert datasets.obtain(data(mnist)) == "mnist"
    assert datasets.verify(data(mnist)) == datasets.verify(data(mnist))
    assert datasets.obtain(data("/nowhere", "data=mnist5k")) == "mnist5k"


def test_a_damaged_file_is_named_although_another_is_missing(copy: Path) -> None:
    raw = copy / "MNIST" / "raw"
    datasets.verify(data(copy))
    content = (raw / PIXELS).read_bytes()
    (raw / PIXELS).write_bytes(content[:1_000_000] + bytes([content[1_000_000] ^ 1]) + content[1_000_001:])
    (raw / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(RequestError, match=f"{PIXELS} is damaged: its bytes are not those published"):
        datasets.obtain(data(copy))
    (copy / "MNIST").rename(copy / "KMNIST")  # of which no checksum of an unpacked file is published
    assert len(datasets.verify(data(copy, "data=kmnist"))) == 32
    (copy / "KMNIST" / "raw" / PIXELS).write_bytes(content[:5_000])
    with pytest.raises(RequestError, match=f"{PIXELS} is damaged: 5,000 bytes, allowed: {IDX_BYTES[PIXELS]:,}"):
        datasets.obtain(data(copy, "data=kmnist"))


def test_what_cannot_be_read_is_named() -> None:
    with pytest.raises(RequestError, match=r"data\.root=x+: x+/MNIST/.* cannot be read \(File name too long\)"):
        datasets.verify(data("x" * 300))


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """Sends downloads to a port; urllib keeps the proxies that it found when something was first asked for."""
    urllib.request.install_opener(None)

    def send(port: int) -> None:
        for scheme in ("http_proxy", "https_proxy"):
            monkeypatch.setenv(scheme, f"http://127.0.0.1:{port}")

    yield send
    urllib.request.install_opener(None)


def test_what_cannot_be_downloaded_falls_back_and_leaves_what_was_there(
    mnist: Path, tmp_path: Path, proxy: Callable[[int], None], caplog: pytest.LogCaptureFixture
) -> None:
    """The real download, sent to a proxy at which nobody answers."""
    proxy(9)
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    shutil.copyfile(mnist / "MNIST" / "raw" / LABELS, raw / LABELS)
    assert datasets.obtain(data(tmp_path)) == "mnist5k"
    assert [path.name for path in tmp_path.rglob("*")] == ["MNIST", "raw", LABELS]
    assert "WARNING: MNIST is neither in" in caplog.text
    assert "Connection refused" in caplog.text
    for wrong in ("not/there", "MNIST/raw/other", "full"):  # a path that was meant otherwise is not made up for
        if wrong == "full":
            (tmp_path / wrong).mkdir()
            (tmp_path / wrong / "holiday.jpg").touch()
        with pytest.raises(RequestError, match=r"MNIST is not there .* allowed: a folder that has it, data=mnist5k$"):
            datasets.obtain(data(tmp_path / wrong))
    assert not (tmp_path / "not").exists()
    with pytest.raises(RequestError, match=r"Fashion-MNIST is not there .* cannot be downloaded .*Connection refused"):
        datasets.obtain(data(tmp_path, "data=fashion_mnist"))


def test_a_download_that_stands_still_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, proxy: Callable[[int], None]
) -> None:
    """A server that takes connections and never says anything."""
    monkeypatch.setattr(datasets, "STALLED_SECONDS", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as server:
        proxy(server.getsockname()[1])
        assert datasets.obtain(data(tmp_path)) == "mnist5k"
    assert socket.getdefaulttimeout() is None
    with warnings.catch_warnings(action="ignore", category=ResourceWarning):
        gc.collect()  # urllib leaves a connection that timed out to the collector, whichever test it comes in


@pytest.mark.slow
def test_fashion_mnist_is_learned_from_debians_files(tmp_path: Path) -> None:
    """Real data of another set: at least 88.5% of its test images after four epochs."""
    if not FASHION.is_dir():
        pytest.skip(f"{FASHION} is not there: the package dataset-fashion-mnist is not installed")
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for file in FASHION.glob("*.gz"):
        shutil.copyfile(file, raw / file.name)
    items = ["data=fashion_mnist", f"data.root={tmp_path}", "tracking=none", "trainer.max_epochs=4"]
    result = api.train(*items, f"output={tmp_path}")
    assert result.metrics["test/accuracy"] >= 0.885


def test_a_download_is_moved_into_place(mnist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(root: str, **_: Any) -> None:
        shutil.copytree(mnist / "MNIST" / "raw", Path(root) / "MNIST" / "raw", copy_function=shutil.copyfile)

    monkeypatch.setattr(torchvision.datasets, "MNIST", fetch)
    assert datasets.obtain(data(tmp_path / "new")) == "mnist"
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
    assert {path.name for path in (tmp_path / "new" / "MNIST" / "raw").iterdir()} == set(IDX_BYTES)


def zeros(folder: Path, naming: Callable[[str], str]) -> None:
    """A set of black images, whose files have other names; of KMNIST no checksum of an unpacked file is published."""
    for name, size in IDX_BYTES.items():
        path = folder / naming(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with gzip.open(path, "wb", 1) if path.suffix == ".gz" else path.open("wb") as file:
            images = struct.pack(">4i", 2051, (size - 16) // 784, 28, 28)
            header = images if "images" in name else struct.pack(">2i", 2049, size - 8)
            file.write(header + bytes(size - len(header)))


NAMES: dict[str, Callable[[str], str]] = {
    "usual": str,
    "packed": lambda name: f"{name}.gz",
    "Kaggle's": lambda name: name.replace("-idx", ".idx"),
    "Kaggle's folders": lambda name: f"{name}/{name}",
}


@pytest.mark.parametrize("naming", NAMES.values(), ids=NAMES)
def test_a_set_is_found_one_level_off_under_other_names_and_packed(
    tmp_path: Path, naming: Callable[[str], str]
) -> None:
    folder = tmp_path / "all" / "KMNIST" / "raw"
    zeros(folder, naming)
    roots = [folder, folder.parent, folder.parent.parent]
    settings = [data(root, "data=kmnist") for root in roots]
    assert [datasets.obtain(each) for each in settings] == ["kmnist"] * 3
    assert len({datasets.verify(each) for each in settings}) == 1
    assert datasets.missing(data(folder, "data=fashion_mnist"))  # the folder's name says whose files they are
    images = images_of("kmnist", str(folder))
    assert (len(images), images.images.shape[1:], int(images.images.max())) == (10_000, (1, 28, 28), 0)
    with pytest.raises(RequestError, match=f"KMNIST is in {tmp_path}/all; allowed: data.root={tmp_path}/all"):
        datasets.obtain(data(tmp_path, "data=kmnist"))


def test_mnists_own_files_are_not_taken_for_another_set_and_a_cut_archive_is_named(mnist: Path, tmp_path: Path) -> None:
    for file in (mnist / "MNIST" / "raw").iterdir():
        shutil.copyfile(file, tmp_path / file.name)
    assert datasets.obtain(data(tmp_path)) == "mnist"
    with pytest.raises(RequestError, match=r"ubyte is MNIST's own, not that of Fashion-MNIST"):
        datasets.obtain(data(tmp_path, "data=fashion_mnist"))
    labels = (tmp_path / LABELS).read_bytes()
    (tmp_path / LABELS).unlink()
    (tmp_path / f"{LABELS}.gz").write_bytes(gzip.compress(labels))
    assert datasets.verify(data(tmp_path)) == datasets.verify(data(mnist))
    (tmp_path / f"{LABELS}.gz").write_bytes(gzip.compress(labels)[:-100])
    with pytest.raises(RequestError, match=rf"{LABELS}\.gz is damaged: EOFError"):
        datasets.verify(data(tmp_path))
