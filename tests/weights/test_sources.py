"""Files of every source by way of the catalogue, and which net they are of."""

from __future__ import annotations

import itertools

import keras
import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

import keras_preact
from keras_preact.named_weights import placeholders
from keras_preact.weights import cached_path, convert, load_weights
from keras_preact.weights.catalogue import CATALOGUE
from keras_preact.weights.identify import Outline
from tests.weights.conftest import make_entry

X = np.random.default_rng(0).standard_normal((1, 64, 64, 3)).astype("float32")


@pytest.fixture(scope="module")
def theirs() -> torch.nn.Module:
    """Return a net of timm's with random weights."""
    torch.manual_seed(0)
    return timm.create_model("resnetv2_18d", pretrained=False).eval()


@pytest.fixture(scope="module")
def timm_file(theirs, tmp_path_factory):
    """Return its weights, as timm publishes them."""
    path = tmp_path_factory.mktemp("timm") / "model.safetensors"
    save_file(theirs.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def scores(theirs) -> np.ndarray:
    with torch.inference_mode():
        return theirs(torch.tensor(X.transpose(0, 3, 1, 2))).numpy()


def _close(model: keras.Model, scores: np.ndarray) -> None:
    np.testing.assert_allclose(model(X), scores, atol=1e-4 * np.abs(scores).max())


def test_an_entry_of_timm_from_the_server_to_the_scores(
    timm_file, scores, server, cache, monkeypatch
):
    server.content = timm_file.read_bytes()
    url = server.url
    entry = make_entry(url, name="timm/test", builder="PreActResNet18d", classes=1000)
    monkeypatch.setitem(CATALOGUE, entry.name, entry)
    options = {"input_shape": X.shape[1:], "classifier_activation": None}
    _close(keras_preact.PreActResNet18d(weights="timm/test", **options), scores)
    # The name says safetensors, the content says otherwise.
    cached_path(entry).write_bytes(server.content[:-100])
    with pytest.raises(ValueError, match="'timm/test', in .*cannot be read as a file of timm"):
        keras_preact.PreActResNet18d(weights="timm/test", **options)


def test_a_safetensors_file_by_its_path(timm_file, scores):
    options = {"input_shape": X.shape[1:], "classifier_activation": None}
    _close(keras_preact.PreActResNet18d(weights=timm_file, **options), scores)


def test_convert_finds_out_timms_net(timm_file, scores, tmp_path):
    to = tmp_path / "out.weights.h5"
    assert convert(timm_file, to) == "PreActResNet18d"
    options = {"input_shape": X.shape[1:], "classifier_activation": None}
    _close(keras_preact.PreActResNet18d(weights=to, **options), scores)


def test_a_strange_name_is_told_in_one_sentence(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"fc1.weight": torch.ones(2)}, path)
    with pytest.raises(ValueError, match=r"'fc1.weight', which no net of this package has\.$"):
        keras_preact.PreActResNet18d(weights=path, units=(1, 1, 1, 1))


def test_a_truncated_safetensors_file(timm_file, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(timm_file.read_bytes()[:-1000])
    with pytest.raises(ValueError, match="cannot be read as a file of timm"):
        convert(path, tmp_path / "out.weights.h5")


def test_weights_tell_the_nets_apart():
    outlines: dict[Outline, list[str]] = {}
    for name, builder in keras_preact.BUILDERS.items():
        outlines.setdefault(Outline.of_architecture(builder.architecture), []).append(name)
    similar = [names for names in outlines.values() if len(names) > 1]
    assert ["PreActResNet18", "PreActResNet18d"] in similar
    for names in similar:
        shapes = {name: _shapes(name) for name in names}
        for one, two in itertools.combinations(names, 2):
            assert shapes[one] != shapes[two], (one, two)


def _shapes(name: str) -> dict:
    """Return the shapes of a net's weights, cut to one unit per stage and half of the channels."""
    builder = keras_preact.BUILDERS[name]
    channels = tuple(each // 2 for each in builder.architecture.channels)
    net = builder(include_top=False, weights=None, units=(1,) * len(channels), channels=channels)
    return {
        layer: {key: array.shape for key, array in arrays.items()}
        for layer, arrays in placeholders(net).items()
    }


def test_a_file_of_keras_hub_is_known_by_its_layers(tmp_path):
    inputs = keras.Input((32, 32, 3))
    net = keras.Model(inputs, keras.layers.Conv2D(8, 7, name="conv1_conv", use_bias=False)(inputs))
    net.save_weights(tmp_path / "model.weights.h5")
    ours = keras_preact.PreActResNet18(include_top=False, weights=None)
    message = "1 layers with weights are given, .* only given: \\[\\], only in the net"
    with pytest.raises(ValueError, match=message):
        load_weights(ours, tmp_path / "model.weights.h5")
