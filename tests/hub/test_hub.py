"""Folders for the Hugging Face Hub: written, read, uploaded to a server, fetched by one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import keras
import numpy as np
import pytest
import timm
import torch
from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError

import keras_preact
from keras_preact import (
    Preprocessor,
    from_config_folder,
    preprocessing,
    push_to_hub,
    to_config_folder,
)
from keras_preact.weights import DownloadError, load_weights
from tests import nets
from tests.hub.server import TOKEN, Hub, running
from training.net import find_pretrained

PREPROCESSING = preprocessing.Preprocessing(
    input_size=16, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25), crop_fraction=0.9
)
NAMES = ["cat", "dog", "owl"]
IMAGENET_FORM = keras_preact.BUILDERS["PreActResNet18d"].architecture.replace(
    units=(1, 2, 1, 1), channels=(32, 64, 96, 128), stem_channels=16
)
CHANGES = {"attention": "se", "weight_standardization": "scaled"}


@pytest.fixture(scope="module")
def net() -> keras.Model:
    """Return a net that timm has not."""
    return nets.net({**CHANGES, "scan_units": True}, classes=3)


@pytest.fixture(scope="module")
def folder(net, tmp_path_factory) -> Path:
    """Return its folder."""
    path = tmp_path_factory.mktemp("hub") / "net"
    to_config_folder(
        net,
        path,
        PREPROCESSING,
        class_names=NAMES,
        metrics={"accuracy": 0.9375},
        dataset="My Pets",
        training="Ten epochs of `adam`.",
    )
    return path


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Iterator[Hub]:
    """Yield a server that `huggingface_hub` takes for the Hub, with an empty cache."""
    with running() as hub:
        # It reads the variables HF_ENDPOINT, HF_HUB_CACHE, HF_HUB_DISABLE_XET and HF_HUB_OFFLINE
        # when it is imported, which is long ago.
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield hub


def test_a_folder_gives_the_net_back(net, folder):
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    copy = from_config_folder(folder)
    np.testing.assert_array_equal(nets.scores(copy), nets.scores(net))
    assert [type(layer) for layer in copy.layers] == [type(layer) for layer in net.layers]
    config = json.loads((folder / "config.json").read_text())
    assert "architecture" not in config
    assert config["keras_preact"]["class_names"] == NAMES
    assert Preprocessor(folder).preprocessing == PREPROCESSING
    # A builder takes the file alone.
    file = folder / "model.safetensors"
    options = {**CHANGES, "scan_units": False}
    again = nets.net(options, classes=3, weights=file, randomize=False)
    np.testing.assert_allclose(nets.scores(again), nets.scores(net), rtol=1e-4, atol=1e-6)


def test_the_card_is_read_by_the_hub_s_library(folder):
    card = huggingface_hub.ModelCard.load(folder / "README.md")
    assert card.data.license == "apache-2.0"
    assert card.data.library_name == "keras_preact"
    (result,) = card.data.eval_results
    assert (result.metric_type, result.metric_value) == ("accuracy", 0.9375)
    assert (result.dataset_type, result.dataset_name) == ("my-pets", "My Pets")
    for part in ("3: cat, dog, owl", "| accuracy | 0.9375 |", "Ten epochs of `adam`.", "90.0%"):
        assert part in card.text
    assert "timm" not in card.text


def test_the_architecture_of_a_published_net_is_named(tmp_path):
    model = keras_preact.PreActResNet20(weights="cifar10", drop_path=0.1)
    to_config_folder(model, tmp_path / "net", preprocessing.CIFAR10)
    config = json.loads((tmp_path / "net" / "config.json").read_text())["keras_preact"]
    assert config["builder"] == "PreActResNet20"
    architecture = keras_preact.Architecture.from_config(config["architecture"])
    assert architecture == keras_preact.PreActResNet20.architecture
    assert Preprocessor(tmp_path / "net").preprocessing == preprocessing.CIFAR10


@torch.inference_mode()
def _timm_scores(model: torch.nn.Module, x: np.ndarray) -> np.ndarray:
    return model.eval()(torch.tensor(x.transpose(0, 3, 1, 2))).numpy()


def test_timm_loads_the_folder_and_the_repository(hub, tmp_path):
    x = nets.images(2, 64, 64, 3)
    options = {"input_shape": x.shape[1:], "classes": 3, "classifier_activation": None}
    net = nets.net(architecture=IMAGENET_FORM, **options)
    values = preprocessing.Preprocessing(input_size=64, crop_fraction=0.9)
    to_config_folder(net, tmp_path / "net", values, class_names=NAMES)
    push_to_hub(tmp_path / "net", "user/net", token=TOKEN)
    expected = nets.scores(net, x)
    for place in (f"local-dir:{tmp_path / 'net'}", "hf-hub:user/net"):
        theirs = timm.create_model(place, pretrained=True)
        np.testing.assert_allclose(
            _timm_scores(theirs, x), expected, atol=1e-4 * np.abs(expected).max()
        )
        data = timm.data.resolve_data_config({}, model=theirs)
        assert tuple(data["input_size"]) == (3, 64, 64)
        assert (tuple(data["mean"]), data["crop_pct"]) == (values.mean, 0.9)
        assert theirs.pretrained_cfg["label_names"] == NAMES
    # Other classes than those of the weights, as timm fine-tunes.
    assert timm.create_model(place, pretrained=True, num_classes=7).num_classes == 7
    # And here.
    np.testing.assert_array_equal(nets.scores(from_config_folder("hf://user/net"), x), expected)
    # A repository of timm's own: its names of weights and of preprocessing alone.
    config = json.loads((tmp_path / "net" / "config.json").read_text())
    del config["keras_preact"]
    hub.files["user/net"]["main"]["config.json"] = json.dumps(config).encode()
    again = nets.net(
        architecture=IMAGENET_FORM, randomize=False, weights="hf://user/net", **options
    )
    np.testing.assert_array_equal(nets.scores(again, x), expected)
    assert Preprocessor("hf://user/net").preprocessing == values
    with pytest.raises(ValueError, match="'hf://user/net' was not written by"):
        from_config_folder("hf://user/net")


def test_what_people_build_from_a_net_comes_back(net, tmp_path):
    head = [keras.layers.Dense(4, "relu"), keras.layers.Dropout(0.5), keras.layers.Dense(2)]
    body = keras_preact.transforms.replace_head(net, 0)
    model = keras.Sequential([keras.Input((16, 16, 3)), body, *head])
    model.compile("adam", "mse")
    to_config_folder(model, tmp_path / "net", PREPROCESSING)
    copy = from_config_folder(tmp_path / "net")
    np.testing.assert_array_equal(nets.scores(copy), nets.scores(model))
    assert not copy.compiled


def _tuned(channels: int = 3, seed: int = 0) -> keras.Model:
    """Build a net with a normalization, adapted to images, and a head of one's own."""
    shape = (16, 16, channels)
    body = nets.net(
        architecture=nets.TINY, include_top=False, pooling="avg", input_shape=shape, seed=seed
    )
    normalization = keras.layers.Normalization(axis=None, name="normalization")
    normalization.adapt(nets.images(4, *shape, seed=seed))
    head = keras.layers.Dense(2, name="scores")
    return keras.Sequential([keras.Input(shape), normalization, body, head])


def test_a_model_that_holds_a_net_is_fetched(hub, tmp_path):
    model = _tuned()
    to_config_folder(model, tmp_path / "net", PREPROCESSING)
    address = push_to_hub(tmp_path / "net", "user/net", token=TOKEN)
    expected = nets.scores(model)
    np.testing.assert_array_equal(nets.scores(from_config_folder(address)), expected)
    other = _tuned(seed=1)
    load_weights(other, address)
    np.testing.assert_array_equal(nets.scores(other), expected)
    gray = _tuned(1)
    load_weights(gray, address)
    # The mean of the channels, as often as there are channels.
    kernel = model.layers[1].get_layer("stem_conv").kernel
    adapted = gray.layers[1].get_layer("stem_conv").kernel
    np.testing.assert_allclose(adapted, np.sum(kernel, 2, keepdims=True), rtol=1e-6, atol=1e-6)
    with pytest.raises(ValueError, match=r"only in the net.*the model holds .'preact_resnet'."):
        load_weights(model, "keras_preact/preactresnet20_cifar10")


def test_one_line_shares_and_one_line_fetches(net, folder, hub):
    address = push_to_hub(folder, "user/net", private=True, token=TOKEN)
    assert address == "hf://user/net"
    assert hub.private == {"user/net": True}
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert hub.files["user/net"]["main"] == files
    assert len(hub.uploads) == 2
    expected = nets.scores(net)
    np.testing.assert_array_equal(nets.scores(from_config_folder(address)), expected)
    options = {"classes": 3, "randomize": False, "weights": address}
    built = nets.net({**CHANGES, "scan_units": True}, **options)
    np.testing.assert_array_equal(nets.scores(built), expected)
    assert Preprocessor(address).preprocessing == PREPROCESSING
    # As published weights do, they fit images of other channels.
    gray = nets.net(CHANGES, **options, input_shape=(16, 16, 1))
    x = nets.images(2, 16, 16, 1)
    np.testing.assert_allclose(
        nets.scores(gray, x), nets.scores(net, np.repeat(x, 3, axis=-1)), atol=1e-5
    )
    # The same content is not sent again; what the Hub has no longer is in the cache.
    push_to_hub(folder, address, token=TOKEN)
    assert len(hub.uploads) == 2
    assert push_to_hub(folder, "user/net@v2", token=TOKEN) == "hf://user/net@v2"
    del hub.files["user/net"]["main"]
    np.testing.assert_array_equal(nets.scores(from_config_folder("hf://user/net@v2")), expected)


def test_positions_are_those_of_the_published_images(tmp_path, hub):
    encoder = {"units": (1, 1), "encoder_depth": 1, "encoder_width": 24, "encoder_heads": 3}
    published = nets.net(encoder, classes=3)
    to_config_folder(published, tmp_path / "net", PREPROCESSING)
    options = {"classes": 3, "randomize": False}
    options["weights"] = push_to_hub(tmp_path / "net", "user/net", token=TOKEN)
    # As many tokens, in another grid.
    x = nets.images(2, 8, 32, 3)
    expected = nets.scores(keras_preact.transforms.resize_input(published, 8, 32), x)
    wide = nets.net(encoder, **options, input_shape=(8, 32, 3))
    np.testing.assert_array_equal(nets.scores(wide, x), expected)
    # As many tokens stay where timm's entries tell the same grid, or nothing tells it.
    before = published.get_layer("encoder_tokens").positions
    for config in ({"pretrained_cfg": {"input_size": [3, 8, 32]}}, {}):
        hub.files["user/net"]["main"]["config.json"] = json.dumps(config).encode()
        wide = nets.net(encoder, **options, input_shape=(8, 32, 3))
        np.testing.assert_array_equal(wide.get_layer("encoder_tokens").positions, before)


def test_a_fetched_net_needs_no_connection(net, folder, tmp_path, hub, monkeypatch):
    address = push_to_hub(folder, "user/net", token=TOKEN)
    from_config_folder(address)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    copy = from_config_folder(address)
    np.testing.assert_array_equal(nets.scores(copy), nets.scores(net))
    with pytest.raises(DownloadError, match=r"'config.json' of 'hf://user/other'"):
        from_config_folder("hf://user/other")


def test_a_run_starts_from_a_repository(hub, tmp_path):
    net = keras_preact.PreActResNet20(weights="cifar10")
    names = preprocessing.CIFAR10_CLASSES
    to_config_folder(net, tmp_path / "net", preprocessing.CIFAR10, class_names=names)
    address = push_to_hub(tmp_path / "net", "user/net", token=TOKEN)
    pretrained = find_pretrained(address)
    assert pretrained.values["model"] == "PreActResNet20"
    assert pretrained.values["mean"] == preprocessing.CIFAR10.mean
    assert pretrained.predicts(names) and not pretrained.predicts(NAMES)
    copy = keras_preact.PreActResNet20(weights=pretrained.weights)
    x = nets.images(1, 32, 32, 3)
    np.testing.assert_array_equal(nets.scores(copy, x), nets.scores(net, x))


def test_weights_of_a_preset_are_found(hub, tmp_path):
    net = nets.net(architecture=nets.TINY, include_top=False)
    net.save_weights(tmp_path / "model.weights.h5")
    content = (tmp_path / "model.weights.h5").read_bytes()
    hub.files["user/preset"] = {"main": {"model.weights.h5": content}}
    options = {"include_top": False, "randomize": False, "weights": "hf://user/preset"}
    copy = nets.net(architecture=nets.TINY, **options)
    np.testing.assert_array_equal(nets.scores(copy), nets.scores(net))
    hub.files["user/preset"] = {"main": {"notes.txt": b"none"}}
    with pytest.raises(ValueError, match="'hf://user/preset' has none of the files"):
        nets.net(architecture=nets.TINY, **options)


def test_refusals_of_the_hub(folder, hub):
    with pytest.raises(HfHubHTTPError, match="401"):
        push_to_hub(folder, "user/net", token="wrong")
    assert not hub.files
    with pytest.raises(DownloadError, match=r"'config.json' of 'hf://user/net' cannot be down"):
        from_config_folder("hf://user/net")
    with pytest.raises(ValueError, match="named as 'hf://user/repo'.*Received: 'hf://net'"):
        keras_preact.PreActResNet20(weights="hf://net")
    with pytest.raises(ValueError, match="has no .'README.md'."):
        (folder / "README.md").rename(folder / "moved")
        try:
            push_to_hub(folder, "user/net", token=TOKEN)
        finally:
            (folder / "moved").rename(folder / "README.md")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"class_names": ["cat"]}, "each of the model's 3 classes. Received: 1"),
        ({"class_names": [1, 2, 3]}, "`class_names` must be one line of text. Received: 1"),
        ({"preprocessing": "cifar10"}, "must be a Preprocessing. Received: str"),
        ({"preprocessing": Preprocessor("cifar10")}, "Received: Preprocessor"),
        ({"metrics": {"accuracy": 1.0}}, "`dataset` must be a name, for `metrics`"),
        ({"preprocessing": preprocessing.CIFAR10}, "images of 32 x 32 pixels in 3 channels"),
        ({"folder": "."}, "`folder` must be a path that does not exist"),
    ],
)
def test_wrong_arguments(net, options, reason, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values = {"folder": "net", "preprocessing": PREPROCESSING, **options}
    with pytest.raises((TypeError, ValueError), match=reason):
        to_config_folder(net, **values)
    assert not list(tmp_path.iterdir())


def test_names_of_several_outputs_are_refused(net, tmp_path):
    model = keras.Model(net.input, [net.output] * 2)
    with pytest.raises(ValueError, match="None for a model with 2 outputs. Received: .'cat'"):
        to_config_folder(model, tmp_path / "net", PREPROCESSING, class_names=NAMES)
    assert not list(tmp_path.iterdir())


def test_a_model_that_no_reader_could_build_is_refused(net, tmp_path):
    model = keras.Model(net.input, keras.layers.Lambda(lambda x: 2 * x)(net.output))
    with pytest.raises(ValueError, match="lambda"):
        to_config_folder(model, tmp_path / "net", PREPROCESSING)
    assert not list(tmp_path.iterdir())


def test_damaged_folders(folder, tmp_path):
    with pytest.raises(ValueError, match=r"has no config.json"):
        from_config_folder(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config.json' is damaged"):
        from_config_folder(tmp_path)
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    with pytest.raises(ValueError, match=r"model.safetensors"):
        from_config_folder(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("builder", "side"),
    [("PreActDenseNet121", 64), ("NFPreActResNet50", 64), ("PreActViTHybrid_R26_S32", 96)],
)
def test_timm_loads_a_net_of_each_family(builder, side, tmp_path):
    model = nets.net(
        architecture=keras_preact.BUILDERS[builder].architecture,
        input_shape=(side, side, 3),
        classes=3,
        classifier_activation=None,
    )
    values = preprocessing.Preprocessing(input_size=side)
    to_config_folder(model, tmp_path / "net", values, class_names=NAMES)
    place = f"local-dir:{tmp_path / 'net'}"
    x = nets.images(2, side, side, 3)
    expected = nets.scores(model, x)
    theirs = timm.create_model(place, pretrained=True)
    np.testing.assert_allclose(
        _timm_scores(theirs, x), expected, atol=1e-4 * np.abs(expected).max()
    )
    adapted = timm.create_model(place, pretrained=True, num_classes=7, in_chans=1)
    assert _timm_scores(adapted, x[..., :1]).shape == (2, 7)


@pytest.mark.slow
def test_another_process_fetches_by_the_environment_alone(net, folder, hub, tmp_path):
    address = push_to_hub(folder, "user/net", token=TOKEN)
    code = f"""
import numpy as np, keras_preact
model = keras_preact.from_config_folder({address!r})
np.save({str(tmp_path / "scores.npy")!r}, model(np.load({str(tmp_path / "x.npy")!r})))
"""
    np.save(tmp_path / "x.npy", nets.X)
    variables = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
    subprocess.run([sys.executable, "-c", code], env=os.environ | variables, check=True)
    np.testing.assert_array_equal(np.load(tmp_path / "scores.npy"), nets.scores(net))
