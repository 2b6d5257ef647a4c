"""Batch normalization by TensorFlow's fused kernel: one pass over the maps in inference."""

from __future__ import annotations

from typing import Any

import keras

from keras_preact.ops.choices import enabled
from keras_preact.ops.custom_gradient import value_of
from keras_preact.ops.device import is_tensorflow_on_cpu, kernels_take_channels_first
from keras_preact.tensor import Tensor

_DTYPES = ("float16", "bfloat16", "float32")


def fused_norm_fits(inputs: Tensor, axis: int, variable_dtype: str) -> bool:
    """Return whether `fused_norm` can be called.

    Args:
        inputs: Maps.
        axis: Axis of the channels.
        variable_dtype: Dtype of scale, shift and statistics.

    Returns:
        True on TensorFlow for float16, bfloat16 and float32 maps of rank 4 whose channels come
        last, or come first on a GPU, with float32 weights.
    """
    if keras.backend.backend() != "tensorflow" or not enabled("fused_norm"):
        return False
    if len(inputs.shape) != 4:
        return False
    if variable_dtype != "float32" or keras.backend.standardize_dtype(inputs.dtype) not in _DTYPES:
        return False
    return axis in (-1, 3) or (axis in (1, -3) and kernels_take_channels_first())


def fused_norm(
    inputs: Tensor,
    scale: Tensor,
    shift: Tensor,
    mean: Tensor,
    variance: Tensor,
    *,
    axis: int,
    epsilon: float,
    training: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute `(inputs - mean) / sqrt(variance + epsilon) * scale + shift`.

    Args:
        inputs: Maps of rank 4, for which `fused_norm_fits`.
        scale: float32 `(channels,)`.
        shift: float32 `(channels,)`.
        mean: float32 `(channels,)`; empty in training, where the kernel computes the batch's.
        variance: float32 `(channels,)`; empty in training.
        axis: Axis of the channels.
        epsilon: Added to the variance.
        training: Whether to normalize with the batch's statistics.

    Returns:
        Maps of the dtype of `inputs`, the mean, and in training the sample variance.
    """
    import tensorflow as tf

    settings = {
        "epsilon": epsilon,
        "data_format": "NHWC" if axis in (-1, 3) else "NCHW",
        "is_training": training,
    }
    statistics = {"mean": mean, "variance": variance}
    if training and is_tensorflow_on_cpu():
        return _without_reserve(inputs, scale, shift, statistics, settings)
    outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
        x=inputs, scale=scale, offset=shift, **statistics, **settings
    )
    return outputs, mean, variance


def _without_reserve(
    inputs: Tensor,
    scale: Tensor,
    shift: Tensor,
    statistics: dict[str, Tensor],
    settings: dict[str, Any],
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalize in training, without keeping what TensorFlow never reads on a CPU.

    That is the kernel's third reserve, an eighth of the size of float32 maps.
    """
    import tensorflow as tf

    @tf.custom_gradient
    def normalize(inputs: Tensor, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
        *results, first, second, _ = tf.raw_ops.FusedBatchNormV3(
            x=inputs, scale=scale, offset=shift, **statistics, **settings
        )

        def gradient(upstream: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            return tf.raw_ops.FusedBatchNormGradV3(
                y_backprop=upstream,
                x=inputs,
                scale=scale,
                reserve_space_1=first,
                reserve_space_2=second,
                reserve_space_3=tf.zeros((0,)),
                **settings,
            )[:3]

        return tuple(results), gradient

    return normalize(inputs, value_of(scale), value_of(shift))
