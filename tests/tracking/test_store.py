"""The store: one that was moved is followed, and a server that is of no use is refused before anything begins."""

import contextlib
import shutil
import socket
import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from mnist_sweep import tracking
from mnist_sweep.config import options
from mnist_sweep.errors import RequestError
from mnist_sweep.tracking import MLflowRun
from mnist_sweep.tracking.check import check_store
from mnist_sweep.tracking.store import client_of, follow

pytestmark = pytest.mark.slow


def settings(folder: Path) -> options.MLflow:
    return options.MLflow(name="mlflow", uri=f"sqlite:///{folder}/mlflow.db", experiment="it")


def logged(folder: Path, output: Path | None = None) -> str:
    """MLflow's id of a run with a document."""
    run = MLflowRun(settings(folder), output or folder, "it")
    run.document({"a": 1}, "it.json")
    run.end("FINISHED")
    return str(run.run_id)


@pytest.mark.parametrize("how", [shutil.move, shutil.copytree])
def test_a_store_that_was_moved_or_copied_has_its_artifacts_beside_it(
    tmp_path: Path, empty_store: Path, how: Any, caplog: pytest.LogCaptureFixture
) -> None:
    before, now = tmp_path / "before", tmp_path / "a b" / "now"
    before.mkdir()
    now.parent.mkdir()
    shutil.copy(empty_store, before / "mlflow.db")
    first = logged(before)
    how(before, now)
    caplog.set_level("INFO")
    new = logged(now)
    client = client_of(settings(now).uri)
    for run_id in (first, new):
        assert client.get_run(run_id).info.artifact_uri.startswith((now / "artifacts").as_uri())
        assert (now / "artifacts" / run_id / "artifacts" / "it.json").is_file()
    assert [record.message for record in caplog.records if "has come from" in record.message] == [
        f"tracking: {now}/mlflow.db has come from {before}; its artifacts are found beside it"
    ]
    if how is shutil.copytree:
        assert client_of(settings(before).uri).get_run(first).info.artifact_uri.startswith(before.as_uri())


def test_a_store_whose_artifacts_are_elsewhere_by_intention_stays_so(tmp_path: Path, empty_store: Path) -> None:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    run_id = logged(tmp_path, tmp_path / "output")
    other = MLflowRun(options.MLflow(name="mlflow", uri=settings(tmp_path).uri, experiment="here"), tmp_path, "other")
    other.document({"a": 1}, "it.json")
    assert (tmp_path / "artifacts").is_dir()
    follow(settings(tmp_path).uri)
    assert (
        client_of(settings(tmp_path).uri)
        .get_run(run_id)
        .info.artifact_uri.startswith((tmp_path / "output" / "artifacts").as_uri())
    )


def test_what_is_no_store_is_left_to_mlflow(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("no database")
    for uri in (settings(tmp_path).uri, f"sqlite:///{tmp_path}/none.db", "http://127.0.0.1:9"):
        follow(uri)
    assert not (tmp_path / "none.db").exists()


class _Unauthorized(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_error(401)

    def log_message(self, *_: Any) -> None:
        pass


@contextlib.contextmanager
def answering(certificate: Path | None = None) -> Iterator[int]:
    """The port of a server that lets nobody in; with a certificate behind TLS."""
    with HTTPServer(("127.0.0.1", 0), _Unauthorized) as server:
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def expired(folder: Path) -> Path:
    """A certificate of 127.0.0.1 that signs itself, and whose time is over, with its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
    day = datetime.now(UTC) - timedelta(days=1)
    made = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), day, day)
    pem, kind = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    private = key.private_bytes(pem, kind, serialization.NoEncryption())
    (folder / "it.pem").write_bytes(private + made.sign(key, hashes.SHA256()).public_bytes(pem))
    return folder / "it.pem"


def refused(uri: str) -> str:
    with pytest.raises(RequestError) as caught:
        check_store(options.MLflow(name="mlflow", uri=uri, experiment="it"))
    said = str(caught.value)
    assert said.startswith("tracking.uri=http")
    assert said.endswith("tracking=none")
    return said


def test_a_server_that_is_of_no_use_is_refused_in_one_line(tmp_path: Path) -> None:
    with answering() as port:
        said = refused(f"http://somebody:secret@127.0.0.1:{port}")
    assert "HTTP status 401, by MLFLOW_TRACKING_USERNAME" in said
    assert "secret" not in said
    with answering(expired(tmp_path)) as port:
        assert "certificate" in refused(f"https://127.0.0.1:{port}").lower()
    assert "resolve" in refused("https://nowhere.invalid")


def test_a_server_that_does_not_answer_now_is_one_line_and_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        check_store(options.MLflow(name="mlflow", uri=uri, experiment="it"))
        assert tracking.is_silent(uri)
    check_store(options.MLflow(name="mlflow", uri=uri, experiment="it"))
    first, second = caplog.messages
    assert "timed out" in first
    assert "refused" in second
    assert first.endswith("; what it is not told is kept and sent later")
