"""Settings of the user and the machine, which decide nothing in the tests."""

from __future__ import annotations

import os
import urllib.request
from pathlib import Path

import matplotlib
import requests


def test_keras_and_matplotlib_have_a_folder_of_their_own():
    home = Path(os.environ["KERAS_HOME"])
    # Keras wrote its settings when it was imported.
    assert (home / "keras.json").is_file()
    assert home.resolve() != Path(os.environ["USERS_KERAS_HOME"] or "~/.keras").expanduser()
    assert Path(matplotlib.get_configdir()) == Path(matplotlib.get_cachedir()) == home.resolve()


def test_no_proxy_is_asked_for_this_machine(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for host in ("127.0.0.1", "localhost"):
        assert urllib.request.proxy_bypass(host)
        assert not requests.utils.get_environ_proxies(f"http://{host}:8501")
    assert requests.utils.get_environ_proxies("http://example.org")
