"""Files: verified, named when damaged, had in another way when missing."""

import gzip
import hashlib
import shutil
from pathlib import Path

import pytest

from mnist_sweep.config.command import compose
from mnist_sweep.errors import RequestError
from mnist_sweep.training import datasets


@pytest.fixture
def copy(mnist: Path, tmp_path: Path) -> Path:
    """A copy of MNIST that a test may spoil."""
    shutil.copytree(mnist / "MNIST", tmp_path / "MNIST", copy_function=shutil.copyfile)
    (tmp_path / "MNIST" / "raw").chmod(0o755)
    return tmp_path


def data(*items: str):
    return compose(list(items)).data


def test_the_real_files_are_right(mnist: Path) -> None:
    settings = data(f"data.root={mnist}")
    assert datasets.obtain(settings) == "mnist"
    assert datasets.verify(settings) == datasets.verify(settings)


@pytest.mark.parametrize("name", datasets.SIZES)
def test_a_cut_file_is_named(copy: Path, name: str) -> None:
    with (copy / "MNIST" / "raw" / name).open("r+b") as file:
        file.truncate(5_000)
    with pytest.raises(RequestError, match=f"{name} is damaged: 5,000 bytes, allowed: {datasets.SIZES[name]:,}"):
        datasets.obtain(data(f"data.root={copy}"))


def test_an_altered_byte_is_noticed(copy: Path) -> None:
    settings = data(f"data.root={copy}")
    datasets.verify(settings)
    path = copy / "MNIST" / "raw" / "train-images-idx3-ubyte"
    with path.open("r+b") as file:
        file.seek(1_000_000)
        byte = file.read(1)
        file.seek(1_000_000)
        file.write(bytes([byte[0] ^ 1]))
    with pytest.raises(RequestError, match="train-images-idx3-ubyte is damaged: its bytes are not those published"):
        datasets.verify(settings)


def test_a_damaged_file_counts_although_another_is_missing(copy: Path) -> None:
    raw = copy / "MNIST" / "raw"
    (raw / "train-labels-idx1-ubyte").unlink()
    (raw / "t10k-labels-idx1-ubyte").write_bytes(b"")
    with pytest.raises(RequestError, match="t10k-labels-idx1-ubyte is damaged"):
        datasets.obtain(data(f"data.root={copy}"))


def test_a_set_known_by_its_archives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a published checksum of the raw file, the published archive beside it vouches for it."""
    raw = tmp_path / "KMNIST" / "raw"
    raw.mkdir(parents=True)
    archives = {}
    for name, size in datasets.SIZES.items():
        (raw / name).write_bytes(content := name.encode() * (size // len(name)) + b"x" * (size % len(name)))
        (raw / f"{name}.gz").write_bytes(packed := gzip.compress(content, 1, mtime=0))
        archives[name] = hashlib.md5(packed, usedforsecurity=False).hexdigest()
    monkeypatch.setitem(datasets.SOURCES, "kmnist", datasets.Source("KMNIST", torchvision="KMNIST", archives=archives))
    settings = data("data=kmnist", f"data.root={tmp_path}")
    datasets.verify(settings)
    path = raw / "t10k-labels-idx1-ubyte"
    path.write_bytes(b"y" + path.read_bytes()[1:])
    with pytest.raises(RequestError, match="t10k-labels-idx1-ubyte is damaged"):
        datasets.verify(settings)


def test_a_set_without_its_archives_is_used_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.log.parent, "propagate", True)
    raw = tmp_path / "KMNIST" / "raw"
    raw.mkdir(parents=True)
    for name, size in datasets.SIZES.items():
        (raw / name).write_bytes(bytes(size))
    for _ in range(2):  # said once
        datasets.verify(data("data=kmnist", f"data.root={tmp_path}"))
    assert caplog.text.count("cannot be verified") == 4
    assert caplog.text.count(".gz is not beside it") == 4


def test_an_archive_that_is_not_the_published_one_is_not_said_to_be_gone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.log.parent, "propagate", True)
    raw = tmp_path / "KMNIST" / "raw"
    raw.mkdir(parents=True)
    name = "t10k-labels-idx1-ubyte"
    (raw / name).write_bytes(bytes(datasets.SIZES[name]))
    (raw / f"{name}.gz").write_bytes(b"another one")
    datasets.verify(data("data=kmnist", f"data.root={tmp_path}"))
    (said,) = caplog.messages
    assert f"{name} cannot be verified: its archive {name}.gz is not the published one (MD5 " in said


def test_what_cannot_be_read_is_named(mnist: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RequestError, match=r"data\.root=x+: x+/MNIST/.* cannot be read \(File name too long\)"):
        datasets.verify(data(f"data.root={'x' * 300}"))

    def refused(path: Path, _: int) -> str:  # as to anybody but the superuser
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(datasets, "_md5", refused)
    with pytest.raises(RequestError, match=r"train-images-idx3-ubyte cannot be read \(Permission denied\)"):
        datasets.verify(data(f"data.root={mnist}"))


def test_what_cannot_be_had_falls_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.log.parent, "propagate", True)
    monkeypatch.setattr(datasets, "_download_into", lambda *_: "the network is down")
    root = tmp_path / "not" / "there"
    assert datasets.obtain(data(f"data.root={root}")) == "mnist5k"
    assert "WARNING: MNIST is neither in" in caplog.text
    assert "the network is down" in caplog.text
    assert not root.exists()


def test_without_a_fallback_it_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "_download_into", lambda *_: "the network is down")
    with pytest.raises(RequestError, match="cannot be downloaded"):
        datasets.obtain(data(f"data.root={tmp_path}", "data.fallback=null"))
    with pytest.raises(RequestError, match="Fashion-MNIST is not there"):
        datasets.obtain(data("data=fashion_mnist", f"data.root={tmp_path}"))


def test_a_download_is_moved_into_place(mnist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(scratch: Path, _: object) -> None:
        shutil.copytree(mnist / "MNIST", scratch / "MNIST", copy_function=shutil.copyfile)
        (scratch / "MNIST" / "raw").chmod(0o755)
        (scratch / "MNIST").chmod(0o755)

    monkeypatch.setattr(datasets, "_download_into", fetch)
    assert datasets.obtain(data(f"data.root={tmp_path}")) == "mnist"
    assert [path.name for path in tmp_path.iterdir()] == ["MNIST"]


def test_a_download_that_fails_leaves_what_was_there(
    mnist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real downloading process, sent to a proxy at which nobody answers."""
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / "train-labels-idx1-ubyte").write_bytes((mnist / "MNIST" / "raw" / "train-labels-idx1-ubyte").read_bytes())
    for scheme in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(scheme, "http://127.0.0.1:9")
    assert datasets.obtain(data(f"data.root={tmp_path}")) == "mnist5k"
    assert [path.name for path in raw.iterdir()] == ["train-labels-idx1-ubyte"]


def test_a_download_that_stands_still_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "START_SECONDS", 0.3)
    monkeypatch.setattr(datasets, "STALLED_SECONDS", 0.3)
    monkeypatch.setattr(datasets, "_command", lambda *_: ["/bin/sleep", "1000"])
    assert datasets.obtain(data(f"data.root={tmp_path}")) == "mnist5k"
    assert list(tmp_path.iterdir()) == []


def test_a_download_that_says_much_is_not_held_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than a pipe holds, as of torchvision's progress bar."""
    monkeypatch.setattr(datasets, "START_SECONDS", 10.0)
    program = "yes 10% | head -c 200000 >&2; echo no such set >&2; exit 1"
    monkeypatch.setattr(datasets, "_command", lambda *_: ["/bin/sh", "-c", program])
    assert datasets._download(data(f"data.root={tmp_path}")) == "no such set"


def test_mnist5k_needs_no_folder() -> None:
    assert datasets.obtain(data("data=mnist5k", "data.root=/nowhere")) == "mnist5k"
