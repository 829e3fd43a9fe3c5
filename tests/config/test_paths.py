"""One rule for all paths that a user writes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnist_sweep.config.command import CommandLine
from mnist_sweep.config.paths import database_file, expanded
from mnist_sweep.errors import RequestError
from tests.conftest import ROOT

HOME = str(Path.home())


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("~/x", f"{HOME}/x"), ("~", HOME), ("sqlite:///~/m.db?timeout=60", f"sqlite:///{HOME}/m.db?timeout=60"),
        ("sqlite+pysqlite:///~/m.db", f"sqlite+pysqlite:///{HOME}/m.db"), ("./~x", "./~x"), ("a~/b", "a~/b"),
        ("http://host/~me", "http://host/~me"), ("sqlite:////abs/m.db", "sqlite:////abs/m.db"),
    ],
)  # fmt: skip
def test_what_a_path_means(text: str, meant: str) -> None:
    assert expanded(text) == meant


@pytest.mark.parametrize(
    ("uri", "file"),
    [
        ("sqlite:///mlruns/mlflow.db?timeout=60", "mlruns/mlflow.db"), ("sqlite:////a/b.db", "/a/b.db"),
        ("sqlite+pysqlite:///x.db", "x.db"), ("sqlite:///:memory:", None), ("sqlite://", None),
        ("postgresql://u:p@h/db", None), ("http://127.0.0.1:5000", None),
    ],
)  # fmt: skip
def test_the_file_of_a_database(uri: str, file: str | None) -> None:
    assert database_file(uri) == (file and Path(file))


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40).filter(lambda text: not text.startswith("~")))
def test_a_path_without_a_home_stays_as_it_is(text: str) -> None:
    assert expanded(text) == text


def test_every_path_of_the_config_and_of_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MNIST_SWEEP_DATA", "~/digits")
    items = ["+sweep=optuna", "output=~/x", "tracking.uri=sqlite:///~/m.db", "trainer.init_from=~/best.ckpt"]
    config = CommandLine.of(items).config
    assert config.sweep is not None
    assert (config.data.root, config.output) == (f"{HOME}/digits", f"{HOME}/x")
    assert config.sweep.storage == f"sqlite:///{HOME}/x/optuna.db"
    assert (config.tracking.uri, config.trainer.init_from) == (f"sqlite:///{HOME}/m.db", f"{HOME}/best.ckpt")  # type: ignore[union-attr]
    with pytest.raises(RequestError, match="~nobody-here is nobody's home folder here"):
        _ = CommandLine.of(["data.root='~nobody-here/x'"]).config
    with pytest.raises(RequestError, match=r"data.root='': .* at least 1 item|at least 1 character"):
        _ = CommandLine.of(["data.root=''"]).config


def test_an_empty_variable_counts_as_none() -> None:
    code = "from mnist_sweep.config.command import CommandLine; print(CommandLine().config.data.root)"
    empty = {**os.environ, "MNIST_SWEEP_DATA": "", "MLFLOW_TRACKING_URI": "", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=empty, capture_output=True, text=True, check=True)
    assert done.stdout == "data\n"
