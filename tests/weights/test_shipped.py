"""The weights that ship with the package."""

from __future__ import annotations

import dataclasses
import hashlib
import re
import socket

import h5py
import keras
import numpy as np
import pytest

import keras_preact
from keras_preact.weights import (
    DownloadError,
    cached_path,
    list_weights,
    load_weights,
    named_weights,
    save_half_precision,
)
from keras_preact.weights.catalogue import CATALOGUE
from tests.weights import cifar10

SHIPPED = [entry for entry in list_weights() if entry.url is None]
BY_NAME = pytest.mark.parametrize("entry", SHIPPED, ids=lambda entry: entry.name)


@pytest.fixture
def no_network(monkeypatch):
    """Make every connection of this machine fail."""

    def refuse(*arguments, **options):
        raise AssertionError("a connection is opened")

    monkeypatch.setattr(socket, "create_connection", refuse)


@BY_NAME
def test_the_file_is_that_of_the_entry_and_of_the_card(entry):
    file = cached_path(entry)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert entry.hash == f"sha256:{digest}"
    card = file.with_name(file.name.replace(".weights.h5", ".md")).read_text(encoding="utf-8")
    assert digest in card
    assert (
        round(float(re.search(r"(\d+\.\d+)% of the 10,000 test images", card)[1]), 1) == entry.top1
    )


@BY_NAME
def test_it_loads_without_a_network(entry, no_network, cache):
    builder = keras_preact.BUILDERS[entry.builder]
    model = builder(weights="cifar10")
    # A new one's are ones.
    assert not np.allclose(model.get_layer("head_norm").gamma, 1)
    features = builder(weights=entry.name, include_top=False)
    assert len(features.weights) == len(model.weights) - 2
    assert not cache.exists()


@BY_NAME
def test_it_needs_its_classes(entry):
    with pytest.raises(ValueError, match="must be 10, as .*classes=100"):
        keras_preact.BUILDERS[entry.builder](weights="cifar10", classes=100)


def test_cifar10_for_a_net_that_has_none():
    with pytest.raises(ValueError, match="trained on CIFAR-10 for PreActResNet50, .*. For Pre"):
        keras_preact.PreActResNet50(weights="cifar10")


def test_a_damaged_or_missing_file_says_so(monkeypatch, tmp_path):
    entry = SHIPPED[0]
    monkeypatch.setattr("keras_preact.weights.download.SHIPPED", tmp_path)
    with pytest.raises(DownloadError, match="There is no .*install the package again"):
        keras_preact.PreActResNet20(weights="cifar10")
    (tmp_path / entry.file_name).write_bytes(b"damaged")
    with pytest.raises(DownloadError, match="its hash is not .*install the package again"):
        keras_preact.PreActResNet20(weights="cifar10")
    monkeypatch.setitem(CATALOGUE, entry.name, dataclasses.replace(entry, hash=None))
    with pytest.raises(ValueError, match="cannot be read.*install the package again"):
        keras_preact.PreActResNet20(weights="cifar10")


def probabilities(builder: str, batch: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return what a shipped net makes of the first images of a file of CIFAR-10, and the labels."""
    if not cifar10.ARCHIVE.exists():
        pytest.skip(f"needs {cifar10.ARCHIVE.name} in ../shared/data")
    images, labels = cifar10.read_images(batch, count)
    images = keras_preact.preprocess_input(images, weights="cifar10")
    model = keras_preact.BUILDERS[builder](weights="cifar10")
    return model.predict(images, batch_size=100, verbose=0), labels


def test_the_loss_on_training_images():
    # The archive begins with them, and every change of a score changes the loss.
    scores, labels = probabilities("PreActResNet20", "data_batch_1", 500)
    losses = -np.log(scores[np.arange(500), labels])
    assert losses.mean() == pytest.approx(0.0205394, rel=1e-4)


# Half a minute for the smallest one.
@pytest.mark.slow
@BY_NAME
def test_the_accuracy_on_the_test_images(entry):
    scores, labels = probabilities(entry.builder, "test_batch", 10_000)
    accuracy = 100 * np.mean(scores.argmax(-1) == labels)
    assert accuracy == pytest.approx(entry.top1, abs=0.1)


def test_kernels_take_16_bits_and_the_rest_32(net, tmp_path):
    path = tmp_path / "net.weights.h5"
    save_half_precision(net, path)
    dtypes = {}
    with h5py.File(path) as file:
        file.visititems(
            lambda name, each: (
                dtypes.setdefault(each.ndim > 1, set()).add(str(each.dtype))
                if isinstance(each, h5py.Dataset)
                else None
            )
        )
    assert dtypes == {True: {"float16"}, False: {"float32"}}
    other = keras_preact.PreActResNet20()
    load_weights(other, path)
    expected = named_weights(net)
    for layer, arrays in named_weights(other).items():
        for key, array in arrays.items():
            theirs = expected[layer][key]
            tolerance = 2**-11 * np.abs(theirs) if array.ndim > 1 else 0
            assert array.dtype == np.float32
            assert np.all(np.abs(array - theirs) <= tolerance + 2**-25), (layer, key)
    keras_preact.PreActResNet20().load_weights(path)


def test_norms_of_stacked_units_take_32_bits(tmp_path):
    path = tmp_path / "net.weights.h5"
    save_half_precision(keras_preact.PreActResNet20(scan_units=True), path)
    with h5py.File(path) as file:
        dtypes = {name: each.dtype for name, each in file["layers/stacked_units/vars"].items()}
    assert {name for name, dtype in dtypes.items() if dtype == "float16"} == {"conv1.0", "conv2.0"}
    assert dtypes["norm1.3"] == dtypes["norm2.0"] == "float32"


def test_what_16_bits_cannot_hold_is_refused(tmp_path):
    path = tmp_path / "net.weights.h5"
    path.write_bytes(b"older")
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    for value in (1e5, np.nan):
        model.layers[0].kernel.assign([[value]])
        with pytest.raises(ValueError, match="16-bit floats end at 65504.0. Received: "):
            save_half_precision(model, path)
    assert path.read_bytes() == b"older"
    with pytest.raises(ValueError, match=r"must end in .weights.h5. Received: 'net.h5'"):
        save_half_precision(model, "net.h5")
