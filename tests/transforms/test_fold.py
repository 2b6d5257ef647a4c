"""`keras_preact.transforms.fold`: less work, the same function."""

from __future__ import annotations

from collections import Counter

import keras
import numpy as np
import pytest

import keras_preact
from keras_preact.transforms import feature_pyramid, fold, replace_head, with_dtype
from tests import nets
from tests.nets import SMALL, TINY, X
from tests.numerics import LAYER, NET, WIDE_NET, net_tolerance

REMOVED = (
    "BatchNormalization",
    "Dropout",
    "DropPath",
    "StackedUnits",
    "StandardizedConv2D",
    "ScaledStandardizedConv2D",
    "Rematerialized",
)


def randomized(model: keras.Model) -> keras.Model:
    """Return the model with statistics that a norm does not start with, some scales below zero."""
    rng = np.random.default_rng(3)
    for variable in model.weights:
        low, high = {
            "gamma": (-1.5, 1.5),
            "beta": (-0.5, 0.5),
            "moving_mean": (-0.5, 0.5),
            "moving_variance": (0.3, 2.0),
            "bias": (-0.2, 0.2),
            "gain": (0.5, 1.5),
        }.get(variable.name, (None, None))
        if low is not None:
            variable.assign(rng.uniform(low, high, variable.shape))
    return model


def net(dtype=None, data_format=None, nested=False, **changes) -> keras.Model:
    shape = (3, 16, 16) if data_format == "channels_first" else (16, 16, 3)
    model = nets.net(
        {"channels": (8, 16), "stem_channels": 8, **changes},
        randomize=False,
        input_shape=shape,
        classes=4,
        classifier_activation=None,
        dtype=dtype,
        data_format=data_format,
        nested=nested,
    )
    return randomized(model)


def kinds(model: keras.Model) -> Counter:
    """How many layers of each class a model has, nested ones too."""
    return Counter(
        type(layer).__name__ for layer in model._flatten_layers(include_self=False, recursive=True)
    )


def assert_equal(folded, model, x=X, atol=WIDE_NET):
    expected = np.asarray(keras.ops.cast(model(x, training=False), "float32"))
    assert np.ptp(expected, axis=0).max() > 0.003  # outputs that tell images apart
    received = np.asarray(keras.ops.cast(folded(x, training=False), "float32"))
    np.testing.assert_allclose(received, expected, atol=atol, rtol=atol)


@pytest.mark.parametrize(
    "changes",
    [
        {"unit": "basic", "dropout": 0.2, "drop_path": 0.3},
        {"use_bias": True, "activation": "swish"},
        {"scan_units": True, "drop_path": 0.3},
        {"rematerialize": True},
        {"stem": "imagenet", "padding": "same"},
        {"weight_standardization": True},
        {"weight_standardization": "scaled", "use_bias": True, "scan_units": True},
        {"weight_standardization": "scaled", "norm": "none"},
        {"stem": "deep", "downsample": "avg_pool", "norm": "group", "norm_groups": 2},
        {
            "strides": (2, 1),
            "stride_unit": "last",
            "downsample": "subsample",
            "use_bias": "unnormalized",
        },
    ],
    ids=str,
)
def test_outputs_are_the_nets(changes):
    model = net(**changes)
    folded = fold(model)
    assert_equal(folded, model)
    assert not set(REMOVED) & set(kinds(folded))


# The shortcut of an identity unit takes the stem's output beside the norm. A projection takes the
# norm's, which is then the only one that follows the stem.
@pytest.mark.parametrize(("stem_channels", "after_stem"), [(8, 0), (4, 1)])
@pytest.mark.parametrize(("unit", "norms"), [("basic", 2), ("bottleneck", 3)])
def test_only_norms_within_a_stage_stay(unit, norms, stem_channels, after_stem):
    model = net(unit=unit, stem_channels=stem_channels, dropout=0.1, drop_path=0.1)
    folded = fold(model)
    units = sum(SMALL.units)
    before, after = kinds(model), kinds(folded)
    assert before["BatchNormalization"] == units * norms + 1
    assert before["Dropout"] == before["DropPath"] == units
    assert after == {
        **{kind: count for kind, count in before.items() if kind not in REMOVED},
        "ScaleShift": units - 1 - after_stem,
    }
    assert_equal(folded, model)


def nodes(model: keras.Model) -> Counter:
    """How many operations of each kind TensorFlow runs, weights not counted."""
    tf = pytest.importorskip("tensorflow")
    graph = tf.function(lambda x: model(x, training=False)).get_concrete_function(X).graph
    return Counter(each.type for each in graph.get_operations())


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="counts TensorFlow's nodes")
def test_the_graph_has_a_bias_in_place_of_each_folded_norm():
    before, after = nodes(net()), nodes(fold(net()))
    assert before["FusedBatchNormV3"] == 16
    # Scales and shifts of the five units' first norms, but for the one after a stage.
    assert after["FusedBatchNormV3"] == 4
    assert after["Mul"] == 0
    assert after["Conv2D"] == before["Conv2D"]
    assert after["BiasAdd"] - before["BiasAdd"] == 15  # ten norms inside the units, five sums


def sum_of(model: keras.Model, unit: str) -> np.ndarray:
    """Return the output of a unit."""
    return keras.ops.convert_to_numpy(
        keras.Model(model.input, model.get_layer(f"{unit}_add").output)(X)
    )


def test_sums_are_centered():
    """Check that the input of a norm after a fold has the mean of before less the moving mean."""
    model = net()
    # A scale of zero, by which the stream cannot be divided again, is left in its norm.
    for name in ("stage3_unit1_norm1", "head_norm"):
        gamma = model.get_layer(name).gamma
        gamma.assign(gamma * (np.arange(gamma.shape[0]) > 0))
    folded = fold(model)
    assert_equal(folded, model)
    for unit, norm in [
        ("stage2_unit1", "stage2_unit2_norm1"),
        ("stage2_unit2", "stage3_unit1_norm1"),
        ("stage3_unit3", "head_norm"),
    ]:
        norm = model.get_layer(norm)
        np.testing.assert_array_equal(folded.get_layer(norm.name).shift, norm.beta)
        expected = sum_of(model, unit) - norm.moving_mean
        np.testing.assert_allclose(sum_of(folded, unit), expected, atol=NET)


def test_a_stage_is_in_the_units_of_the_norm_after_it():
    model = net()
    folded = fold(model)
    left = {layer.name for layer in folded.layers}
    for inside, last, after in [
        ("stage2_unit1", "stage2_unit2", "stage3_unit1_norm1"),
        ("stage3_unit2", "stage3_unit3", "head_norm"),
    ]:
        assert after not in left
        norm = model.get_layer(after)
        expected = norm(sum_of(model, last))
        np.testing.assert_allclose(sum_of(folded, last), expected, atol=NET)
        scale = norm.gamma / np.sqrt(norm.moving_variance + norm.epsilon)
        mean = model.get_layer(f"{last}_norm1").moving_mean
        expected = (sum_of(model, inside) - mean) * scale
        np.testing.assert_allclose(sum_of(folded, inside), expected, atol=NET)


def test_a_sum_that_is_an_output_is_not_centered():
    net_ = net()
    added = net_.get_layer("stage2_unit2_add").output
    model = keras.Model(net_.input, [added, net_.output])
    for received, expected in zip(fold(model)(X), model(X), strict=True):
        np.testing.assert_allclose(received, expected, atol=WIDE_NET)


def test_a_broadcast_sum_is_left_to_its_norm():
    inputs = keras.Input((16, 16, 3))
    maps = keras.layers.Conv2D(4, 3, padding="same", name="maps")(inputs)
    one = keras.layers.Conv2D(1, 1, name="one")(inputs)
    outputs = keras.layers.BatchNormalization()(keras.layers.Add()([maps, one]))
    model = randomized(keras.Model(inputs, outputs))
    folded = fold(model)
    np.testing.assert_allclose(folded(X), model(X), atol=WIDE_NET)
    assert kinds(folded)["ScaleShift"] == 1


def test_norms_that_follow_depthwise_convolutions():
    """A net not ours, in which every other norm does."""
    model = randomized(
        keras.applications.MobileNet(
            weights=None,
            alpha=0.25,
            input_shape=(32, 32, 3),
            classes=5,
            classifier_activation=None,
        )
    )
    folded = fold(model)
    x = np.random.default_rng(1).standard_normal((1, 32, 32, 3)).astype("float32")
    np.testing.assert_allclose(folded(x), model(x), atol=WIDE_NET)
    assert not kinds(folded)["ScaleShift"]
    assert not kinds(folded)["BatchNormalization"]


def test_units_that_are_nested_models():
    model = net(nested=True)
    folded = fold(model)
    assert isinstance(folded.get_layer("stage3_unit3"), keras.Model)
    assert not set(REMOVED) & set(kinds(folded))
    assert_equal(folded, model)


def test_a_net_may_end_in_a_unit_that_is_a_nested_model():
    """Nothing follows the last unit of this order, and folding leaves it a model."""
    changes = {"units": (1, 2), "order": "original", "rematerialize": True}
    options = {"architecture": TINY, "include_top": False, "dtype": "mixed_bfloat16"}
    body = fold(nets.net(changes, **options))
    assert isinstance(body.get_layer("stage3_unit2"), keras.Model)
    expected = body(X)
    features = keras_preact.feature_extractor(body)
    np.testing.assert_array_equal(features(X)["stage3"], expected)
    np.testing.assert_array_equal(keras_preact.as_image_encoder(body)(X), expected)
    assert [*feature_pyramid(body, channels=4).output] == ["P2", "P3"]
    classifier = replace_head(body, 3)
    assert classifier.output_shape == (None, 3)
    assert classifier.get_layer("head_pool").dtype_policy.name == "mixed_bfloat16"


def test_channels_first():
    model = net(data_format="channels_first")
    folded = fold(model)
    assert_equal(folded, model, X.transpose(0, 3, 1, 2))
    assert not kinds(folded)["BatchNormalization"]


@pytest.mark.numerical
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_dtype_policies(dtype):
    model = net(dtype=dtype if dtype == "float64" else f"mixed_{dtype}")
    folded = fold(model)
    norms = [each.get_layer("stage2_unit2_norm1") for each in (folded, model)]
    assert norms[0].compute_dtype == norms[1].compute_dtype
    assert norms[0].variable_dtype == norms[1].variable_dtype
    # The truth is the net in float32, whose weights are the same, or the net in float64 itself.
    exact, atol = (model, 1e-10) if dtype == "float64" else (net(), net_tolerance(dtype))
    assert_equal(folded, exact, X, atol)


def test_folding_a_file_and_filing_a_fold(tmp_path):
    model = net(scan_units=True)
    model.save(tmp_path / "net.keras")
    folded = fold(keras.saving.load_model(tmp_path / "net.keras"))
    assert_equal(folded, model)
    folded.save(tmp_path / "folded.keras")
    again = keras.saving.load_model(tmp_path / "folded.keras")
    np.testing.assert_array_equal(again(X), folded(X))
    assert kinds(again) == kinds(folded)
    assert kinds(fold(again)) == kinds(folded)


def test_the_original_is_left_alone():
    model = net()
    before = [np.asarray(weight) for weight in model.weights]
    folded = fold(model)
    for weight in folded.weights:
        weight.assign(weight + 1)
    for one, other in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(one, other)


def test_features_come_along():
    model = net(scan_units=True)
    expected = keras_preact.feature_extractor(model)(X)
    for features in (
        fold(keras_preact.feature_extractor(model)),
        keras_preact.feature_extractor(fold(model)),
    ):
        assert features.strides == {"stage2": 1, "stage3": 2}
        received = features(X)
        for name in expected:
            np.testing.assert_allclose(received[name], expected[name], atol=WIDE_NET)


def test_a_convolution_that_is_an_output_keeps_it():
    net_ = net()
    convolution = net_.get_layer("stage2_unit1_conv1")
    model = keras.Model(net_.input, [convolution.output, net_.output])
    folded = fold(model)
    for received, expected in zip(folded(X), model(X), strict=True):
        np.testing.assert_allclose(received, expected, atol=WIDE_NET)
    assert type(folded.get_layer("stage2_unit1_norm2")).__name__ == "ScaleShift"


def _norm_model(conv_options: dict, norm: keras.layers.Layer, **call) -> keras.Model:
    inputs = keras.Input((16, 16, 3))
    x = keras.layers.Conv2D(5, 3, name="conv", **conv_options)(inputs)
    return randomized(keras.Model(inputs, norm(x, **call)))


@pytest.mark.parametrize(
    ("conv_options", "norm_options", "folds"),
    [
        ({"strides": 2}, {"scale": False}, True),
        ({"use_bias": False}, {"center": False, "axis": 3}, True),
        ({"dilation_rate": 2}, {"scale": False, "center": False}, True),
        ({"activation": "relu"}, {}, False),
        ({}, {"axis": 1}, False),
    ],
    ids=str,
)
def test_every_option_of_convolution_and_norm(conv_options, norm_options, folds):
    model = _norm_model(conv_options, keras.layers.BatchNormalization(**norm_options))
    folded = fold(model)
    np.testing.assert_allclose(folded(X), model(X), atol=WIDE_NET)
    assert len(folded.layers) == (2 if folds else 3)
    assert not kinds(folded)["BatchNormalization"]


def test_other_norms_stay():
    model = _norm_model({}, keras.layers.GroupNormalization(5))
    assert kinds(fold(model)) == kinds(model)
    np.testing.assert_allclose(fold(model)(X), model(X), atol=LAYER)


def test_what_always_trains_stays():
    model = _norm_model({}, keras.layers.BatchNormalization(), training=True)
    assert kinds(fold(model)) == kinds(model)
    np.testing.assert_allclose(fold(model)(X), model(X), atol=LAYER)


def test_shared_layers():
    """A convolution and a norm called on two inputs each: another norm, then, is another layer."""
    convolution, norm = keras.layers.Conv2D(4, 3), keras.layers.BatchNormalization()
    one, two = keras.Input((8, 8, 3)), keras.Input((8, 8, 3))
    outputs = keras.layers.Add()([norm(convolution(one)), norm(convolution(two))])
    model = randomized(keras.Model([one, two], outputs))
    folded = fold(model)
    x = [X[:, :8, :8], X[:, 8:, 8:]]
    np.testing.assert_allclose(folded(x), model(x), atol=WIDE_NET)
    assert kinds(folded)["ScaleShift"] == 1


def test_not_a_functional_model():
    with pytest.raises(ValueError, match="must be a functional Keras model. Received: 'net'"):
        fold("net")


@pytest.mark.numerical
@pytest.mark.parametrize("nested", [False, True])
def test_another_precision_is_that_of_a_net_built_with_it(nested):
    model = net(nested=nested)
    half = with_dtype(model, "mixed_bfloat16")
    built = net(dtype="mixed_bfloat16")
    for layer in built.layers[1:]:
        if not nested or layer.name in {each.name for each in half.layers}:
            assert half.get_layer(layer.name).dtype_policy == layer.dtype_policy
    assert_equal(half, model, atol=net_tolerance("bfloat16"))
    assert half.output.dtype == "float32"
    assert_equal(with_dtype(half, "float32"), model, atol=NET)


def test_another_precision_of_stacked_units():
    model = net(scan_units=True, drop_path=0.1)
    half = with_dtype(model, "mixed_bfloat16")
    built = net("mixed_bfloat16", scan_units=True, drop_path=0.1)
    for name in ("stage3_unit2to3", "stage3_unit1_conv1"):
        assert half.get_layer(name).get_config() == built.get_layer(name).get_config()
    assert_equal(half, model, atol=net_tolerance("bfloat16"))


def test_another_precision_of_a_quantized_classifier():
    model = nets.net(architecture=TINY)
    model.get_layer("predictions").quantize("int8")
    half = with_dtype(model, "bfloat16")
    assert half.get_layer("predictions").dtype_policy.name == "int8_from_bfloat16"
    assert_equal(half, model, atol=net_tolerance("bfloat16"))


def test_another_precision_of_quantized_layers_within_a_layer():
    """Its configuration does not tell of them."""
    inputs = keras.Input((4, 8))
    model = keras.Model(inputs, keras.layers.MultiHeadAttention(2, 4, name="mha")(inputs, inputs))
    model.quantize("int8", filters="query")
    half = with_dtype(model, "bfloat16")
    assert half.get_layer("mha").query_dense.dtype_policy.name == "int8_from_bfloat16"
    x = np.random.default_rng(0).normal(size=(2, 4, 8))
    assert_equal(half, model, x, atol=net_tolerance("bfloat16"))


def test_no_such_precision():
    with pytest.raises(ValueError, match="int7"):
        with_dtype(net(), "int7")
