"""A server of weights on this machine, and a net small enough to serve."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import keras
import pytest

import keras_preact
from keras_preact.preprocessing import Preprocessing
from keras_preact.weights import Entry
from keras_preact.weights.catalogue import CATALOGUE
from tests.servers import serving

BUILDER = keras_preact.PreActResNet20
NAME = "keras_preact/served"


@dataclass
class Server:
    """Answers of the server, and the requests to it.

    Attributes:
        url: Of the file, by way of a redirection.
        content: The file.
        redirect_headers: Headers of the redirection.
        tells_size: Whether it says how long an answer is.
        cuts: Bytes after which each answer breaks off, first to last; the others are whole.
        halfway: If set, an answer stops in the middle until `go_on`.
        go_on: Lets such an answer go on.
        offsets: First byte of each answer.
    """

    url: str = ""
    content: bytes = b""
    redirect_headers: dict[str, str] = field(default_factory=dict)
    tells_size: bool = True
    cuts: list[int] = field(default_factory=list)
    halfway: bool = False
    go_on: threading.Event = field(default_factory=threading.Event)
    offsets: list[int] = field(default_factory=list)


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        state: Server = self.server.state
        if self.path.startswith("/redirected/"):
            self._answer(state)
            return
        if self.path != "/net.weights.h5":
            self.send_error(404)
            return
        self.send_response(302)
        self.send_header("Location", f"/redirected{self.path}")
        for name, value in state.redirect_headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _answer(self, state: Server):
        first = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
        state.offsets.append(first)
        if first >= len(state.content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(state.content)}")
            self.end_headers()
            return
        rest = state.content[first:]
        self.send_response(206 if first else 200)
        if state.tells_size:
            self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            if state.cuts:
                self.wfile.write(rest[: state.cuts.pop(0)])
                return
            if state.halfway:
                self.wfile.write(rest[: len(rest) // 2])
                self.wfile.flush()
                state.go_on.wait(300)
                rest = rest[len(rest) // 2 :]
            self.wfile.write(rest)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    """Yield a server with nothing to send yet."""
    with serving(_Handler) as httpd:
        httpd.state = Server(url=f"http://127.0.0.1:{httpd.server_port}/net.weights.h5")
        yield httpd.state
        httpd.state.go_on.set()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty cache."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    return tmp_path / "models" / "keras_preact"


@pytest.fixture
def entry(server: Server, cache: Path, net_file: Path, monkeypatch: pytest.MonkeyPatch) -> Entry:
    """Return an entry of the catalogue whose file the server has, without a hash."""
    server.content = net_file.read_bytes()
    entry = make_entry(server.url)
    monkeypatch.setitem(CATALOGUE, entry.name, entry)
    return entry


def make_entry(url: str, content: bytes | None = None, **values) -> Entry:
    """Return an entry for the small net, with the hash of a content if there is one."""
    return Entry(
        **{
            "name": NAME,
            "builder": BUILDER.__name__,
            "url": url,
            "hash": None if content is None else f"md5:{hashlib.md5(content).hexdigest()}",
            "training_data": "noise",
            "classes": 10,
            "preprocessing": Preprocessing(input_size=32),
            "reference": "none",
            **values,
        }
    )


@pytest.fixture(scope="session")
def net() -> keras.Model:
    """Return the small net."""
    keras.utils.set_random_seed(1)
    return BUILDER()


@pytest.fixture(scope="session")
def net_file(net: keras.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the small net's weights, as Keras saves them."""
    path = tmp_path_factory.mktemp("served") / "net.weights.h5"
    net.save_weights(path)
    return path


@pytest.fixture(scope="session")
def other_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the weights of another net."""
    architecture = BUILDER.architecture.replace(units=(1, 1, 1))
    path = tmp_path_factory.mktemp("other") / "net.weights.h5"
    keras_preact.PreActResNet(architecture, classes=10).save_weights(path)
    return path
