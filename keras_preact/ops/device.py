"""Abilities of the device's kernels."""

from __future__ import annotations

import keras


def _has_gpu() -> bool:
    """Return whether TensorFlow has a GPU. Ask only where it is the backend."""
    import tensorflow as tf

    return bool(tf.config.list_logical_devices("GPU"))


def is_tensorflow_on_cpu() -> bool:
    """Return whether TensorFlow is the backend and has no GPU."""
    return keras.backend.backend() == "tensorflow" and not _has_gpu()


def kernels_take_channels_first() -> bool:
    """Return whether convolution and fused normalization have kernels for channels first.

    On a CPU, TensorFlow has them for channels last only.
    """
    return not is_tensorflow_on_cpu()


def kernels_pad() -> bool:
    """Return whether a convolution that pads by itself differentiates at full speed.

    On a CPU, TensorFlow takes up to three times as long for the gradients of such a convolution in
    float32 as for padded inputs, and 40 times as long in 16 bits.
    """
    return keras.backend.backend() == "tensorflow" and _has_gpu()


def kernels_take_groups() -> bool:
    """Return whether convolution has kernels for groups of channels that also differentiate.

    On a CPU, TensorFlow cannot differentiate them, and inside XLA they take seconds where
    one convolution per group takes a tenth of a second.
    """
    return not is_tensorflow_on_cpu()
