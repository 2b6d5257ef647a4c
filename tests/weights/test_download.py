"""Downloads that fail in every way, from a real server on this machine."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import hashlib
import os
import tempfile
import time
from pathlib import Path

# Found before the privileges to read them are dropped.
import filelock  # noqa: F401
import keras
import numpy as np
import pytest

from keras_preact.weights import DownloadError, cached_path, load_weights
from keras_preact.weights.catalogue import CATALOGUE
from tests import forked
from tests.weights.conftest import BUILDER, NAME, make_entry


def _files(cache: Path) -> set[str]:
    """Return the names of what is in the cache, but for lock files."""
    files = (path for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock")
    return {path.name for path in files}


def _enter(monkeypatch, **changes):
    """Change the entry of the catalogue."""
    entry = dataclasses.replace(CATALOGUE[NAME], **changes)
    monkeypatch.setitem(CATALOGUE, NAME, entry)
    return entry


def _same(model: keras.Model, other: keras.Model) -> bool:
    pairs = zip(model.get_weights(), other.get_weights(), strict=True)
    return all(np.array_equal(one, two) for one, two in pairs)


@pytest.fixture(scope="module")
def fresh() -> keras.Model:
    """Return a net with weights of its own, which no failure may change."""
    keras.utils.set_random_seed(2)
    return BUILDER()


@pytest.fixture
def unchanged(fresh):
    """Check that a test leaves that net as it was."""
    before = [weight.copy() for weight in fresh.get_weights()]
    yield fresh
    after = fresh.get_weights()
    assert all(np.array_equal(one, two) for one, two in zip(before, after, strict=True))


class TestThatWorks:
    def test_a_builder_loads_an_entry_by_its_name(self, entry, server, cache, net):
        model = BUILDER(weights=NAME)
        assert _same(model, net)
        assert cached_path(entry).read_bytes() == server.content
        assert _files(cache) == {"net.weights.h5"}

    def test_a_second_time_nothing_is_downloaded(self, entry, server, net):
        load_weights(BUILDER(), NAME)
        server.content = b"gone"
        model = BUILDER(weights=NAME, include_top=False, pooling="avg")
        assert server.offsets == [0]
        conv = "stage4_unit3_conv2"
        np.testing.assert_array_equal(model.get_layer(conv).kernel, net.get_layer(conv).kernel)

    def test_a_file_put_there_by_hand(self, entry, server, net_file, net):
        path = cached_path(entry)
        path.parent.mkdir(parents=True)
        path.write_bytes(net_file.read_bytes())
        assert _same(BUILDER(weights=NAME), net)
        assert server.offsets == []

    def test_the_published_hash(self, entry, server, net, monkeypatch):
        _enter(monkeypatch, hash=f"md5:{hashlib.md5(server.content).hexdigest()}")
        assert _same(BUILDER(weights=NAME), net)
        assert _same(BUILDER(weights=NAME), net)

    def test_broken_connections_go_on_where_they_stopped(self, entry, server, net):
        server.cuts = [300_000, 200_000]
        assert _same(BUILDER(weights=NAME), net)
        assert server.offsets == [0, 300_000, 500_000]


class TestWrongFiles:
    """The cache stays free of them, and the model as it was."""

    def test_another_hash_than_the_catalogues(self, entry, cache, unchanged, monkeypatch):
        _enter(monkeypatch, hash="sha256:" + "0" * 64)
        with pytest.raises(DownloadError, match="its hash is not sha256:0000.* has been deleted"):
            load_weights(unchanged, NAME)
        assert _files(cache) == set()

    @pytest.mark.parametrize(
        ("header", "digest"),
        [
            ("X-Linked-ETag", '"' + "0" * 64 + '"'),
            ("x-goog-hash", "crc32c=AAAAAA==,md5=" + base64.b64encode(b"0" * 16).decode()),
        ],
    )
    def test_another_hash_than_the_servers(self, entry, server, cache, unchanged, header, digest):
        server.redirect_headers = {header: digest}
        with pytest.raises(DownloadError, match="its hash is not (sha256:0000|md5:3030)"):
            load_weights(unchanged, NAME)
        assert _files(cache) == set()

    def test_truncated_at_the_source(self, entry, server, cache, unchanged):
        server.content = server.content[:-50_000]
        with pytest.raises(DownloadError, match="not what was published.* cannot be read"):
            load_weights(unchanged, NAME)
        assert _files(cache) == set()

    def test_cut_off_by_a_server_that_does_not_tell_the_size(
        self, entry, server, cache, unchanged, net
    ):
        server.tells_size = False
        server.cuts = [100_000]
        with pytest.raises(DownloadError, match="not what was published.* cannot be read"):
            load_weights(unchanged, NAME)
        assert _files(cache) == set()
        assert _same(BUILDER(weights=NAME), net)

    def test_of_another_net(self, entry, server, cache, unchanged, other_file):
        server.content = other_file.read_bytes()
        message = r"PreActResNet20 has basic units \(3, 3, 3\).*, the file basic units \(1, 1, 1\)"
        with pytest.raises(DownloadError, match=message):
            load_weights(unchanged, NAME)
        assert _files(cache) == set()

    def test_of_another_net_with_the_right_hash(
        self, entry, server, unchanged, other_file, monkeypatch
    ):
        server.content = other_file.read_bytes()
        _enter(monkeypatch, hash=f"md5:{hashlib.md5(server.content).hexdigest()}")
        with pytest.raises(ValueError, match=f"'{NAME}', in .* does not hold the weights of"):
            load_weights(unchanged, NAME)

    @pytest.mark.parametrize("published", [True, False])
    def test_truncated_in_the_cache(self, entry, server, unchanged, monkeypatch, published):
        if published:
            _enter(monkeypatch, hash=f"md5:{hashlib.md5(server.content).hexdigest()}")
        path = cached_path(entry)
        path.parent.mkdir(parents=True)
        path.write_bytes(server.content[:1000])
        # DownloadError where the hash tells, ValueError where the content does.
        with pytest.raises((DownloadError, ValueError), match="[Dd]elete it, and it is downloaded"):
            load_weights(unchanged, NAME)
        assert path.read_bytes() == server.content[:1000]

    def test_the_beginning_of_another_version(self, entry, server, net, monkeypatch):
        _enter(monkeypatch, hash=f"md5:{hashlib.md5(server.content).hexdigest()}")
        partial = cached_path(entry).with_name("partial-net.weights.h5")
        partial.parent.mkdir(parents=True)
        partial.write_bytes(b"0" * 100_000)
        assert _same(BUILDER(weights=NAME), net)
        assert server.offsets == [100_000, 0]

    def test_more_than_the_whole_file(self, entry, server, net):
        partial = cached_path(entry).with_name("partial-net.weights.h5")
        partial.parent.mkdir(parents=True)
        partial.write_bytes(server.content + b"more")
        assert _same(BUILDER(weights=NAME), net)


class TestNoConnection:
    def test_says_what_to_put_where(self, cache, unchanged, monkeypatch):
        # Nothing listens on this port.
        url = "http://127.0.0.1:9/net.weights.h5"
        monkeypatch.setitem(CATALOGUE, NAME, make_entry(url))
        path = cached_path(CATALOGUE[NAME])
        assert path == cache / "keras_preact" / "served" / "net.weights.h5"
        with pytest.raises(
            DownloadError, match=f"from {url}: .*refused.* put the file at '{path}'"
        ):
            load_weights(unchanged, NAME)
        assert _files(cache) == set()

    def test_a_file_that_is_not_there(self, entry, cache, unchanged, monkeypatch):
        _enter(monkeypatch, url=entry.url.replace("net", "no"))
        with pytest.raises(DownloadError, match="no.weights.h5: HTTP Error 404"):
            load_weights(unchanged, NAME)
        assert _files(cache) == set()

    def test_an_interrupted_download_keeps_what_came(self, entry, server, cache, net, unchanged):
        server.cuts = [400_000, 0]
        with pytest.raises(DownloadError, match="ended after 400,000 of .* goes on from where"):
            load_weights(unchanged, NAME)
        assert _files(cache) == {"partial-net.weights.h5"}
        assert _same(BUILDER(weights=NAME), net)
        assert server.offsets == [0, 400_000, 400_000]
        assert _files(cache) == {"net.weights.h5"}


@contextlib.contextmanager
def _unprivileged():
    """Without root's right to write everywhere."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.skipif(os.name != "posix", reason="folders that refuse writing, as POSIX has them")
class TestReadOnlyCache:
    @pytest.fixture
    def locked_home(self, monkeypatch):
        # Not below pytest's folders, which no other user may enter.
        with tempfile.TemporaryDirectory() as folder:
            home = Path(folder)
            home.chmod(0o755)
            with _unprivileged():
                if not os.access(home, os.R_OK, effective_ids=True):
                    pytest.skip(f"users without rights cannot enter {home.parent}")
            monkeypatch.setenv("KERAS_HOME", str(home))
            yield home

    def test_says_what_is_wrong_and_what_to_do(self, entry, unchanged, locked_home):
        locked_home.chmod(0o555)
        with _unprivileged(), pytest.raises(DownloadError, match="Permission.*KERAS_HOME"):
            load_weights(unchanged, NAME)
        assert list(locked_home.iterdir()) == []

    def test_a_file_in_it_is_read(self, entry, server, net, locked_home):
        path = cached_path(entry)
        path.parent.mkdir(parents=True)
        path.write_bytes(server.content)
        for folder in (path.parent, *path.parents):
            if folder.is_relative_to(locked_home):
                folder.chmod(0o555)
        model = BUILDER()
        with _unprivileged():
            load_weights(model, NAME)
        assert _same(model, net)
        assert server.offsets == []

    def test_a_folder_for_the_file_that_refuses_writing(self, entry, unchanged, locked_home):
        folder = cached_path(entry).parent
        folder.mkdir(parents=True)
        folder.chmod(0o555)
        with _unprivileged(), pytest.raises(DownloadError, match="Permission.*KERAS_HOME"):
            load_weights(unchanged, NAME)
        assert list(folder.iterdir()) == []


class TestProcesses:
    """Downloads in processes of their own, which share the cache."""

    @pytest.fixture
    def start(self, entry, tmp_path):
        """Return a function that starts one, whose output a file of the folder has."""
        started = []

        def start(name: str) -> forked.Command:
            with open(tmp_path / name, "w") as log:
                started.append(forked.start(["tests.weights.fetching", entry.url], log))
            return started[-1]

        yield start
        for process in started:
            process.kill()
            process.wait()

    def test_two_at_once_download_once(self, start, server, cache, tmp_path):
        server.halfway = True
        both = {name: start(name) for name in ("one.txt", "other.txt")}
        for name, process in both.items():
            while not (tmp_path / name).read_text().startswith("fetching\n"):
                assert process.poll() is None
                time.sleep(0.01)
        server.go_on.set()
        digest = hashlib.md5(server.content).hexdigest()
        for name, process in both.items():
            assert process.wait() == 0
            assert (tmp_path / name).read_text().splitlines()[-1] == f"md5 {digest}"
        assert server.offsets == [0]
        assert _files(cache) == {"net.weights.h5"}

    def test_a_killed_download_goes_on_in_the_next_process(self, start, entry, server, cache, net):
        server.halfway = True
        process = start("killed.txt")
        partial = cached_path(entry).with_name("partial-net.weights.h5")
        half = len(server.content) // 2
        deadline = time.monotonic() + 120
        while not (partial.exists() and partial.stat().st_size):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        process.kill()
        process.wait()
        come = partial.stat().st_size
        assert 0 < come <= half
        assert _files(cache) == {"partial-net.weights.h5"}
        server.halfway = False
        assert _same(BUILDER(weights=NAME), net)
        assert server.offsets == [0, come]
