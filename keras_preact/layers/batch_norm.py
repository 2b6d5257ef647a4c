"""Batch normalization that uses TensorFlow's fused kernel where it fits."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_preact.ops.choices import enabled
from keras_preact.ops.fused_norm import fused_norm, fused_norm_fits
from keras_preact.tensor import Tensor


@keras.saving.register_keras_serializable(package="keras_preact")
class BatchNormalization(keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization`, computed by one fused kernel on TensorFlow.

    Outputs, gradients and moving statistics are those of the Keras layer, which computes moments
    and normalization as separate operations. The fused kernel serves float16, bfloat16 and
    float32 maps of rank 4 whose channels come last, or come first on a GPU, with float32 weights;
    everything else, and every other backend, goes through the Keras layer's own code. It takes the
    arguments of the Keras layer.
    """

    def call(
        self, inputs: Tensor, training: bool | None = None, mask: Tensor | None = None
    ) -> Tensor:
        if not self._fused_kernel_fits(inputs, mask):
            return super().call(inputs, training=training, mask=mask)
        return self._fused_call(inputs, training=bool(training and self.trainable))

    def _moments(self, inputs: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and variance: on JAX in one pass over the maps, where Keras takes two."""
        in_one_pass = keras.backend.backend() == "jax" and enabled("moments")
        if not in_one_pass or mask is not None or self.synchronized:
            return super()._moments(inputs, mask)
        # Differences from a value near the mean lose no digits to the subtraction of squares.
        near = ops.cast(self.moving_mean, inputs.dtype)
        shape = [1] * len(inputs.shape)
        shape[self.axis] = -1
        difference = inputs - ops.reshape(near, shape)
        mean = ops.mean(difference, self._reduction_axes)
        variance = ops.mean(ops.square(difference), self._reduction_axes) - ops.square(mean)
        return near + mean, ops.maximum(variance, 0.0)

    def _fused_kernel_fits(self, inputs: Tensor, mask: Tensor) -> bool:
        if mask is not None or self.synchronized or self.renorm:
            return False
        return fused_norm_fits(inputs, self.axis, self.variable_dtype)

    def _fused_call(self, inputs: Tensor, training: bool) -> Tensor:
        import tensorflow as tf

        channels = (inputs.shape[self.axis],)
        outputs, mean, variance = fused_norm(
            inputs,
            ops.convert_to_tensor(self.gamma) if self.scale else tf.ones(channels),
            ops.convert_to_tensor(self.beta) if self.center else tf.zeros(channels),
            [] if training else ops.convert_to_tensor(self.moving_mean),
            [] if training else ops.convert_to_tensor(self.moving_variance),
            axis=self.axis,
            epsilon=self.epsilon,
            training=training,
        )
        if training:
            count = tf.cast(tf.size(inputs, out_type=tf.int64) // channels[0], variance.dtype)
            # The kernel returns the sample variance; Keras keeps the population variance.
            variance *= (count - 1) / count
            self._update(self.moving_mean, mean)
            self._update(self.moving_variance, variance)
        return outputs

    def _update(self, moving: Any, value: Tensor) -> None:
        moving.assign(moving * self.momentum + value * (1 - self.momentum))
