"""A server that is away, hangs, answers nonsense, or is an old one: no run fails, and all is sent once."""

import contextlib
import http.client
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from mnist_sweep import cli, run
from mnist_sweep.result import Result
from mnist_sweep.run_folder import RunFolder
from mnist_sweep.tracking.journal import leave_alone
from mnist_sweep.tracking.store import client_of
from tests.conftest import tracked
from tests.faults.test_signals import LONG, started, wait_for
from tests.servers import serving

pytestmark = pytest.mark.slow


class Proxy(ThreadingHTTPServer):
    """Between a run and MLflow's server; `how`: pass, down, hang, 500, or old, as one of MLflow 2 without models."""

    daemon_threads = True

    def __init__(self, behind: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behind, self.how, self.asked = behind.removeprefix("http://"), "pass", 0
        self.url, self.over = f"http://127.0.0.1:{self.server_port}", threading.Event()

    def handle_error(self, *_: Any) -> None:
        """A client that has given up is no error here."""


class _Handler(BaseHTTPRequestHandler):
    server: Proxy

    def _any(self) -> None:
        self.server.asked += 1
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        match self.server.how:
            case "down":
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            case "hang":
                self.server.over.wait(60)
                return
            case "500":
                self.send_error(500)
                return
            case "old" if "logged-models" in self.path:
                self.send_error(404)
                return
        connection = http.client.HTTPConnection(self.server.behind, timeout=60)
        connection.request(self.command, self.path, body, {**self.headers, "Host": self.server.behind})
        answer = connection.getresponse()
        content = answer.read()
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.headers.get("Content-Type", "application/json"))
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        connection.close()

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _any  # noqa: N815

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("server")
    store = ["--backend-store-uri", "sqlite:///store.db", "--artifacts-destination", "store", "--workers", "1"]
    with serving(folder, "mlflow", "server", *store, path="/health") as url:
        yield url


@pytest.fixture
def proxy(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")  # a busy machine is not one that hangs
    with Proxy(server) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        yield proxy
        proxy.over.set()
        proxy.shutdown()


def account(server: str, result: Result, name: str) -> dict[str, Any]:
    """What MLflow has of the only run of a name, without what differs between two equal runs."""
    client = client_of(server)
    experiments = [each.experiment_id for each in client.search_experiments()]
    (found,) = client.search_runs(experiments, f"attributes.run_name = '{name}'")
    assert found.info.run_id == Result.read(Path(result.folder)).mlflow_run_id
    history = {
        key: [(metric.step, metric.value) for metric in client.get_metric_history(found.info.run_id, key)]
        for key in found.data.metrics
        if "seconds" not in key and "system/" not in key
    }
    tags = {key for key in found.data.tags if key != "mlflow.user"}
    files = {file.path for folder in ("", "validation") for file in client.list_artifacts(found.info.run_id, folder)}
    known = {"status": found.info.status, "state": found.data.tags["state"], "files": files, "tags": tags}
    return known | {"history": history, "params": found.data.params}


def trained(proxy: Proxy, folder: Path, name: str, how: dict[int, str], *, pictures: bool = False) -> Result:
    """A run of two epochs; `how` the server is at the start (0), and from the end of an epoch on."""

    def on_epoch(epoch: int, _: dict[str, float]) -> bool:
        proxy.how = how.get(epoch, proxy.how)
        return True

    proxy.how = how[0]
    items = ["trainer.max_epochs=2", "trainer.precision=32", f"tracking.uri={proxy.url}", "tracking.experiment=faults"]
    command = tracked(folder, name, *items)
    return run.train(command, on_epoch=on_epoch, pictures=pictures, limit_seconds=1000)


@pytest.mark.fault(13)
def test_what_a_server_was_not_told_is_sent_once(
    proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    quiet = account(proxy.url, trained(proxy, tmp_path, "quiet", {0: "pass"}), "quiet")
    assert quiet["status"] == "FINISHED"
    for name, how in {"start": {0: "down"}, "middle": {0: "pass", 1: "500"}, "hang": {0: "pass", 1: "hang"}}.items():
        if name == "hang":
            monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
        result, before = trained(proxy, tmp_path, name, how), proxy.asked
        assert (result.status, result.epochs) == ("finished", 2)
        assert (Path(result.folder) / "unsent.jsonl").is_file()
        assert cli.perform("sync", ["--output", str(tmp_path)]) == cli.FAILED
        assert proxy.asked - before <= 1, "a server that does not answer is left alone"
        proxy.how = "pass"
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
        leave_alone(proxy.url, 0)
        capsys.readouterr()
        assert cli.perform("sync", ["--output", str(tmp_path)]) == cli.DONE
        assert capsys.readouterr().out == f"{result.folder}: sent\n"
        assert account(proxy.url, result, name) == quiet
        assert cli.perform("sync", ["--output", str(tmp_path)]) == cli.DONE
        assert not [*Path(result.folder).glob("*unsent*")]
        leave_alone(proxy.url, 0)


@pytest.mark.fault(13)
def test_the_next_write_that_gets_through_sends_what_was_kept(proxy: Proxy, tmp_path: Path) -> None:
    from mnist_sweep.tracking import MLflowRun

    settings = tracked(tmp_path, "it", f"tracking.uri={proxy.url}", "tracking.experiment=faults").config.tracking
    mlflow = MLflowRun(settings, tmp_path, "next", key="next")
    proxy.how = "500"
    for epoch in (1, 2):
        mlflow.metrics({"val/loss": 1 / epoch}, epoch)
        mlflow.document(epoch, f"kept/{epoch}.json")
    proxy.how = "pass"
    leave_alone(proxy.url, 0)
    mlflow.document(3, "kept/3.json")
    assert len(client_of(proxy.url).list_artifacts(str(mlflow.run_id), "kept")) == 3
    mlflow.metrics({"val/loss": 0.0}, 3)
    history = client_of(proxy.url).get_metric_history(str(mlflow.run_id), "val/loss")
    assert [(metric.step, metric.value) for metric in history] == [(1, 1.0), (2, 0.5), (3, 0.0)]
    mlflow.end("FINISHED")
    assert not [*RunFolder(tmp_path / "runs" / "next").path.glob("*unsent*")]


@pytest.mark.fault(13)
def test_a_test_set_that_is_opened_while_the_server_is_away_is_told_later(proxy: Proxy, tmp_path: Path) -> None:
    result = trained(proxy, tmp_path, "away", {0: "down"})
    (opened,) = run.open_test([Path(result.folder)])
    assert opened.mlflow_run_id is None
    proxy.how = "pass"
    leave_alone(proxy.url, 0)
    assert cli.perform("sync", ["--output", str(tmp_path)]) == cli.DONE
    found = client_of(proxy.url).get_run(Result.read(Path(result.folder)).mlflow_run_id)
    assert found.data.metrics["test/accuracy"] == opened.metrics["test/accuracy"]
    assert found.info.status == "FINISHED"


@pytest.mark.fault(14)
def test_a_server_of_mlflow_2_has_all_but_the_model_and_one_line_says_so(
    proxy: Proxy, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ENABLE_ASYNC_LOGGING", "true")
    result = trained(proxy, tmp_path, "old", {0: "old"}, pictures=True)
    proxy.how = "pass"
    found = account(proxy.url, result, "old")
    assert (found["status"], len(found["history"]["val/loss"])) == ("FINISHED", 2)
    assert {"curves.png", "validation/per_class.json", "checkpoints"} <= found["files"]
    said = [record.message for record in caplog.records if record.name.startswith("mnist_sweep.tracking")]
    assert said == [
        "tracking: MLflow does not take the model of this run (its server is of MLflow 2, which keeps none)"
    ]


@pytest.mark.fault(4)
def test_a_signal_ends_a_run_while_the_server_hangs(
    proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_TIMEOUT")
    arguments = [*LONG, "trainer.max_epochs=5000", "name=long", f"tracking.uri={proxy.url}"]
    with contextlib.ExitStack() as stack:
        process = stack.enter_context(started(tmp_path, *arguments))
        wait_for(process, "epoch 2 of 5000")
        proxy.how = "hang"
        process.terminate()
        out, errors = process.communicate(timeout=60)
    assert process.returncode == 143, errors
    assert out == "mlruns/runs/long/result.json\n"
    assert Result.read(tmp_path / "mlruns/runs/long").status == "interrupted"
