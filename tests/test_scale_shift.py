"""The scale and shift that a folded norm leaves, against plain arithmetic."""

import keras
import numpy as np
import pytest

from keras_preact.layers import ScaleShift
from tests.numerics import float64, tolerance

pytestmark = pytest.mark.numerical

RNG = np.random.default_rng(0)
SCALE, SHIFT = RNG.normal(size=6).astype("float32"), RNG.normal(size=6).astype("float32")


def layer(shape: tuple[int, ...], **options) -> ScaleShift:
    made = ScaleShift(**options)
    made.build(shape)
    made.scale.assign(SCALE)
    made.shift.assign(SHIFT)
    return made


def assert_close(received, x, scale, shift, dtype):
    """Hold the outputs against float64: rounded to `dtype`, the sum and its terms in float32."""
    terms = np.abs(x * scale) + np.abs(shift)
    allowed = tolerance(dtype) * np.abs(x * scale + shift)
    allowed += tolerance("float64" if dtype == "float64" else "float32", roundings=4) * terms
    assert (np.abs(float64(received) - (x * scale + shift)) <= allowed).all()


@pytest.mark.parametrize("shape", [(2, 5, 4, 6), (3, 6), (2, 3, 5, 4, 6)])
@pytest.mark.parametrize(
    "dtype", ["float64", "float32", "mixed_bfloat16", "mixed_float16", "bfloat16", "float16"]
)
def test_last_axis(shape, dtype):
    made = layer(shape, dtype=dtype)
    x = keras.ops.cast(RNG.normal(size=shape), made.compute_dtype)
    y = made(x)
    assert keras.backend.standardize_dtype(y.dtype) == made.compute_dtype
    assert_close(y, float64(x), float64(made.scale), float64(made.shift), made.compute_dtype)


def test_channels_first():
    x = RNG.normal(size=(2, 6, 5, 4)).astype("float32")
    scale, shift = (float64(each)[:, None, None] for each in (SCALE, SHIFT))
    assert_close(layer(x.shape, axis=1)(x), float64(x), scale, shift, "float32")


def test_scale_and_shift_are_exact_in_16_bits():
    """Large values that cancel: neither is rounded to the 8 bits of the maps."""
    x = np.full((1, 2, 2, 6), 256.0, "float32")
    made = layer(x.shape, dtype="mixed_bfloat16")
    made.scale.assign(np.full(6, 1.001, "float32"))
    made.shift.assign(np.full(6, -256.0, "float32"))
    # A scale of 8 bits would be 1, and give 0.
    assert_close(made(x), float64(x), np.float64(np.float32(1.001)), -256.0, "bfloat16")


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
    assert_close(compiled(x), float64(x), float64(SCALE), float64(SHIFT), "float32")
