"""New heads and frozen stages, in every form a net's units can have."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import keras_preact
from keras_preact import Architecture
from keras_preact.blocks.norms import NORMS
from keras_preact.layers import StackedUnits
from keras_preact.transforms import freeze, replace_head, stack, unroll, with_dtype
from keras_preact.weights import named_weights
from tests.nets import nested_net

TINY = Architecture(
    unit="basic",
    units=(3, 1),
    channels=(8, 16),
    strides=(1, 2),
    stem="cifar",
    stem_channels=8,
    drop_path=0.2,
    dropout=0.1,
)
FORMS = {
    "flat": {},
    "nested": {},
    "rematerialised": {"rematerialize": True},
    "scanned": {"scan_units": True},
    "scanned, rematerialised": {"scan_units": True, "rematerialize": True},
}
RNG = np.random.default_rng(0)
X = RNG.standard_normal((8, 16, 16, 3)).astype("float32")
Y = RNG.integers(0, 3, 8)


def net(form: str = "flat", **arguments) -> keras.Model:
    """Build a net with its units in one of the forms."""
    keras.utils.set_random_seed(1)
    build = nested_net if form == "nested" else keras_preact.PreActResNet
    arguments = {"classes": 4, "input_shape": (16, 16, 3), **arguments}
    return build(TINY.replace(**FORMS[form]), **arguments)


@pytest.fixture(scope="module")
def flat() -> keras.Model:
    """Return a net for tests that change nothing."""
    return keras_preact.PreActResNet(TINY, classes=4, input_shape=(16, 16, 3))


def _compile(model: keras.Model) -> None:
    optimizer, loss = keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy"
    # A step or two pay for no graph.
    model.compile(optimizer, loss, run_eagerly=True)


def _train(model: keras.Model) -> None:
    model.train_on_batch(X, Y)


def _changed(before: dict, after: dict) -> dict[str, list[str]]:
    """By layer, the arrays that differ."""
    return {
        name: [key for key in arrays if not np.array_equal(arrays[key], after[name][key])]
        for name, arrays in before.items()
    }


def _check_frozen(before: dict, after: dict) -> None:
    """Everything up to stage 2 is as it was, everything after it has changed."""
    for name, keys in _changed(before, after).items():
        frozen = name.startswith(("stem", "stage2"))
        assert len(keys) == (0 if frozen else len(before[name])), (name, keys)


@pytest.mark.parametrize("form", FORMS)
def test_frozen_stages_stay_as_they_are(form):
    model = replace_head(net(form), 3)
    freeze(model, 2)
    _compile(model)
    before = named_weights(model)
    _train(model)
    _check_frozen(before, named_weights(model))


@pytest.mark.parametrize("form", ["nested", "scanned"])
def test_a_saved_model_stays_frozen_until_it_is_not(form, tmp_path):
    model = replace_head(net(form), 3)
    every = len(model.trainable_variables)
    freeze(model, 2)
    _compile(model)
    model.save(tmp_path / "net.keras")
    loaded = keras.saving.load_model(tmp_path / "net.keras")
    np.testing.assert_array_equal(loaded(X), model(X))
    assert len(loaded.trainable_variables) == len(model.trainable_variables) < every
    before = named_weights(loaded)
    _train(loaded)
    _check_frozen(before, named_weights(loaded))
    assert freeze(loaded, 0) == 0
    assert len(loaded.trainable_variables) == every
    before = named_weights(loaded)
    loaded(X, training=True)
    for name, keys in _changed(before, named_weights(loaded)).items():
        assert len(keys) == (2 if "norm" in name else 0), (name, keys)


@pytest.mark.parametrize("form", ["nested", "scanned"])
def test_the_number_of_frozen_parameters(form):
    model = net(form)
    total = sum(int(np.prod(each.shape)) for each in model.trainable_variables)
    kernel, bias = model.get_layer("predictions").weights
    assert freeze(model, 1) == 3 * 3 * 3 * 8
    assert freeze(model, 3) == total - 16 * 4 - 4
    assert [id(each) for each in model.trainable_variables] == [id(kernel), id(bias)]
    model.trainable = False
    assert freeze(model, 0) == 0
    assert freeze(model, 3) == total - 16 * 4 - 4


@pytest.mark.parametrize("form", ["rematerialised", "scanned"])
def test_dropout_goes_on_in_frozen_units(form):
    model = net(form)
    freeze(model, 2)
    units = model.get_layer("stage2_unit2" if form == "rematerialised" else "stage2_unit2to3")
    x = RNG.standard_normal((8, 16, 16, 8)).astype("float32")
    once, again = (np.asarray(units(x, training=True)) for _ in range(2))
    assert np.abs(once - again).max() > 1e-3


@pytest.mark.parametrize("form", ["flat", "nested", "rematerialised"])
def test_frozen_units_stay_so_through_stacking(form):
    model = net(form)
    freeze(model, 2)
    stacked = stack(model)
    separate = unroll(stacked)
    assert not stacked.get_layer("stage2_unit2to3").trainable
    frozen = {layer.name for layer in model._flatten_layers() if not layer.trainable}
    units = {layer.name for layer in separate._flatten_layers() if not layer.trainable}
    assert all(name in units for name in frozen if name.endswith(("_conv1", "_norm2")))
    count = len(model.trainable_variables)
    assert [len(each.trainable_variables) for each in (stacked, separate)] == [count, count]


def test_units_that_are_not_frozen_alike_are_not_stacked():
    model = net()
    model.get_layer("stage2_unit2_norm1").trainable = False
    with pytest.raises(ValueError, match="`stage2_unit2` to `stage2_unit3` are not frozen alike"):
        stack(model)


def _norms(model: keras.Model) -> list[keras.layers.Layer]:
    kind = keras.layers.BatchNormalization
    return [each for _, each in keras_preact.named_layers(model) if isinstance(each, kind)]


@pytest.mark.parametrize("form", FORMS)
def test_frozen_norms_stay_as_they_are_and_everything_else_trains(form, tmp_path):
    model = replace_head(net(form), 3)
    every = len(model.trainable_variables)
    norms = sum(int(np.prod(each.shape)) for norm in _norms(model) for each in norm.weights)
    # Statistics are no parameters.
    assert freeze(model, 0, norms=True) == norms / 2
    model.save(tmp_path / "net.keras")
    loaded = keras.saving.load_model(tmp_path / "net.keras")
    assert len(loaded.trainable_variables) == len(model.trainable_variables) < every
    _compile(loaded)
    before = named_weights(loaded)
    _train(loaded)
    for name, keys in _changed(before, named_weights(loaded)).items():
        assert len(keys) == (0 if "norm" in name else len(before[name])), (name, keys)
    assert freeze(loaded, 0) == 0 and len(loaded.trainable_variables) == every


@pytest.mark.parametrize("form", ["flat", "scanned"])
def test_frozen_norms_stay_so_through_stacking(form):
    model = net(form)
    freeze(model, 1, norms=True)
    stacked = model if form == "scanned" else stack(model)
    separate = unroll(stacked)
    assert not stacked.get_layer("stage2_unit2to3").unit_layers()["norm1"].trainable
    assert not separate.get_layer("stage2_unit3_norm2").trainable
    assert separate.get_layer("stage2_unit3_conv2").trainable
    assert _parameters(stacked) == _parameters(separate)


def test_kernels_under_lora_stay_frozen():
    model = net("nested")
    for _, layer in keras_preact.named_layers(model):
        if isinstance(layer, keras.layers.Conv2D | keras.layers.Dense):
            layer.enable_lora(2)
    every = {each.path for each in model.trainable_variables}
    freeze(model, 2)
    assert freeze(model, 0) == 0
    assert {each.path for each in model.trainable_variables} == every
    freeze(model, 0, norms=True)
    names = {each.name for each in model.trainable_variables}
    assert names == {"lora_kernel_a", "lora_kernel_b", "bias"}


def test_the_lora_matrices_of_a_copy_train():
    model = net("nested")
    for _, layer in keras_preact.named_layers(model):
        if isinstance(layer, keras.layers.Conv2D | keras.layers.Dense):
            layer.enable_lora(2)
    copy = with_dtype(model, "float32")
    np.testing.assert_allclose(copy(X), model(X), atol=1e-5)
    matrices = [each for each in copy.weights if each.name.startswith("lora_")]
    before = [np.array(each) for each in matrices]
    _compile(copy)
    # Every second matrix begins at 0, and the first ones train from the second step on.
    for _ in range(2):
        copy.train_on_batch(X, Y)
    still = [
        each.path for each, old in zip(matrices, before, strict=True) if np.array_equal(each, old)
    ]
    assert len(matrices) > 10 and still == []


def test_norms_of_every_kind_are_frozen():
    for kind, norm in NORMS.items():
        activation = "linear" if norm.activates else "relu"
        changes = {"norm": kind, "norm_groups": 4, "units": (1, 1), "activation": activation}
        model = keras_preact.PreActResNet(
            TINY.replace(**changes), classes=4, input_shape=(16, 16, 3)
        )
        assert (freeze(model, 0, norms=True) > 0) == (norm.layer is not None), kind


def test_what_is_done_layer_by_layer_reaches_every_unit_of_a_stack():
    flat, stacked = net("flat"), net("scanned")
    for model in (flat, stacked):
        for _, layer in keras_preact.named_layers(model):
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.trainable = False
    assert _parameters(flat) == _parameters(stacked)
    layers = dict(keras_preact.named_layers(stacked))
    (kernel,) = layers["stage2_unit2to3_conv1"].get_weights()
    expected = [named_weights(stacked)[f"stage2_unit{i}_conv1"]["0"] for i in (2, 3)]
    np.testing.assert_array_equal(kernel, expected)
    # An option of a layer is that of all units.
    units = layers["stage2_unit2to3"]
    units.unit_layers()["dropout"].rate = 0.0
    units = StackedUnits.from_config(units.get_config())
    assert units.unit_layers()["dropout"].rate == 0


def _parameters(model: keras.Model) -> int:
    return sum(int(np.prod(each.shape)) for each in model.trainable_variables)


def test_regularizers_reach_stacked_kernels():
    def regularized(layer: keras.layers.Layer) -> keras.layers.Layer:
        config = layer.get_config()
        if "kernel_regularizer" in config:
            config["kernel_regularizer"] = keras.regularizers.L2(0.1)
        return type(layer).from_config(config)

    flat = keras.models.clone_model(net("flat"), clone_function=regularized)
    stacked = stack(flat)
    losses = [
        sum(float(each) for each in model.losses) for model in (flat, stacked, unroll(stacked))
    ]
    np.testing.assert_allclose(losses, losses[0], rtol=1e-5)


@pytest.mark.parametrize("form", ["rematerialised", "scanned"])
def test_new_classes_on_the_same_body(form):
    model = net(form)
    scores = np.asarray(model(X))
    other = replace_head(model, 7)
    assert other(X).shape == (8, 7)
    assert other.name == model.name
    assert [layer.name for layer in other.layers] == [layer.name for layer in model.layers]
    assert all(one is two for one, two in zip(other.layers[:-1], model.layers, strict=False))
    assert other.get_layer("predictions") is not model.get_layer("predictions")
    np.testing.assert_array_equal(model(X), scores)
    np.testing.assert_allclose(np.sum(other(X), axis=-1), 1, atol=1e-5)


@pytest.mark.parametrize("pooling", [None, "avg", "max"])
def test_a_net_without_its_top_gets_one(pooling):
    model = net(include_top=False, pooling=pooling, input_shape=(None, None, 3))
    logits = replace_head(model, 7, classifier_activation=None)
    maps = keras_preact.feature_extractor(model, stages=(3,))(X)["stage3"]
    pooled = np.max(maps, axis=(1, 2)) if pooling == "max" else np.mean(maps, axis=(1, 2))
    kernel, bias = logits.get_layer("predictions").get_weights()
    np.testing.assert_allclose(logits(X), pooled @ kernel + bias, atol=1e-5)
    for none in (None, 0):
        np.testing.assert_allclose(replace_head(logits, none)(X), pooled, atol=1e-6)
        np.testing.assert_allclose(replace_head(model, none)(X), pooled, atol=1e-6)


def test_channels_first_and_mixed_precision():
    model = net(
        include_top=False,
        input_shape=(3, 16, 16),
        data_format="channels_first",
        dtype="mixed_bfloat16",
    )
    other = replace_head(model, 7)
    assert other.output.dtype == "float32"
    assert other.get_layer("head_pool").compute_dtype == "bfloat16"
    assert other(X.transpose(0, 3, 1, 2)).shape == (8, 7)


def test_the_new_layer_starts_as_in_a_new_net(flat):
    old, new = flat, replace_head(flat, 4)
    configs = [model.get_layer("predictions").get_config() for model in (old, new)]
    assert configs[0] == configs[1]
    np.testing.assert_array_equal(new.get_layer("predictions").bias, np.zeros(4))


@pytest.mark.parametrize("classes", [-1, 2.0, "2", True])
def test_wrong_classes(flat, classes):
    with pytest.raises(ValueError, match=f"`classes` must be .* Received: {classes!r}"):
        replace_head(flat, classes)


@pytest.mark.parametrize("stage", [-1, 4, "3", 2.0, True, None])
def test_wrong_stages(flat, stage):
    with pytest.raises(ValueError, match=rf"has \(1, 2, 3\). Received: {stage!r}"):
        freeze(flat, stage)


@pytest.mark.parametrize("surgery", [lambda m: replace_head(m, 2), lambda m: freeze(m, 1)])
def test_a_model_of_someone_else(surgery):
    other = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)], name="other")
    for wrong in (other, "net"):
        with pytest.raises(ValueError, match="must be a net of keras_preact"):
            surgery(wrong)


def test_a_net_that_does_not_end_in_its_head(flat):
    longer = keras.Model(flat.input, keras.layers.Dense(2, name="mine")(flat.output))
    for wrong in (longer, keras_preact.feature_extractor(flat)):
        with pytest.raises(ValueError, match="must end in one of the layers"):
            replace_head(wrong, 2)
