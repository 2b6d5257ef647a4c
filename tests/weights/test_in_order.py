"""Files whose layer names say nothing, against other people's checkpoints and Keras's own files."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy.special import softmax

from keras_preact.preprocessing import CIFAR10_CLASSES
from keras_preact.weights import load_in_order, named_weights
from keras_preact.weights.__main__ import main
from tests.nets import TINY, images, net, scores
from tests.weights import cifar10
from training.evaluate import evaluate

CHECKPOINTS = cifar10.ARCHIVE.with_name("cifar10-checkpoints")
# How the nets of gahaalt/ResNets-in-tensorflow2 differ from those of arXiv:1603.05027.
OPTIONS = {
    "activated_stem": "true",
    "projection_input": "raw",
    "use_bias": "true",
    "padding": "same",
    "norm_epsilon": "1e-3",
}
needs_checkpoints = pytest.mark.skipif(
    not CHECKPOINTS.is_dir(), reason=f"there is no {CHECKPOINTS}"
)


def _convert(source: Path, to: Path, depth: int) -> int:
    options = [f"--option={name}={value}" for name, value in OPTIONS.items()]
    builder = f"PreActResNet{depth}"
    command = ["convert-in-order", str(source), "--to", str(to), "--architecture", builder]
    return main([*command, *options])


def _cifar10() -> tuple[np.ndarray, np.ndarray]:
    """Return the test images, normalized as the nets' author did, and their labels."""
    images, labels = cifar10.read_images("test_batch", 10_000)
    pixels = images / np.float32(255)
    mean, std = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
    return ((pixels - mean) / std).astype("float32"), labels


class Answers:
    """A net whose answers are given."""

    def predict_on_batch(self, scores: np.ndarray) -> np.ndarray:
        return scores


@needs_checkpoints
def test_a_checkpoint_becomes_a_whole_net(tmp_path):
    path = tmp_path / "net.keras"
    assert _convert(CHECKPOINTS / "cifar_resnet20_preactivated.tf", path, 20) == 0
    converted = keras.saving.load_model(path)
    assert converted.count_params() == 274_442
    reader = tf.train.load_checkpoint(str(CHECKPOINTS / "cifar_resnet20_preactivated.tf"))
    for name, place in (("stem_norm", 1), ("stage3_unit1_shortcut", 16), ("predictions", 40)):
        for variable in converted.get_layer(name).weights:
            key = f"layer_with_weights-{place}/{variable.name}/.ATTRIBUTES/VARIABLE_VALUE"
            np.testing.assert_array_equal(variable, reader.get_tensor(key))


@pytest.mark.slow
@needs_checkpoints
@pytest.mark.parametrize(
    ("depth", "error", "nll", "ece"), [(20, 7.92, 0.3307, 0.04588), (56, 6.77, 0.3354, 0.04657)]
)
def test_logits_of_other_peoples_checkpoints(depth, error, nll, ece, tmp_path):
    path = tmp_path / "net.keras"
    assert _convert(CHECKPOINTS / f"cifar_resnet{depth}_preactivated.tf", path, depth) == 0
    x, labels = _cifar10()
    logits = keras.saving.load_model(path).predict(x, batch_size=500, verbose=0)
    expected = np.load(CHECKPOINTS / f"logits_{depth}_preactivated.npy")
    # Logits reach 25, and both nets add up in float32.
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
    assert 100 * np.mean(logits.argmax(1) != labels) == pytest.approx(error, abs=0.005)
    # What training.evaluate prints, against what PyTorch and torchmetrics make of `expected`.
    batches = [(softmax(logits, axis=1), np.eye(10)[labels])]
    evaluation = evaluate(Answers(), batches, CIFAR10_CLASSES)
    assert evaluation.nll == pytest.approx(nll, abs=5e-5)
    assert evaluation.ece == pytest.approx(ece, abs=5e-5)
    assert 100 * (1 - evaluation.top1) == pytest.approx(error, abs=0.005)


@needs_checkpoints
def test_a_net_of_another_order_is_refused_where_it_parts(tmp_path, capsys):
    source = CHECKPOINTS / "cifar_resnet20_original.tf"
    assert _convert(source, tmp_path / "net.keras", 20) == 1
    error = capsys.readouterr().err
    assert "they part at layer 17 of those with weights" in error
    assert "'stage3_unit1_shortcut', of shapes [(1, 1, 16, 32), (32,)]" in error
    assert "'layer_with_weights-16', of shapes [(3, 3, 32, 32), (32,)]" in error
    assert not [*tmp_path.iterdir()]


def _renamed(model: keras.Model) -> keras.Model:
    """Return a copy whose layers have the names that Keras gives unasked."""
    counts: dict[str, int] = {}

    def clone(layer: keras.layers.Layer) -> keras.layers.Layer:
        config = layer.get_config()
        kind = type(layer).__name__.lower()
        number = counts[kind] = counts.get(kind, -1) + 1
        config["name"] = f"{kind}_{number}" if number else kind
        return type(layer).from_config(config)

    copy = keras.models.clone_model(model, clone_function=clone)
    copy.set_weights(model.get_weights())
    return copy


@pytest.mark.parametrize("ending", [".weights.h5", ".keras", ".h5", ""])
def test_every_container_of_keras(ending, tmp_path):
    model = net(architecture=TINY.replace(units=(1, 12)))
    path = tmp_path / f"net{ending}"
    copy = _renamed(model)
    if ending == ".weights.h5":
        copy.save_weights(path)
    elif ending:
        copy.save(path)
    else:
        # As Keras 2 wrote checkpoints: an object for each layer with weights.
        parts = [layer for layer in copy.layers if layer.weights]
        objects = {f"layer_with_weights-{i}": _trackable(each) for i, each in enumerate(parts)}
        tf.train.Checkpoint(**objects).write(str(path))
    loaded = net(architecture=TINY.replace(units=(1, 12)), seed=1)
    load_in_order(loaded, path)
    x = images(2, 16, 16, 3)
    np.testing.assert_array_equal(scores(loaded, x), scores(model, x))
    # All these units have the same shapes, in whatever order.
    stacked = net({"scan_units": True}, architecture=TINY.replace(units=(1, 12)), seed=1)
    load_in_order(stacked, path)
    _check_same_weights(stacked, model)


def _check_same_weights(model: keras.Model, other: keras.Model) -> None:
    expected = named_weights(other)
    for name, arrays in named_weights(model).items():
        for key, array in arrays.items():
            np.testing.assert_array_equal(array, expected[name][key], err_msg=name)


def test_units_with_self_attention(tmp_path):
    changes = {"spatial": "self_attention", "attention_heads": 2}
    model, loaded = (net(changes, seed=seed) for seed in range(2))
    model.save(tmp_path / "net.h5")
    load_in_order(loaded, tmp_path / "net.h5")
    _check_same_weights(loaded, model)


def _trackable(layer: keras.layers.Layer) -> tf.train.Checkpoint:
    return tf.train.Checkpoint(**{each.name: each.value for each in layer.weights})


def test_a_file_of_fewer_layers_changes_nothing(tmp_path):
    path = tmp_path / "net.weights.h5"
    net(architecture=TINY).save_weights(path)
    model = net(architecture=TINY.replace(units=(1, 2)))
    before = model.get_weights()
    with pytest.raises(ValueError, match="they part at layer"):
        load_in_order(model, path)
    for one, two in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, two)


def test_no_such_file(tmp_path):
    with pytest.raises(ValueError, match="There is no file of weights '.*gone', and no gone.index"):
        load_in_order(net(architecture=TINY), tmp_path / "gone")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--architecture", "PreActResNet21"], "Did you mean 'PreActResNet20'"),
        (["--architecture", "PreActResNet20", "--option", "use_bais=true"], "use_bias"),
        (
            # None is one of the values of an attention, which needs no more than the word.
            ["--architecture", "PreActResNet20", "--option", "attention=none"],
            "There is no file of weights 'net'",
        ),
    ],
)
def test_a_wrong_name_gets_the_closest(arguments, message, tmp_path, capsys):
    command = ["convert-in-order", "net", "--to", str(tmp_path / "net.keras"), *arguments]
    assert main(command) == 1
    assert message in capsys.readouterr().err
