"""What all commands share: how they are called, how they end, and what they refuse before anything is loaded."""

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mnist_sweep import cli
from mnist_sweep.errors import RequestError, RunFailure, check_interrupted
from tests.conftest import ROOT
from tests.servers import free_port


@pytest.fixture
def log() -> Iterator[None]:
    """The package's log as it was, since a command directs it to standard error."""
    log, last = logging.getLogger("mnist_sweep"), logging.lastResort
    assert last is not None
    before = log.handlers, log.level, log.propagate, last.level
    yield
    log.handlers, log.level, log.propagate, last.level = before


def interrupted() -> int:
    signal.raise_signal(signal.SIGTERM)
    check_interrupted()
    return cli.DONE


def refused() -> int:
    raise RequestError("a=1: allowed: 2")


def failed() -> int:
    raise RunFailure("error", "no luck")


@pytest.mark.usefixtures("log")
@pytest.mark.parametrize(
    ("command", "code", "line"),
    [
        (lambda: 0, 0, ""),
        (failed, 1, "failed: error: no luck\n"),
        (refused, 2, "error: a=1: allowed: 2\n"),
        (interrupted, 143, "interrupted by SIGTERM\n"),
    ],
)
def test_a_command_ends_with_one_line_and_its_exit_code(
    command: Any, code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run_command(command) == code
    assert capsys.readouterr() == ("", line)


def test_a_wrong_argument_is_named_and_nothing_heavy_is_imported() -> None:
    script = "import sys; from mnist_sweep import cli; sys.argv[1:] = ['predict', '--nothing', 'x.png']; cli.main()"
    seen = "import atexit, sys; atexit.register(lambda: print([m for m in ('torch', 'mlflow') if m in sys.modules]))"
    done = subprocess.run(
        [sys.executable, "-c", f"{seen}\n{script}"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    said = "error: unrecognized arguments: --nothing; mnist-sweep predict --help tells what is allowed\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "[]\n", said)


@pytest.mark.parametrize("module", ["predict", "export", "ensemble", "demo", "ui", "scores"])
def test_each_command_is_a_module_too(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", f"mnist_sweep.{module}", "--nothing"], cwd=ROOT, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.endswith(f"; python -m mnist_sweep.{module} --help tells what is allowed\n")
    assert done.stderr.count("\n") == 1


def test_the_console_script_runs_and_sweeps_as_well(tmp_path: Path) -> None:
    script = (
        f"import sys; sys.argv[1:] = ['optimizer.lrr=1', 'output={tmp_path}']; from mnist_sweep import cli; cli.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    said = "error: optimizer.lrr=1: unknown key; the nearest known one is optimizer.lr\n"
    assert (done.returncode, done.stderr) == (2, said)


def test_the_ui_is_opened_on_a_database_at_a_free_port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "notes.txt").write_text("no database at all")
    (tmp_path / "it.db").touch()
    begun: list[Any] = []
    monkeypatch.setattr(os, "execv", lambda _, command: begun.append(command))
    for uri, said in (
        (f"sqlite:///{tmp_path}/notes.txt", "is no SQLite database"),
        (f"sqlite:///{tmp_path}/{'x' * 300}", "File name too long"),
        (f"sqlite:///{tmp_path}/", "a directory"),
        (f"sqlite:///{tmp_path}/none.db", "there is no such file"),
        ("http://127.0.0.1:5000", "a server, whose own page is at this address"),
    ):
        with pytest.raises(RequestError, match=said):
            cli.perform("ui", ["--port", str(free_port()), "--tracking-uri", uri])
    with pytest.raises(RequestError, match="allowed: a free one of 1 … 65535"):
        cli.perform("ui", ["--port", "99999"])
    assert not begun
    port = str(free_port())
    cli.perform("ui", ["--port", port, "--tracking-uri", f"sqlite:///{tmp_path}/it.db"])
    ((_, *command),) = begun
    assert command[:4] == ["-m", "mlflow", "ui", "--backend-store-uri"]
    assert ["--port", port] == command[command.index("--port") :][:2]
