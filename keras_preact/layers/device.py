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
