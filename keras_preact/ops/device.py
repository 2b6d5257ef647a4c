"""What the device's kernels can do."""

from __future__ import annotations

import keras


def _has_gpu() -> bool:
    """Whether TensorFlow has a GPU. Ask only where it is the backend."""
    import tensorflow as tf

    return bool(tf.config.list_logical_devices("GPU"))


def is_tensorflow_on_cpu() -> bool:
    """Whether TensorFlow is the backend and has no GPU."""
    return keras.backend.backend() == "tensorflow" and not _has_gpu()


def kernels_take_channels_first() -> bool:
    """Whether convolution and fused normalisation have kernels for channels first.

    On a CPU, TensorFlow has them for channels last only.
    """
    return not is_tensorflow_on_cpu()


def kernels_pad() -> bool:
    """Whether a convolution may be told how to pad, and still differentiates at full speed.

    On a CPU, TensorFlow takes up to three times as long for the gradients of such a convolution in
    float32 as for padded inputs, and 40 times as long in 16 bits.
    """
    return keras.backend.backend() == "tensorflow" and _has_gpu()


def kernels_take_groups() -> bool:
    """Whether convolution has kernels for groups of channels that also differentiate.

    On a CPU, TensorFlow cannot differentiate them, and inside XLA takes seconds for what a
    convolution for each group does in a tenth of one.
    """
    return not is_tensorflow_on_cpu()
