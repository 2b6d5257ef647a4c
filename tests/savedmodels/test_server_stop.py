"""A server that stops answers the requests it has, and only then deletes the session."""

import socket
import struct
import threading

import numpy as np
import pytest
import requests
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef, TensorInfo

from savedmodels import server as server_module
from savedmodels.client import RequestFailed, connect
from savedmodels.server import LocalServer

WAIT_S = 30
# All that were loaded.
models = []


class SlowModel:
    """A model whose answers wait until they may go on."""

    def __init__(self, folder):
        self.folder = folder
        signature = SignatureDef(inputs={"x": TensorInfo(dtype=types_pb2.DT_FLOAT)})
        self.signatures = {"serving_default": signature}
        models.append(self)
        self.entered, self.release = threading.Event(), threading.Event()
        self.closed = threading.Event()
        self.running, self.running_at_close = 0, None
        self.changed = threading.Condition()

    def run(self, inputs, signature):
        del inputs, signature
        with self.changed:
            self.running += 1
            self.changed.notify_all()
        self.entered.set()
        assert self.release.wait(WAIT_S)
        with self.changed:
            self.running -= 1
        return {"y": np.ones(1, np.float32)}

    def close(self):
        self.running_at_close = self.running
        self.closed.set()


@pytest.fixture
def slow(tmp_path, monkeypatch):
    """Return a server of a slow model that has started. The test stops it."""
    folder = tmp_path / "net" / "1"
    folder.mkdir(parents=True)
    (folder / "saved_model.pb").touch()
    monkeypatch.setattr(server_module, "ServedModel", SlowModel)
    monkeypatch.setattr(server_module, "GRACE_S", 0.1)
    server = LocalServer(folder)
    server.start()
    yield server
    server.model.release.set()


def in_thread(function):
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    return thread


def test_a_call_over_grpc_that_outlasts_the_grace_is_waited_for(slow):
    client = connect(f"127.0.0.1:{slow.port}", "net", timeout_s=WAIT_S)
    failures = []

    def call():
        try:
            client.predict({"x": np.zeros(1, np.float32)})
        except RequestFailed as error:
            failures.append(error)

    calling = in_thread(call)
    assert slow.model.entered.wait(WAIT_S)
    stopping = in_thread(slow.stop)
    # Ten times the grace.
    assert not slow.model.closed.wait(1)
    slow.model.release.set()
    stopping.join(WAIT_S)
    assert slow.model.running_at_close == 0
    client.close()
    calling.join(WAIT_S)
    assert not calling.is_alive()
    # The client has no answer.
    assert len(failures) == 1


def test_requests_over_rest_are_answered(slow):
    url = f"http://127.0.0.1:{slow.rest_port}/v1/models/net"
    # A connection that is kept waits for another request, which must not hold the server up.
    kept = requests.Session()
    assert kept.get(url, timeout=WAIT_S).status_code == 200
    answers = []

    def call():
        answers.append(requests.post(f"{url}:predict", json={"inputs": [0]}, timeout=WAIT_S))

    calling = [in_thread(call) for _ in range(3)]
    assert slow.model.entered.wait(WAIT_S)
    with slow.model.changed:
        assert slow.model.changed.wait_for(lambda: slow.model.running == len(calling), WAIT_S)
    stopping = in_thread(slow.stop)
    assert not slow.model.closed.wait(1)
    slow.model.release.set()
    for thread in (*calling, stopping):
        thread.join(WAIT_S)
        assert not thread.is_alive()
    assert slow.model.running_at_close == 0
    assert [answer.json() for answer in answers] == [{"outputs": [1.0]}] * 3
    with pytest.raises(requests.ConnectionError):
        kept.get(url, timeout=WAIT_S)


def test_an_idle_server_stops(slow):
    url = f"http://127.0.0.1:{slow.rest_port}/v1/models/net"
    kept = requests.Session()
    assert kept.get(url, timeout=WAIT_S).status_code == 200
    stopping = in_thread(slow.stop)
    stopping.join(WAIT_S)
    assert slow.model.closed.is_set() and not stopping.is_alive()


def test_nothing_is_printed_of_a_client_that_went_away(slow, capfd):
    connection = socket.create_connection(("127.0.0.1", slow.rest_port), timeout=WAIT_S)
    body = b'{"inputs": [0]}'
    head = f"POST /v1/models/net:predict HTTP/1.1\r\nContent-Length: {len(body)}\r\n\r\n"
    connection.sendall(head.encode() + body)
    assert slow.model.entered.wait(WAIT_S)
    # Closed at once, with a reset, so that the answer meets no one.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
    slow.model.release.set()
    slow.stop()
    assert capfd.readouterr().err == ""


def test_a_port_in_use_is_told(slow, capsys):
    folder = str(slow.model.folder)
    for ports, option in (
        ((slow.port, 0), "--port"),
        ((0, slow.rest_port), "--rest-port"),
    ):
        options = ["--port", str(ports[0]), "--rest-port", str(ports[1])]
        assert server_module.main([folder, *options]) == 2
        error = capsys.readouterr().err
        assert f"cannot listen on 127.0.0.1:{max(ports)}, which another process" in error
        assert f"give another {option}, or 0" in error
        assert models[-1] is not slow.model and models[-1].closed.is_set()
    slow.model.release.set()
    slow.stop()


def test_a_version_that_is_no_number_is_told(tmp_path, capsys):
    (tmp_path / "latest").mkdir()
    (tmp_path / "latest" / "saved_model.pb").touch()
    assert server_module.main([str(tmp_path / "latest")]) == 2
    assert "a version is a number" in capsys.readouterr().err
