"""Convolution and pooling padded alike on every side, against PyTorch's."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
import torch

from keras_preact.layers import AveragePooling2D, Conv2D, MaxPooling2D, StandardizedConv2D
from tests.numerics import WINOGRAD_AMPLIFICATION, error, float64, in_float64, tolerance


def _x(*shape: int) -> np.ndarray:
    # All below zero: a pooling that pads with zeros would return them.
    return (np.random.default_rng(0).standard_normal(shape) - 5).astype("float32")


def _noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype("float32")


def _in_torch(values, axes) -> torch.Tensor:
    return torch.tensor(float64(values).transpose(axes))


def _both_formats(layer_type, x, **options):
    """Return a layer's outputs with channels last and first, both in the order of the former."""
    last = layer_type(data_format="channels_last", **options)
    first = layer_type(data_format="channels_first", **options)
    first.build((None, x.shape[3], None, None))
    last.build((None, None, None, x.shape[3]))
    first.set_weights(last.get_weights())
    outputs = np.asarray(last(x)), np.asarray(first(x.transpose(0, 3, 1, 2)))
    return last, outputs[0], outputs[1].transpose(0, 2, 3, 1)


@pytest.mark.numerical
@pytest.mark.parametrize("size", [(12, 15), (7, 8), (1, 1)])
@pytest.mark.parametrize(
    ("kernel_size", "strides", "dilation_rate"),
    [(1, 1, 1), (1, 2, 1), (3, 1, 1), (3, 2, 1), (7, 2, 1), ((3, 5), (2, 1), 1), (3, 1, 2)],
)
def test_convolution_equals_pytorch(size, kernel_size, strides, dilation_rate):
    x = _x(2, *size, 4)
    layer, last, first = _both_formats(
        Conv2D,
        x,
        filters=6,
        kernel_size=kernel_size,
        strides=strides,
        dilation_rate=dilation_rate,
    )
    expected = torch.nn.functional.conv2d(
        _in_torch(x, (0, 3, 1, 2)),
        _in_torch(layer.kernel, (3, 2, 0, 1)),
        stride=layer.strides,
        padding=[d * (k // 2) for k, d in zip(layer.kernel_size, layer.dilation_rate, strict=True)],
        dilation=layer.dilation_rate,
    )
    expected = expected.numpy().transpose(0, 2, 3, 1)
    allowed = tolerance(summed=np.prod(layer.kernel.shape[:3]))
    assert max(error(last, expected), error(first, expected)) <= allowed
    assert layer.compute_output_shape(x.shape) == last.shape


def test_grouped_convolution_equals_pytorch():
    x = _x(2, 9, 10, 4)
    layer = Conv2D(8, 3, strides=2, groups=2)
    outputs = layer(x)
    expected = torch.nn.functional.conv2d(
        _in_torch(x, (0, 3, 1, 2)),
        _in_torch(layer.kernel, (3, 2, 0, 1)),
        stride=2,
        padding=1,
        groups=2,
    )
    assert error(outputs, expected.numpy().transpose(0, 2, 3, 1)) <= tolerance(summed=9 * 2)


@pytest.mark.parametrize("size", [(12, 15), (7, 8), (1, 1)])
def test_pooling_equals_pytorch(size):
    x = _x(2, *size, 4)
    layer, last, first = _both_formats(MaxPooling2D, x, pool_size=3, strides=2)
    expected = torch.nn.functional.max_pool2d(torch.tensor(x.transpose(0, 3, 1, 2)), 3, 2, 1)
    expected = expected.numpy().transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(last, expected)
    np.testing.assert_array_equal(first, expected)
    assert layer.compute_output_shape(x.shape) == last.shape


@pytest.mark.parametrize("layer", [Conv2D(3, 3, strides=2), MaxPooling2D(3, 2)])
def test_xla(layer):
    x = tf.constant(_x(1, 8, 9, 2))
    received = tf.function(layer, jit_compile=True)(x)
    assert error(received, in_float64(layer, x.shape)(x)) <= tolerance(summed=9 * 2)


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("ours", [Conv2D, MaxPooling2D])
def test_keras_paddings_are_still_there(ours, padding):
    options = {"filters": 3, "kernel_size": 3} if ours is Conv2D else {"pool_size": 3}
    theirs = getattr(keras.layers, ours.__name__)(**options, strides=2, padding=padding)
    layer = ours(**options, strides=2, padding=padding)
    x = _x(1, 8, 8, 2)
    outputs = theirs(x)
    layer.build(x.shape)
    layer.set_weights(theirs.get_weights())
    assert error(layer(x), outputs) <= 2 * tolerance(summed=9 * 2)


@pytest.mark.parametrize("layer", [Conv2D(3, 3, strides=2), Conv2D(3, 3), MaxPooling2D(3, 2)])
def test_config_round_trip(layer):
    copy = keras.layers.deserialize(keras.layers.serialize(layer))
    assert type(copy) is type(layer)
    assert copy.get_config() == layer.get_config()
    assert copy.pads == layer.pads


def test_even_kernels_have_no_half():
    with pytest.raises(ValueError, match=r"`kernel_size` must be odd.*\(2, 2\)"):
        Conv2D(3, 2)
    with pytest.raises(ValueError, match=r"`pool_size` must be odd.*\(2, 2\)"):
        MaxPooling2D(2)


def _gradients(layer, x, training):
    @tf.function
    def step(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=training)
        return y, *tape.gradient(y, [x, *(each.value for each in layer.trainable_variables)], y)

    kinds = {each.type for each in step.get_concrete_function(x).graph.get_operations()}
    return step(x), kinds


def _truth(layer, x, outputs):
    """Return the result of `_gradients`, in float64 from the same rounded numbers."""
    twin = in_float64(layer, x.shape)
    x, outputs = (tf.constant(float64(each, layer.compute_dtype)) for each in (x, outputs))
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = twin(x)
    return y, *tape.gradient(y, [x, *(each.value for each in twin.trainable_variables)], outputs)


def _assert_true(layer, x, trained, theirs, own):
    """Hold what training gives against float64.

    Args:
        layer: A convolution.
        x: Its inputs.
        trained: What `_gradients` returned in training.
        theirs: Likewise of TensorFlow's own kernels, as in inference.
        own: Results of ours: "inputs", "kernel" or "bias", for the gradients. They are summed in
            float32. TensorFlow's kernels may sum in 16 bits: the others may err as much as those.
    """
    names = ("outputs", "inputs", "kernel", "bias")
    # Of the longest sums: over the taps and channels, in or out, and over the pixels.
    *taps, channels, filters = layer.kernel.shape
    pixels = np.prod(trained[0].shape[:-1])
    summed = max(np.prod(taps) * max(channels, filters), pixels)
    # The result, and either the sum before the bias, or a standardized kernel on its way and back.
    roundings = 3 if isinstance(layer, StandardizedConv2D) else 2
    allowed = tolerance(layer.compute_dtype, roundings=roundings, summed=summed)
    found = {
        name: (error(one, truth), error(other, truth))
        for name, one, other, truth in zip(
            names, trained, theirs, _truth(layer, x, trained[0]), strict=False
        )
    }
    message = "\n".join(
        f"{name}: ours {ours:.2e}, TensorFlow's {peer:.2e} from float64"
        for name, (ours, peer) in found.items()
    )
    print(f"{message}\nallowed: {allowed:.2e}")
    for name, (ours, peer) in found.items():
        assert ours <= (allowed if name in own else max(allowed, 1.5 * peer)), f"{name}\n{message}"


# The parts of a training step of a 1x1 convolution.
PRODUCTS = {"MatMul"}
CONVOLUTION = {"Conv2D", "Conv2DBackpropInput", "MatMul"}


@pytest.mark.numerical
@pytest.mark.parametrize(
    ("filters", "dtype", "operations"),
    [
        pytest.param(8, "float32", PRODUCTS, id="few_weights"),
        pytest.param(4096, "float32", CONVOLUTION, id="many_weights"),
        pytest.param(8, "mixed_bfloat16", CONVOLUTION, id="bfloat16"),
    ],
)
def test_1x1_convolutions_train_with_products(filters, dtype, operations):
    x = tf.constant(_noise(2, 5, 3, 16))
    layer = Conv2D(filters, 1, activation="relu", bias_initializer="ones", dtype=dtype)
    layer(x)
    trained, kinds = _gradients(layer, x, training=True)
    theirs, kinds_of_inference = _gradients(layer, x, training=False)
    assert kinds & (CONVOLUTION | {"Conv2DBackpropFilter"}) == operations
    assert "Conv2D" in kinds_of_inference
    _assert_true(layer, x, trained, theirs, own={"kernel", "bias"})


@pytest.mark.numerical
@pytest.mark.parametrize(
    ("kernel_size", "channels", "strides"), [(1, 16, 1), (3, 16, 2), (3, 128, 2)]
)
@pytest.mark.parametrize("jit_compile", [False, True])
def test_convolutions_differentiate_twice(jit_compile, kernel_size, channels, strides):
    """As the curvature of the loss needs it."""
    x = tf.constant(_noise(2, 5, 3, channels))
    layer = Conv2D(256, kernel_size, strides=strides)
    layer(x)
    direction = _noise(*layer.kernel.shape)

    def product(layer, x, training):
        kernel = layer.kernel.value
        with tf.GradientTape() as outer:
            with tf.GradientTape() as inner:
                loss = tf.reduce_sum(tf.tanh(layer(x, training=training)) ** 2)
            along = tf.reduce_sum(inner.gradient(loss, kernel) * tf.cast(direction, x.dtype))
        return outer.gradient(along, kernel)

    received = tf.function(product, jit_compile=jit_compile)(layer, x, training=True)
    truth = product(in_float64(layer, x.shape), tf.cast(x, "float64"), training=False)
    # The convolution, its gradient, and the gradients of both; a few functions of pixels between.
    summed = max(kernel_size**2 * channels, 256)
    assert error(received, truth) <= 4 * tolerance(roundings=4, summed=summed)


@pytest.mark.numerical
@pytest.mark.parametrize("channels", [8, 128])
@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_gradients_of_strided_convolutions_pad_outside_of_them(dtype, channels):
    """TensorFlow's gradients of a convolution that pads by itself are slow on a CPU."""
    x = tf.constant(_noise(2, 9, 12, channels))
    layer = Conv2D(144, 3, strides=2, dtype=dtype, kernel_initializer="he_normal", use_bias=False)
    layer(x)
    trained, kinds = _gradients(layer, x, training=True)
    theirs, _ = _gradients(layer, x, training=False)
    by_products = channels == 128
    assert ("Conv2DBackpropFilter" in kinds) == (not by_products)
    _assert_true(layer, x, trained, theirs, own={"kernel"} if by_products else set())


@pytest.mark.parametrize("channels", [8, 128])
def test_training_keeps_no_padded_copy(channels):
    """The padding is of the backward pass, and waits for the gradient of the outputs."""
    x = tf.constant(_x(2, 9, 12, channels))
    layer = Conv2D(128, 3, strides=2)
    layer(x)

    @tf.function
    def step(x, upstream):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
        return tape.gradient(y, [x, layer.kernel.value], upstream)

    upstream = tf.constant(_x(2, 5, 6, 128))
    operations = step.get_concrete_function(x, upstream).graph.get_operations()
    pads = [each for each in operations if each.type == "Pad"]
    assert [each.inputs[0].op.control_inputs[0].name for each in pads] == ["upstream"]


@pytest.mark.parametrize("channels", [8, 128])
def test_strided_convolutions_train_on_maps_of_an_unknown_size(channels):
    x = tf.constant(_x(2, 9, 12, channels))
    layer = Conv2D(128, 3, strides=2)
    layer(x)

    def gradients(x, training=True):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=training)
        return tape.gradient(y, [x, layer.kernel.value], y)

    step = tf.function(gradients, input_signature=[tf.TensorSpec((None, None, None, channels))])
    for one, other in zip(step(x), gradients(x, training=False), strict=True):
        assert error(one, other) <= 2 * tolerance(summed=9 * 128)


# Maps, filters and other settings of 3x3 convolutions.
TRAINED_BY_WINOGRAD = [((14, 14, 128), 192, {}), ((16, 15, 130), 128, {"use_bias": False})]
TRAINED_AS_THEY_ARE = [
    ((14, 14, 128), 64, {}),
    ((14, 14, 64), 128, {}),
    ((13, 13, 128), 128, {}),
    ((12, 12, 128), 128, {}),
    ((14, 14, 128), 128, {"dilation_rate": 2}),
    ((14, 14, 128), 128, {"strides": 2, "padding": "same"}),
    ((14, 14, 256), 256, {"groups": 2}),
    pytest.param((16, 16, 128), 128, {"dtype": "mixed_bfloat16"}, id="bfloat16_wide"),
    pytest.param((14, 14, 128), 64, {"dtype": "mixed_bfloat16"}, id="bfloat16_narrow"),
    ((14, 14, 128), 128, {"padding": "valid"}),
]
TRAINED_BY_PRODUCTS = [
    pytest.param((14, 14, 128), 144, {"dtype": "mixed_bfloat16"}, id="bfloat16"),
    pytest.param(
        (7, 5, 144), 128, {"dtype": "mixed_bfloat16", "use_bias": False}, id="bfloat16_no_bias"
    ),
    pytest.param((14, 14, 128), 144, {"strides": 2}, id="strided"),
    pytest.param(
        (7, 5, 144), 128, {"strides": 2, "dtype": "mixed_bfloat16"}, id="bfloat16_strided"
    ),
]


@pytest.mark.numerical
@pytest.mark.parametrize(("shape", "filters", "settings"), TRAINED_BY_WINOGRAD)
@pytest.mark.parametrize("layer_type", [Conv2D, StandardizedConv2D])
def test_wide_3x3_convolutions_train_by_winograd(layer_type, shape, filters, settings):
    x = tf.constant(_noise(2, *shape))
    layer = layer_type(filters, 3, bias_initializer="ones", **settings)
    layer(x)
    trained, kinds = _gradients(layer, x, training=True)
    _, kinds_of_inference = _gradients(layer, x, training=False)
    assert "BatchMatMulV2" in kinds and not any(kind.startswith("Conv2D") for kind in kinds)
    assert "Conv2D" in kinds_of_inference and "BatchMatMulV2" not in kinds_of_inference
    allowed = WINOGRAD_AMPLIFICATION * tolerance(summed=9 * shape[-1])
    for one, truth in zip(trained, _truth(layer, x, trained[0]), strict=True):
        assert error(one, truth) <= allowed


@pytest.mark.parametrize(("shape", "filters", "settings"), TRAINED_AS_THEY_ARE)
def test_other_3x3_convolutions_train_as_they_are(shape, filters, settings):
    x = tf.constant(_x(2, *shape))
    layer = Conv2D(filters, 3, **settings)
    layer(x)
    _, kinds = _gradients(layer, x, training=True)
    assert {"Conv2D", "Conv2DBackpropFilter"} <= kinds and "BatchMatMulV2" not in kinds


@pytest.mark.numerical
@pytest.mark.parametrize(("shape", "filters", "settings"), TRAINED_BY_PRODUCTS)
@pytest.mark.parametrize("layer_type", [Conv2D, StandardizedConv2D])
def test_kernels_of_wide_convolutions_take_products_for_gradients(
    layer_type, shape, filters, settings
):
    x = tf.constant(_noise(2, *shape))
    layer = layer_type(filters, 3, bias_initializer="ones", **settings)
    layer(x)
    trained, kinds = _gradients(layer, x, training=True)
    theirs, kinds_of_inference = _gradients(layer, x, training=False)
    assert "Conv2D" in kinds and "Conv2DBackpropFilter" not in kinds
    assert "Conv2DBackpropFilter" in kinds_of_inference
    _assert_true(layer, x, trained, theirs, own={"kernel", "bias"})


def test_maps_of_an_unknown_size_train_as_they_are():
    layer = Conv2D(128, 3)
    layer.build((None, None, None, 128))
    step = tf.function(
        lambda x: layer(x, training=True),
        input_signature=[tf.TensorSpec((None, None, None, 128))],
    )
    kinds = {each.type for each in step.get_concrete_function().graph.get_operations()}
    assert "Conv2D" in kinds and "BatchMatMulV2" not in kinds


@pytest.mark.parametrize(("kernel_size", "strides"), [(1, 1), (3, 1), (3, 2)])
def test_convolutions_train_where_activations_are_computed_again(kernel_size, strides):
    x = tf.constant(_x(16, 8, 8, 128))
    layer = Conv2D(144, kernel_size, strides=strides)
    layer(x)

    def gradients(forward):
        with tf.GradientTape() as tape:
            y = forward(x)
        return tape.gradient(y, [each.value for each in layer.trainable_variables], y)

    def forward(x):
        return layer(x, training=True)

    for one, other in zip(gradients(tf.recompute_grad(forward)), gradients(forward), strict=True):
        assert error(one, other) <= 2 * tolerance(summed=16 * 8 * 8)


@pytest.mark.parametrize("kernel_size", [1, 3])
def test_gradients_of_biases_are_products(kernel_size):
    x = tf.constant(_x(2, 8, 8, 16))
    layer = Conv2D(8, kernel_size, strides=2, bias_initializer="ones")
    layer(x)
    trained, kinds = _gradients(layer, x, training=True)
    theirs, kinds_of_inference = _gradients(layer, x, training=False)
    assert "BiasAddGrad" not in kinds and "BiasAddGrad" in kinds_of_inference
    _assert_true(layer, x, trained, theirs, own={"bias"})


def test_biases_go_to_the_channels_of_maps_as_wide_as_they_are_deep():
    x = np.random.default_rng(0).standard_normal((1, 8, 8, 4)).astype("float32")
    last = Conv2D(8, 1, bias_initializer="normal")
    first = Conv2D(8, 1, data_format="channels_first")
    outputs = last(x)
    first.build((1, 4, 8, 8))
    first.set_weights(last.get_weights())
    received = np.asarray(first(x.transpose(0, 3, 1, 2))).transpose(0, 2, 3, 1)
    assert error(received, outputs) <= 2 * tolerance(summed=4)


@pytest.mark.numerical
@pytest.mark.parametrize("strides", [1, 2])
def test_grouped_convolution_trains_inside_and_outside_xla(strides):
    x = tf.constant(_x(2, 8, 9, 12))
    layer = Conv2D(6, 3, strides=strides, groups=3)
    layer(x)

    def step(x):
        with tf.GradientTape() as tape:
            y = layer(x, training=True)
        return tape.gradient(y, layer.kernel.value, y)

    kernel = _in_torch(layer.kernel, (3, 2, 0, 1)).requires_grad_()
    images = _in_torch(x, (0, 3, 1, 2))
    y = torch.nn.functional.conv2d(images, kernel, stride=strides, padding=1, groups=3)
    y.backward(y.detach())
    expected = kernel.grad.numpy().transpose(2, 3, 1, 0)
    for jit_compile in (False, True):
        gradient = tf.function(step, jit_compile=jit_compile)(x)
        # The outputs, which are summed over the pixels, are sums themselves.
        assert error(gradient, expected) <= tolerance(summed=2 * 8 * 9 * 9 * 4)


def test_zero_padded_average_equals_pytorch():
    x = _x(2, 7, 8, 4)
    layer, last, first = _both_formats(AveragePooling2D, x, pool_size=3, strides=2)
    expected = torch.nn.functional.avg_pool2d(_in_torch(x, (0, 3, 1, 2)), 3, 2, 1)
    expected = expected.numpy().transpose(0, 2, 3, 1)
    assert max(error(last, expected), error(first, expected)) <= tolerance(summed=9)
    assert layer.compute_output_shape(x.shape) == last.shape
    copy = keras.layers.deserialize(keras.layers.serialize(layer))
    assert copy.get_config() == layer.get_config() and copy.pads == layer.pads
