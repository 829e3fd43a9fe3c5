"""What all commands share: how they are called, how they end, and what they refuse before anything is loaded."""

import logging
import os
import runpy
import signal
import socket
import subprocess
import sys
import webbrowser
from pathlib import Path
from typing import Any

import pytest

from mnist_sweep import cli, ui
from mnist_sweep.errors import RequestError, RunFailure, check_interrupted
from tests.conftest import ROOT
from tests.servers import free_port


def ended_by(error: Exception | None) -> int:
    """A command that raises this, or that a signal stops."""
    if error:
        raise error
    signal.raise_signal(signal.SIGTERM)
    check_interrupted()
    return cli.DONE


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (RunFailure("error", "no luck"), 1, "failed: error: no luck\n"),
        (RequestError("a=1: allowed: 2"), 2, "error: a=1: allowed: 2\n"),
        (None, 143, "interrupted by SIGTERM\n"),
    ],
)
def test_a_command_ends_with_one_line_and_its_exit_code(
    error: Exception | None, code: int, line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    log, last = logging.getLogger("mnist_sweep"), logging.lastResort
    for thing, name in ((log, "handlers"), (log, "level"), (log, "propagate"), (last, "level")):
        monkeypatch.setattr(thing, name, getattr(thing, name))  # as they were, afterwards
    assert cli.run_command(lambda: ended_by(error)) == code
    assert capsys.readouterr() == ("", line)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["predict", "--nothing", "x.png"], "unrecognized arguments: --nothing; mnist-sweep predict --help tells what"),
        (
            ["optimizer.lrr=1", "output=/dev/null"],
            "optimizer.lrr=1: unknown key; the nearest known one is optimizer.lr",
        ),
    ],
)
def test_the_console_script_refuses_in_one_line_and_imports_nothing_heavy(arguments: list[str], said: str) -> None:
    script = (
        "import atexit, sys; atexit.register(lambda: print([m for m in ('torch', 'mlflow') if m in sys.modules]))\n"
        f"from mnist_sweep import cli; sys.argv[1:] = {arguments}; cli.main()"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "[]\n", 1)
    assert done.stderr.startswith(f"error: {said}")


@pytest.mark.filterwarnings("ignore:.*found in sys.modules")
def test_each_command_is_a_module_too(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    monkeypatch.setattr(cli, "module_main", called.append)
    for name in cli.COMMANDS:
        runpy.run_module(f"mnist_sweep.{name}", run_name="__main__")
        wrong = ["--tracking-uri"] if name == "ui" else ["--nothing"]  # which the UI hands to MLflow
        with pytest.raises(RequestError, match=rf".; python -m mnist_sweep\.{name} --help tells what is allowed$"):
            cli.perform(name, wrong)
    assert called == list(cli.COMMANDS)


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
    more = ["--host", "0.0.0.0", "--allowed-hosts", "here"]
    cli.perform("ui", ["--port", port, "--tracking-uri", f"sqlite:///{tmp_path}/it.db", *more])
    command = begun[-1]
    assert command[command.index("--host") :][:2] == more[:2]
    assert command[-2:] == more[2:]  # MLflow's own


def test_a_page_is_opened_once_its_server_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    ui.open_page(f"http://127.0.0.1:{free_port()}/#/runs", patience=0.01)  # nobody is there
    assert opened == []
    with socket.create_server(("127.0.0.1", 0)) as server:
        page = f"http://127.0.0.1:{server.getsockname()[1]}/#/runs"
        ui.open_page(page)
    assert opened == [page]
