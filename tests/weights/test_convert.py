"""`convert`, as a function and as a command."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import keras_preact
from keras_preact.weights import convert, named_weights
from keras_preact.weights.__main__ import main
from keras_preact.weights.safetensors_file import entries, save
from tests.weights.conftest import BUILDER


@pytest.fixture
def saved(net, tmp_path):
    """Return the small net in a file of another kind."""
    path = tmp_path / "net.keras"
    net.save(path)
    return path


def test_the_net_is_found_out(saved, net, tmp_path):
    to = tmp_path / "out.weights.h5"
    assert convert(saved, to) == "PreActResNet20"
    copy = BUILDER(weights=to)
    for one, two in zip(copy.get_weights(), net.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)
    assert {path.name for path in tmp_path.iterdir()} == {"net.keras", "out.weights.h5"}


def test_the_command(saved, net_file, tmp_path, capsys):
    to = tmp_path / "out.weights.h5"
    options = ["--to", str(to), "--architecture", "PreActResNet20"]
    assert main(["convert", str(saved), *options]) == 0
    assert capsys.readouterr().out.endswith(f"{to}: weights of PreActResNet20\n")
    assert main(["convert", str(tmp_path / "net.pth"), *options]) == 1
    assert "a pickle" in capsys.readouterr().err


def test_the_number_of_classes_and_channels_is_the_files(tmp_path):
    other = BUILDER(input_shape=(32, 32, 1), classes=3)
    other.save_weights(tmp_path / "other.weights.h5")
    convert(tmp_path / "other.weights.h5", tmp_path / "out.weights.h5")
    BUILDER(input_shape=(16, 16, 1), classes=3, weights=tmp_path / "out.weights.h5")


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ("PreActResNet56", "PreActResNet56: .*only in the net: "),
        ("PreActResNet21", "There is no builder 'PreActResNet21'. Did you mean 'PreActResNet20'"),
    ],
)
def test_a_net_that_the_weights_are_not_of(saved, tmp_path, architecture, message):
    with pytest.raises(ValueError, match=message):
        convert(saved, tmp_path / "out.weights.h5", architecture)
    assert not (tmp_path / "out.weights.h5").exists()


def test_weights_of_no_published_net(other_file, tmp_path):
    message = r"basic units \(1, 1, 1\) of \(16, 32, 64\) channels, fit no published net"
    with pytest.raises(ValueError, match=message):
        convert(other_file, tmp_path / "out.weights.h5")


@pytest.mark.parametrize("architecture", [None, "PreActResNet20"])
def test_weights_of_a_model_that_holds_nets(net, architecture, tmp_path):
    body = keras_preact.transforms.replace_head(net, 0)
    model = keras.Sequential([keras.Input((32, 32, 3)), body, keras.layers.Dense(2)])
    model.save_weights(tmp_path / "tuned.weights.h5")
    with pytest.raises(ValueError, match=f"model that holds the nets .'{body.name}'.*get_layer"):
        convert(tmp_path / "tuned.weights.h5", tmp_path / "out.weights.h5", architecture)


def test_a_file_of_a_net_without_its_stem(net, tmp_path):
    named = {name: each for name, each in named_weights(net).items() if name != "stem_conv"}
    save(entries(named), tmp_path / "rest.safetensors")
    with pytest.raises(ValueError, match="no stem among its"):
        convert(tmp_path / "rest.safetensors", tmp_path / "out.weights.h5")


def test_a_file_of_something_else(tmp_path):
    import h5py

    with h5py.File(tmp_path / "other.weights.h5", "w") as file:
        file.create_group("layers")
    with pytest.raises(ValueError, match="no residual units among its 0 layers"):
        convert(tmp_path / "other.weights.h5", tmp_path / "out.weights.h5")


def test_an_older_file_stays_until_the_new_one_is_complete(saved, tmp_path, monkeypatch):
    to = tmp_path / "out.weights.h5"
    to.write_text("older")

    def fail(model, path):
        path.write_text("half")
        raise OSError("No space left on device")

    monkeypatch.setattr(keras_preact.PreActResNet20().__class__, "save_weights", fail)
    with pytest.raises(OSError, match="No space"):
        convert(saved, to)
    assert to.read_text() == "older"


@pytest.mark.parametrize("to", ["out.h5", "missing/out.weights.h5"])
def test_where_it_cannot_be_written(saved, tmp_path, to):
    with pytest.raises(ValueError, match="`to` must"):
        convert(saved, tmp_path / to)
