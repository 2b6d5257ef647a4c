"""Convolution and pooling padded alike on every side, against PyTorch's."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
import torch

from keras_preact.layers import AveragePooling2D, Conv2D, MaxPooling2D, StandardizedConv2D


def _x(*shape: int) -> np.ndarray:
    # All below zero: a pooling that pads with zeros would return them.
    return (np.random.default_rng(0).standard_normal(shape) - 5).astype("float32")


def _both_formats(layer_type, x, **options):
    """Outputs of a layer with channels last and first, both returned with the channels last."""
    last = layer_type(data_format="channels_last", **options)
    first = layer_type(data_format="channels_first", **options)
    first.build((None, x.shape[3], None, None))
    last.build((None, None, None, x.shape[3]))
    first.set_weights(last.get_weights())
    outputs = np.asarray(last(x)), np.asarray(first(x.transpose(0, 3, 1, 2)))
    return last, outputs[0], outputs[1].transpose(0, 2, 3, 1)


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
        torch.tensor(x.transpose(0, 3, 1, 2)),
        torch.tensor(np.asarray(layer.kernel).transpose(3, 2, 0, 1)),
        stride=layer.strides,
        padding=[d * (k // 2) for k, d in zip(layer.kernel_size, layer.dilation_rate, strict=True)],
        dilation=layer.dilation_rate,
    )
    expected = expected.numpy().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(last, expected, atol=1e-4)
    np.testing.assert_allclose(first, expected, atol=1e-4)
    assert layer.compute_output_shape(x.shape) == last.shape


def test_grouped_convolution_equals_pytorch():
    x = _x(2, 9, 10, 4)
    layer = Conv2D(8, 3, strides=2, groups=2)
    outputs = layer(x)
    expected = torch.nn.functional.conv2d(
        torch.tensor(x.transpose(0, 3, 1, 2)),
        torch.tensor(np.asarray(layer.kernel).transpose(3, 2, 0, 1)),
        stride=2,
        padding=1,
        groups=2,
    )
    np.testing.assert_allclose(outputs, expected.numpy().transpose(0, 2, 3, 1), atol=1e-4)


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
    compiled = tf.function(layer, jit_compile=True)
    np.testing.assert_allclose(layer(x), compiled(x), atol=1e-5)


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
    np.testing.assert_allclose(layer(x), outputs, atol=1e-5)


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


# What a training step of a 1x1 convolution consists of.
PRODUCTS = {"MatMul"}
CONVOLUTION = {"Conv2D", "Conv2DBackpropInput", "MatMul"}


@pytest.mark.parametrize(
    ("filters", "dtype", "operations"),
    [
        (8, "float32", PRODUCTS),
        (4096, "float32", CONVOLUTION),
        (8, "mixed_bfloat16", CONVOLUTION),
    ],
)
def test_1x1_convolutions_train_with_products(filters, dtype, operations):
    x = tf.constant(_x(2, 5, 3, 16))
    layer = Conv2D(filters, 1, activation="relu", bias_initializer="ones", dtype=dtype)
    layer(x)
    trained, kinds = _gradients(layer, x, training=True)
    expected, kinds_of_inference = _gradients(layer, x, training=False)
    assert kinds & (CONVOLUTION | {"Conv2DBackpropFilter"}) == operations
    assert "Conv2D" in kinds_of_inference
    tolerance = 1e-5 if dtype == "float32" else 0.02
    for one, other in zip(trained, expected, strict=True):
        one, other = (np.asarray(each, "float32") for each in (one, other))
        assert np.abs(one - other).max() <= tolerance * np.abs(other).max()


@pytest.mark.parametrize(
    ("kernel_size", "channels", "strides"), [(1, 16, 1), (3, 16, 2), (3, 128, 2)]
)
@pytest.mark.parametrize("jit_compile", [False, True])
def test_convolutions_differentiate_twice(jit_compile, kernel_size, channels, strides):
    """As the curvature of the loss needs it."""
    x = tf.constant(_x(2, 5, 3, channels))
    layer = Conv2D(256, kernel_size, strides=strides)
    layer(x)
    direction = tf.constant(_x(*layer.kernel.shape))

    @tf.function(jit_compile=jit_compile)
    def product(training):
        kernel = layer.kernel.value
        with tf.GradientTape() as outer:
            with tf.GradientTape() as inner:
                loss = tf.reduce_sum(tf.tanh(layer(x, training=training)) ** 2)
            along = tf.reduce_sum(inner.gradient(loss, kernel) * direction)
        return outer.gradient(along, kernel)

    one, other = product(True), product(False)
    assert np.abs(one - other).max() <= 1e-4 * np.abs(other).max()


@pytest.mark.parametrize("channels", [8, 128])
@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_gradients_of_strided_convolutions_pad_outside_of_them(dtype, channels):
    """TensorFlow's gradients of a convolution that pads by itself are slow on a CPU."""
    x = tf.constant(_x(2, 9, 12, channels))
    layer = Conv2D(144, 3, strides=2, dtype=dtype, kernel_initializer="he_normal", use_bias=False)
    layer(x)
    trained, kinds = _gradients(layer, x, training=True)
    assert ("Conv2DBackpropFilter" in kinds) == (channels == 8)
    kernel = tf.constant(layer.kernel)
    with tf.GradientTape() as tape:
        tape.watch([x, kernel])
        y = tf.nn.conv2d(x, kernel, 2, [[0, 0], [1, 1], [1, 1], [0, 0]])
    expected = (y, *tape.gradient(y, [x, kernel], y))
    for one, other in zip(trained, expected, strict=True):
        tolerance = 2e-6 if dtype == "float32" else 0.05
        assert np.abs(np.asarray(one, "float32") - other).max() <= tolerance * np.abs(other).max()


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
        assert np.abs(one - other).max() <= 1e-5 * np.abs(other).max()


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
    ((16, 16, 128), 128, {"dtype": "mixed_bfloat16"}),
    ((14, 14, 128), 64, {"dtype": "mixed_bfloat16"}),
    ((14, 14, 128), 128, {"padding": "valid"}),
]
TRAINED_BY_PRODUCTS = [
    ((14, 14, 128), 144, {"dtype": "mixed_bfloat16"}),
    ((7, 5, 144), 128, {"dtype": "mixed_bfloat16", "use_bias": False}),
    ((14, 14, 128), 144, {"strides": 2}),
    ((7, 5, 144), 128, {"strides": 2, "dtype": "mixed_bfloat16"}),
]


@pytest.mark.parametrize(("shape", "filters", "settings"), TRAINED_BY_WINOGRAD)
@pytest.mark.parametrize("layer_type", [Conv2D, StandardizedConv2D])
def test_wide_3x3_convolutions_train_by_winograd(layer_type, shape, filters, settings):
    x = tf.constant(_x(2, *shape))
    layer = layer_type(filters, 3, bias_initializer="ones", **settings)
    layer(x)
    trained, kinds = _gradients(layer, x, training=True)
    expected, kinds_of_inference = _gradients(layer, x, training=False)
    assert "BatchMatMulV2" in kinds and not any(kind.startswith("Conv2D") for kind in kinds)
    assert "Conv2D" in kinds_of_inference and "BatchMatMulV2" not in kinds_of_inference
    for one, other in zip(trained, expected, strict=True):
        assert np.abs(one - other).max() <= 1e-4 * np.abs(other).max()


@pytest.mark.parametrize(("shape", "filters", "settings"), TRAINED_AS_THEY_ARE)
def test_other_3x3_convolutions_train_as_they_are(shape, filters, settings):
    x = tf.constant(_x(2, *shape))
    layer = Conv2D(filters, 3, **settings)
    layer(x)
    _, kinds = _gradients(layer, x, training=True)
    assert {"Conv2D", "Conv2DBackpropFilter"} <= kinds and "BatchMatMulV2" not in kinds


@pytest.mark.parametrize(("shape", "filters", "settings"), TRAINED_BY_PRODUCTS)
@pytest.mark.parametrize("layer_type", [Conv2D, StandardizedConv2D])
def test_kernels_of_wide_convolutions_take_products_for_gradients(
    layer_type, shape, filters, settings
):
    x = tf.constant(_x(2, *shape))
    layer = layer_type(filters, 3, bias_initializer="ones", **settings)
    layer(x)
    trained, kinds = _gradients(layer, x, training=True)
    expected, kinds_of_inference = _gradients(layer, x, training=False)
    assert "Conv2D" in kinds and "Conv2DBackpropFilter" not in kinds
    assert "Conv2DBackpropFilter" in kinds_of_inference
    tolerance = 1e-5 if layer.compute_dtype == "float32" else 0.02
    for one, other in zip(trained, expected, strict=True):
        one, other = (np.asarray(each, "float32") for each in (one, other))
        assert np.abs(one - other).max() <= tolerance * np.abs(other).max()


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
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("kernel_size", [1, 3])
def test_gradients_of_biases_are_products(kernel_size):
    x = tf.constant(_x(2, 8, 8, 16))
    layer = Conv2D(8, kernel_size, strides=2, bias_initializer="ones")
    layer(x)
    trained, kinds = _gradients(layer, x, training=True)
    expected, kinds_of_inference = _gradients(layer, x, training=False)
    assert "BiasAddGrad" not in kinds and "BiasAddGrad" in kinds_of_inference
    for one, other in zip(trained, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def test_biases_go_to_the_channels_of_maps_as_wide_as_they_are_deep():
    x = np.random.default_rng(0).standard_normal((1, 8, 8, 4)).astype("float32")
    last = Conv2D(8, 1, bias_initializer="normal")
    first = Conv2D(8, 1, data_format="channels_first")
    outputs = last(x)
    first.build((1, 4, 8, 8))
    first.set_weights(last.get_weights())
    np.testing.assert_allclose(
        np.asarray(first(x.transpose(0, 3, 1, 2))).transpose(0, 2, 3, 1), outputs, atol=1e-6
    )


@pytest.mark.parametrize("strides", [1, 2])
def test_grouped_convolution_trains_inside_and_outside_xla(strides):
    x = tf.constant(_x(2, 8, 9, 12))
    layer = Conv2D(6, 3, strides=strides, groups=3)
    layer(x)

    def step(x):
        with tf.GradientTape() as tape:
            y = layer(x, training=True)
        return tape.gradient(y, layer.kernel.value, y)

    kernel = torch.tensor(np.asarray(layer.kernel).transpose(3, 2, 0, 1), requires_grad=True)
    images = torch.tensor(x.numpy().transpose(0, 3, 1, 2))
    y = torch.nn.functional.conv2d(images, kernel, stride=strides, padding=1, groups=3)
    y.backward(y.detach())
    expected = kernel.grad.numpy().transpose(2, 3, 1, 0)
    for jit_compile in (False, True):
        gradient = tf.function(step, jit_compile=jit_compile)(x)
        np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-2)


def test_zero_padded_average_equals_pytorch():
    x = _x(2, 7, 8, 4)
    layer, last, first = _both_formats(AveragePooling2D, x, pool_size=3, strides=2)
    expected = torch.nn.functional.avg_pool2d(torch.tensor(x.transpose(0, 3, 1, 2)), 3, 2, 1)
    expected = expected.numpy().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(last, expected, atol=1e-5)
    np.testing.assert_allclose(first, expected, atol=1e-5)
    assert layer.compute_output_shape(x.shape) == last.shape
    copy = keras.layers.deserialize(keras.layers.serialize(layer))
    assert copy.get_config() == layer.get_config() and copy.pads == layer.pads
