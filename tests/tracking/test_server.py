"""MLflow on a server, as a team has it."""

import json
from pathlib import Path

import pytest

from mnist_sweep.tracking import registered
from mnist_sweep.tracking.store import client_of
from tests.conftest import SMALL, Program
from tests.servers import serving

pytestmark = pytest.mark.slow


@pytest.mark.slow
def test_a_sweep_is_kept_on_a_server(program: Program, tmp_path: Path) -> None:
    store = ["--backend-store-uri", "sqlite:///store.db", "--artifacts-destination", "store", "--workers", "1"]
    with serving(tmp_path, "mlflow", "server", *store, path="/health") as url:
        request = [*(item for item in SMALL if item != "tracking=none"), f"tracking.uri={url}", "launcher=inline"]
        done = program("+sweep=optuna", *request, "sweep.trials=1", "sweep.winner.top=1", "sweep.winner.seeds=1")
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines() == ["mlruns/runs/sweep/sweep.json"]  # whatever MLflow has to say
        assert f"compare the runs   {url}\n" in done.stderr
        content = json.loads((tmp_path / done.stdout.strip()).read_text())
        client = client_of(url)
        parent = client.get_run(content["mlflow_run_id"])
        runs = client.search_runs([parent.info.experiment_id])
        assert {run.info.run_name: run.info.status for run in runs} == dict.fromkeys(
            ["sweep", "sweep-0000", "sweep-0000-seed1"], "FINISHED"
        )
        assert "report.html" in [file.path for file in client.list_artifacts(content["mlflow_run_id"])]
        name = "mnist_sweep_mnist5k"
        assert registered(url, [name]) == f"models:/{name}@champion"
        assert not (tmp_path / "mlruns" / "mlflow.db").exists()
        target = ("--to", "safetensors", "digits.safetensors", "--tracking-uri", url)
        exported = program(*target, module="mnist_sweep.export")
        assert exported.returncode == 0, exported.stderr
    assert (tmp_path / "digits.safetensors").stat().st_size > 1000
