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
    inputs: Tensor, scale: Tensor, shift: Tensor, *, axis: int, epsilon: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute `(inputs - mean) / sqrt(variance + epsilon) * scale + shift` of a batch's statistics.

    Args:
        inputs: Maps of rank 4, for which `fused_norm_fits`.
        scale: float32 `(channels,)`.
        shift: float32 `(channels,)`.
        axis: Axis of the channels.
        epsilon: Added to the variance.

    Returns:
        Maps of the dtype of `inputs`, the mean, and the sample variance.
    """
    import tensorflow as tf

    settings = _settings(axis, epsilon, training=True)
    if is_tensorflow_on_cpu():
        return _without_reserve(inputs, scale, shift, settings)
    outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
        x=inputs, scale=scale, offset=shift, mean=[], variance=[], **settings
    )
    return outputs, mean, variance


def fused_norm_of(
    inputs: Tensor,
    scale: Tensor,
    shift: Tensor,
    mean: Tensor,
    variance: Tensor,
    *,
    axis: int,
    epsilon: float,
) -> Tensor:
    """Compute the same of given statistics.

    Args:
        inputs: Maps of rank 4, for which `fused_norm_fits`.
        scale: float32 `(channels,)`.
        shift: float32 `(channels,)`.
        mean: float32 `(channels,)`.
        variance: float32 `(channels,)`.
        axis: Axis of the channels.
        epsilon: Added to the variance.

    Returns:
        Maps of the dtype of `inputs`.
    """
    import tensorflow as tf

    return tf.raw_ops.FusedBatchNormV3(
        x=inputs,
        scale=scale,
        offset=shift,
        mean=mean,
        variance=variance,
        **_settings(axis, epsilon, training=False),
    )[0]


def fused_norm_again(
    inputs: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, variance: Tensor, **options: Any
) -> Tensor:
    """Compute the outputs of `fused_norm` once more, from the statistics that it found.

    Args:
        inputs: As for `fused_norm_of`, and so are the others. `variance` is the batch's, not the
            sample variance.
        scale: See there.
        shift: See there.
        mean: See there.
        variance: See there.
        **options: `axis` and `epsilon`.

    Returns:
        Maps. Their gradient counts that the statistics follow from the inputs.
    """
    import tensorflow as tf

    @tf.custom_gradient
    def normalize(inputs: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        def gradient(upstream: Tensor) -> list[Tensor]:
            arguments = [inputs, scale, shift]
            with tf.GradientTape() as tape:
                tape.watch(arguments)
                outputs, *_ = fused_norm(*arguments, **options)
            return tape.gradient(outputs, arguments, upstream)

        return fused_norm_of(inputs, scale, shift, mean, variance, **options), gradient

    return normalize(inputs, scale, shift)


def _settings(axis: int, epsilon: float, training: bool) -> dict[str, Any]:
    data_format = "NHWC" if axis in (-1, 3) else "NCHW"
    return {"epsilon": epsilon, "data_format": data_format, "is_training": training}


def _without_reserve(
    inputs: Tensor,
    scale: Tensor,
    shift: Tensor,
    settings: dict[str, Any],
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalize in training, without keeping what TensorFlow never reads on a CPU.

    That is the kernel's third reserve, an eighth of the size of float32 maps.
    """
    import tensorflow as tf

    @tf.custom_gradient
    def normalize(inputs: Tensor, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
        *results, first, second, _ = tf.raw_ops.FusedBatchNormV3(
            x=inputs, scale=scale, offset=shift, mean=[], variance=[], **settings
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
