"""A sweep on two machines of a Ray cluster, PostgreSQL and an MLflow server, of which each fails in the middle."""

import contextlib
import itertools
from pathlib import Path

import optuna
import pytest

from mnist_sweep.result import Result
from mnist_sweep.tracking.store import client_of
from tests.faults.test_signals import started, wait_for
from tests.servers import PG_CTL, free_port, postgres, serving

cluster_utils = pytest.importorskip("ray.cluster_utils", reason="Ray is not installed")
pytest.importorskip("psycopg", reason="psycopg is not installed")
pytest.importorskip("flask_wtf", reason="mlflow[auth] is not installed")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not PG_CTL, reason="PostgreSQL is not installed")]

USER = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
    "MLFLOW_TRACKING_USERNAME": "admin",
    "MLFLOW_TRACKING_PASSWORD": "a password of twelve",
}
SWEEP = [
    "+sweep=optuna", "data=mnist5k", "data.limit=500", "data.batch_size=20", "model.filters=[8]", "model.hidden=[16]",
    "trainer.max_epochs=6", "trainer.threads=1", "trainer.accelerator=cpu", "trainer.precision=32", "sweep.trials=12",
    "sweep.workers=2", "sweep/pruner=none", "sweep/sampler=random", "sweep.winner.top=1", "sweep.winner.seeds=1",
]  # fmt: skip


def overlapping(storage: str) -> bool:
    """Whether two trials of the sweep have been trained at the same time."""
    trials = optuna.load_study(study_name="sweep", storage=storage).trials
    known = ((trial.datetime_start, trial.datetime_complete) for trial in trials)
    times = sorted((start, end) for start, end in known if start and end)
    return any(start < end for (_, end), (start, _) in itertools.pairwise(times))


def test_a_machine_that_joins_in_the_middle_of_a_sweep_trains_too(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        database = stack.enter_context(postgres())
        nodes = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        stack.callback(nodes.shutdown)
        where = ["launcher=ray", f"launcher.address={nodes.address}", f"sweep.storage='{database.url}'"]
        more = ["tracking=none", "sweep.workers=null", "sweep.trials=500"]
        process = stack.enter_context(started(tmp_path, *SWEEP, *where, *more))
        wait_for(process, "a Ray cluster with 1 cores and 0 GPUs: 1 worker of 1 cores")
        wait_for(process, "2 of 500 trials")
        assert not overlapping(database.url)
        nodes.add_node(num_cpus=1)
        wait_for(process, "the Ray cluster has grown: room for 2 workers")
        while not overlapping(database.url):
            wait_for(process, " trials  trial ")
        process.terminate()
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 143, errors


def values(storage: str) -> list[tuple[str, list[float], dict[int, float]]]:
    trials = optuna.load_study(study_name="sweep", storage=storage).trials
    return [(trial.state.name, trial.values, trial.intermediate_values) for trial in trials]


def test_each_part_fails_once_and_the_values_are_those_of_one_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in USER.items():
        monkeypatch.setenv(name, value)
    settings = tmp_path / "auth.ini"
    settings.write_text(
        f"[mlflow]\ndefault_permission = NO_PERMISSIONS\ndatabase_uri = sqlite:///{tmp_path}/auth.db\n"
        "auth_cache_ttl_seconds = 60\n"  # else hashing the password is most of what the server does
        f"admin_username = admin\nadmin_password = {USER['MLFLOW_TRACKING_PASSWORD']}\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    server = ["mlflow", "server", "--app-name", "basic-auth", "--backend-store-uri", f"sqlite:///{tmp_path}/server.db"]
    server += ["--artifacts-destination", str(tmp_path / "artifacts"), "--workers", "1"]
    auth = {"MLFLOW_AUTH_CONFIG_PATH": str(settings), "MLFLOW_FLASK_SERVER_SECRET_KEY": "secret"}
    port = free_port()
    with contextlib.ExitStack() as stack:
        database = stack.enter_context(postgres())
        nodes = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        stack.callback(nodes.shutdown)
        second = nodes.add_node(num_cpus=1)
        where = ["launcher=ray", f"launcher.address={nodes.address}", f"sweep.storage='{database.url}'"]
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "digits")
        with contextlib.ExitStack() as tracking:
            url = tracking.enter_context(serving(tmp_path, *server, path="/health", port=port, **auth))
            process = stack.enter_context(started(tmp_path, *SWEEP, *where))
            wait_for(process, "2 of 12 trials")
            nodes.remove_node(second, allow_graceful=False)
            nodes.add_node(num_cpus=1)
            wait_for(process, "4 of 12 trials")
            database.stop()
            database.start()
            wait_for(process, "6 of 12 trials")
        with serving(tmp_path, *server, path="/health", port=port, **auth):
            wait_for(process, "8 of 12 trials")
            process.kill()
            with started(tmp_path, *SWEEP, *where) as again:
                out, errors = again.communicate(timeout=600)
            assert again.returncode == 0, errors
            assert out == "mlruns/runs/sweep/sweep.json\n"
            client = client_of(url)
            (experiment,) = client.search_experiments(filter_string="name = 'digits'")
            runs = client.search_runs([experiment.experiment_id])
        found = values(database.url)
    names = [f"sweep-{number:04d}" for number in range(12)]
    results = [Result.read(tmp_path / "mlruns" / "runs" / name) for name in names]
    assert [(result.status, result.epochs) for result in results] == [("finished", 6)] * 12
    assert sum(result.attempts for result in results) >= 12  # a part may go between two of the trials
    assert {(run.info.run_name, run.info.status) for run in runs if run.info.run_name in names} == {
        (name, "FINISHED") for name in names
    }
    assert len({run.info.run_name for run in runs}) == len(runs)
    assert {run.info.status for run in runs} == {"FINISHED"}
    local = ["tracking=none", "launcher=local", "output=local"]
    with started(tmp_path, *SWEEP, *local) as process:
        _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    assert found == values(f"sqlite:///{tmp_path}/local/optuna.db")
    assert not (tmp_path / "mlruns" / "mlflow.db").exists()
