"""The scale and shift that a folded norm leaves, against plain arithmetic."""

import keras
import numpy as np
import pytest

from keras_preact.layers import ScaleShift

RNG = np.random.default_rng(0)
SCALE, SHIFT = RNG.normal(size=6).astype("float32"), RNG.normal(size=6).astype("float32")


def layer(shape: tuple[int, ...], **options) -> ScaleShift:
    made = ScaleShift(**options)
    made.build(shape)
    made.scale.assign(SCALE)
    made.shift.assign(SHIFT)
    return made


@pytest.mark.parametrize("shape", [(2, 5, 4, 6), (3, 6), (2, 3, 5, 4, 6)])
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [("float64", 1e-6), ("float32", 1e-6), ("mixed_bfloat16", 0.02), ("mixed_float16", 2e-3)],
)
def test_last_axis(shape, dtype, tolerance):
    x = RNG.normal(size=shape).astype("float32")
    made = layer(shape, dtype=dtype)
    y = made(keras.ops.cast(x, made.compute_dtype))
    assert keras.backend.standardize_dtype(y.dtype) == made.compute_dtype
    y = keras.ops.convert_to_numpy(keras.ops.cast(y, "float64"))
    np.testing.assert_allclose(y, x * SCALE + SHIFT, rtol=tolerance, atol=tolerance)


def test_channels_first():
    x = RNG.normal(size=(2, 6, 5, 4)).astype("float32")
    y = keras.ops.convert_to_numpy(layer(x.shape, axis=1)(x))
    expected = x * SCALE[:, None, None] + SHIFT[:, None, None]
    np.testing.assert_allclose(y, expected, rtol=1e-6, atol=1e-6)


def test_scale_and_shift_are_exact_in_16_bits():
    """Large values that cancel: neither is rounded to the 8 bits of the maps."""
    x = np.full((1, 2, 2, 6), 256.0, "float32")
    made = layer(x.shape, dtype="mixed_bfloat16")
    made.scale.assign(np.full(6, 1.001, "float32"))
    made.shift.assign(np.full(6, -256.0, "float32"))
    y = keras.ops.convert_to_numpy(keras.ops.cast(made(x), "float32"))
    np.testing.assert_allclose(y, 0.256, rtol=0.01)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="looks at TensorFlow's graph")
@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_maps_go_through_one_kernel(dtype):
    import tensorflow as tf

    made = layer((None, 5, 4, 6), dtype=dtype)
    x = tf.TensorSpec((None, 5, 4, 6), made.compute_dtype)
    graph = tf.function(made).get_concrete_function(x).graph
    kinds = {each.type for each in graph.get_operations()}
    assert "FusedBatchNormV3" in kinds
    assert not kinds & {"Mul", "AddV2", "Cast"}


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="XLA on TensorFlow")
def test_xla():
    import tensorflow as tf

    x = RNG.normal(size=(2, 5, 4, 6)).astype("float32")
    compiled = tf.function(layer(x.shape), jit_compile=True)
    np.testing.assert_allclose(compiled(x), x * SCALE + SHIFT, rtol=1e-5, atol=1e-5)
