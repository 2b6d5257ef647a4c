"""What the device's kernels can do."""

from __future__ import annotations

import keras


def has_gpu() -> bool:
    """Whether TensorFlow has a GPU. Ask only where it is the backend."""
    import tensorflow as tf

    return bool(tf.config.list_logical_devices("GPU"))


def kernels_take_channels_first() -> bool:
    """Whether convolution and fused normalisation have kernels for channels first.

    On a CPU, TensorFlow has them for channels last only.
    """
    return keras.backend.backend() != "tensorflow" or has_gpu()


def kernels_pad(dtype: str) -> bool:
    """Whether a convolution may be told how to pad, and still differentiates at full speed.

    On a CPU, TensorFlow leaves the gradients of such a convolution to kernels that do not know
    16-bit numbers: they take 40 times as long as for padded inputs.

    Args:
        dtype: Of the inputs.
    """
    return keras.backend.backend() == "tensorflow" and (dtype == "float32" or has_gpu())


def kernels_take_groups() -> bool:
    """Whether convolution has kernels for groups of channels that also differentiate.

    On a CPU, TensorFlow cannot differentiate them, and inside XLA takes seconds for what a
    convolution for each group does in a tenth of one.
    """
    return keras.backend.backend() != "tensorflow" or has_gpu()
