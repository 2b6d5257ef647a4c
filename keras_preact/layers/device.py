"""What the device's kernels can do."""

from __future__ import annotations

import keras


def kernels_take_channels_first() -> bool:
    """Whether convolution and fused normalisation have kernels for channels first.

    On a CPU, TensorFlow has them for channels last only.
    """
    if keras.backend.backend() != "tensorflow":
        return True
    import tensorflow as tf

    return bool(tf.config.list_logical_devices("GPU"))
