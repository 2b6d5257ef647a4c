"""Mean over height and width, whose sum does not overflow."""

from __future__ import annotations

import keras
from keras import ops

from keras_preact.tensor import Tensor


@keras.saving.register_keras_serializable(package="keras_preact")
class GlobalMean2D(keras.layers.GlobalAveragePooling2D):
    """`keras.layers.GlobalAveragePooling2D`, computed in float32 at least.

    On a CPU, TensorFlow sums float16 in float16, which holds no more than 65504: 112 x 112 pixels
    of 6. It takes the arguments of the Keras layer.
    """

    def call(self, inputs: Tensor) -> Tensor:
        dtype = keras.backend.result_type(self.compute_dtype, "float32")
        return ops.cast(super().call(ops.cast(inputs, dtype)), self.compute_dtype)
