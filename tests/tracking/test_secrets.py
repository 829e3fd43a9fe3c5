"""A password in a URL is found in nothing that is printed or kept, and what a network takes along has no URL at all."""

import json
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from mnist_sweep import cli
from mnist_sweep.config.command import CommandLine
from mnist_sweep.run_folder import RunFolder
from tests.conftest import SMALL, Program

CANARY = "c4nary-s3cret"
#: Nobody listens there.
TRACKING, STORAGE = f"http://me:{CANARY}@127.0.0.1:9", f"postgresql+nodriver://me:{CANARY}@127.0.0.1:9/db"
TRACKED = [item for item in SMALL if item != "tracking=none"]

pytestmark = pytest.mark.slow


def holders(folder: Path) -> list[str]:
    """The files below a folder, as they are on disk, that hold the canary."""
    return [str(path) for path in folder.rglob("*") if path.is_file() and CANARY.encode() in path.read_bytes()]


def said(done: subprocess.CompletedProcess[str]) -> str:
    return done.stdout + done.stderr


@pytest.mark.parametrize(
    ("item", "variable"),
    [(f"tracking.uri={TRACKING}", "X"), ("tracking.uri=${oc.env:MLFLOW_TRACKING_URI}", "MLFLOW_TRACKING_URI")],
    ids=["typed", "by a variable"],
)
def test_a_run_keeps_no_password(program: Program, tmp_path: Path, item: str, variable: str) -> None:
    done = program(*TRACKED, item, "name=it", **{variable: TRACKING, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"})
    assert done.returncode == 0, done.stderr
    assert "tracking: http://me:***@127.0.0.1:9 does not answer" in done.stderr
    assert CANARY not in said(done)
    assert holders(tmp_path) == []
    folder = tmp_path / "mlruns/runs/it"
    result = json.loads((folder / "result.json").read_text())
    assert ("${oc.env:" in result["command"]) == (variable != "X")
    config = torch.load(folder / "checkpoints/best.ckpt", weights_only=True)["config"]
    assert not {"tracking", "output"} & config.keys()
    assert "root" not in config["data"]
    kept = tmp_path / "it.safetensors"
    assert (
        cli.perform("export", ["--to", "safetensors", str(kept), "--checkpoint", str(folder / "checkpoints/best.ckpt")])
        == 0
    )
    with safe_open(kept, "pt") as file:
        assert json.loads(file.metadata()["config"]) == config


def test_a_sweep_keeps_no_password_and_is_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a database that takes a password: what the sweep's folder is written with, and read with later."""
    items = ["+sweep=optuna", *TRACKED, f"output={tmp_path}", f"tracking.uri={TRACKING}", f"sweep.storage='{STORAGE}'"]
    command, folder = CommandLine.of(items, tmp_path), RunFolder(tmp_path / "runs" / "sweep")
    folder.path.mkdir(parents=True)
    folder.describe(command.config, command.written(portable=True))
    assert holders(tmp_path) == []
    assert "***" in (folder.path / "config.yaml").read_text()
    assert "***" in (folder.path / "overrides.yaml").read_text()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", TRACKING)
    found = folder.config()
    assert found is not None
    assert found.sweep is not None
    assert found.sweep.storage == STORAGE.replace(f":{CANARY}", ""), "then PGPASSWORD serves"
    assert found.tracking == command.config.tracking


def test_a_sweep_names_no_password_where_it_is_refused(program: Program, tmp_path: Path) -> None:
    done = program("+sweep=optuna", *SMALL, f"sweep.storage={STORAGE}")
    assert done.returncode == 2
    assert "sweep.storage=postgresql+nodriver://me:***@127.0.0.1:9/db: cannot be opened" in done.stderr
    assert CANARY not in said(done)
    assert not list(tmp_path.iterdir())


def test_parameters_and_commands_have_none_and_the_winner_has_it_again() -> None:
    sweep = CommandLine.of(["+sweep=optuna", f"tracking.uri={TRACKING}"])
    assert CANARY not in json.dumps([sweep.config.parameters(), sweep.config.plain(), sweep.shell(), sweep.written()])
    trial = CommandLine.of(sweep.without("sweep").written())
    assert CANARY not in trial.config.tracking.uri  # type: ignore[union-attr]
    assert trial.placed_as(sweep).config.tracking == sweep.config.tracking
