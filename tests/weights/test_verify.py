"""The check of published weights, with a server on this machine or, if asked for, the real ones."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
from unittest import mock

import keras
import numpy as np
import PIL.Image
import pytest

from keras_preact import Preprocessor
from keras_preact.weights import list_weights
from keras_preact.weights.__main__ import main
from keras_preact.weights.catalogue import CATALOGUE
from keras_preact.weights.golden import GOLDEN, Golden, Image
from keras_preact.weights.verify import verify
from tests.weights.conftest import NAME, make_entry


@pytest.fixture
def golden(entry, net, tmp_path, monkeypatch) -> Golden:
    """Return published scores of the served net for a picture, which the right weights have."""
    path = tmp_path / "picture.png"
    pixels = np.random.default_rng(0).integers(0, 256, (48, 40, 3), dtype=np.uint8)
    PIL.Image.fromarray(pixels).save(path)
    image = Image(path.as_uri(), hashlib.sha256(path.read_bytes()).hexdigest())
    scores = net.predict(Preprocessor(entry.preprocessing)([path]), verbose=0)[0]
    golden = Golden(image, False, "softmax", {3: float(scores[3]), 7: float(scores[7])}, "a page")
    monkeypatch.setitem(GOLDEN, NAME, golden)
    return golden


def test_a_file_that_is_as_published(entry, golden):
    verdict = verify(entry)
    assert not verdict.error
    assert verdict.golden < 1e-5
    assert verdict.hash == "server's"
    assert verify(dataclasses.replace(entry, hash=_md5(entry))).hash == "published"


def _md5(entry) -> str:
    from keras_preact.weights import cached_path

    return f"md5:{hashlib.md5(cached_path(entry).read_bytes()).hexdigest()}"


def test_other_scores_than_the_published(entry, golden, monkeypatch):
    monkeypatch.setitem(GOLDEN, NAME, dataclasses.replace(golden, scores={3: 0.9}))
    assert re.search("the scores differ from a page by 0.[789]", verify(entry).error)


def test_another_picture_than_the_published(entry, golden, monkeypatch):
    image = dataclasses.replace(golden.image, sha256="0" * 64)
    monkeypatch.setitem(GOLDEN, NAME, dataclasses.replace(golden, image=image))
    assert "is not the published image" in verify(entry).error


def test_every_fault_is_told_and_none_ends_the_command(server, cache, net_file, other_file, capsys):
    server.content = net_file.read_bytes()
    entries = {
        "good": {},
        "hash": {"hash": f"md5:{'0' * 32}"},
        "classes": {"classes": 11},
        "builder": {"builder": "PreActResNet56"},
        "gone": {"url": server.url + ".gone"},
    }
    made = [
        make_entry(**{"url": server.url, "name": f"keras_preact/{name}", **changes})
        for name, changes in entries.items()
    ]
    # Put back in the order that there was.
    with mock.patch.dict(CATALOGUE, {entry.name: entry for entry in made}, clear=True):
        assert main(["verify", "PreActResNet*"]) == 1
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: line for line in lines if line.startswith("keras_preact/")}
    assert rows["keras_preact/good"].endswith("ok")
    assert "its hash is not md5:000" in rows["keras_preact/hash"]
    assert "'predictions' has weights of shapes" in rows["keras_preact/classes"]
    assert "PreActResNet56 has basic units (9, 9, 9)" in rows["keras_preact/builder"]
    assert "HTTP Error 404" in rows["keras_preact/gone"]
    assert lines[-1] == "1 of 5 entries are as published."


def test_a_pattern_that_fits_nothing(capsys):
    assert main(["verify", "VGG*"]) == 1
    assert "No weights are of a builder 'VGG*'" in capsys.readouterr().err


def test_published_scores_are_of_entries_that_there_are():
    assert GOLDEN.keys() <= CATALOGUE.keys()


@pytest.mark.network
@pytest.mark.parametrize("entry", list_weights(), ids=lambda entry: entry.name)
def test_published_files_and_scores(entry, monkeypatch):
    # Gigabytes, which are downloaded once.
    monkeypatch.setenv("KERAS_HOME", os.environ["USERS_KERAS_HOME"])
    verdict = verify(entry)
    keras.utils.clear_session()
    assert not verdict.error
