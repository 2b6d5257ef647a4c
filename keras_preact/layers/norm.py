"""Batch normalisation that uses TensorFlow's fused kernel where it fits."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_preact.layers.device import kernels_take_channels_first

_FUSED_DTYPES = ("float16", "bfloat16", "float32")


@keras.saving.register_keras_serializable(package="keras_preact")
class BatchNormalization(keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization`, computed by one fused kernel on TensorFlow.

    Outputs, gradients and moving statistics are those of the Keras layer, which computes moments
    and normalisation as separate operations. The fused kernel serves float16, bfloat16 and
    float32 maps of rank 4 whose channels come last, or come first on a GPU, with float32 weights;
    everything else, and every other backend, goes through the Keras layer's own code. It takes the
    arguments of the Keras layer.
    """

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        if not self._fused_kernel_fits(inputs, mask):
            return super().call(inputs, training=training, mask=mask)
        return self._fused_call(inputs, training=bool(training and self.trainable))

    def _fused_kernel_fits(self, inputs: Any, mask: Any) -> bool:
        if keras.backend.backend() != "tensorflow" or mask is not None:
            return False
        if self.synchronized or self.renorm or len(inputs.shape) != 4:
            return False
        if self.variable_dtype != "float32":
            return False
        if keras.backend.standardize_dtype(inputs.dtype) not in _FUSED_DTYPES:
            return False
        return self.axis in (-1, 3) or (self.axis in (1, -3) and kernels_take_channels_first())

    def _fused_call(self, inputs: Any, training: bool) -> Any:
        import tensorflow as tf

        channels = (inputs.shape[self.axis],)
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=ops.convert_to_tensor(self.gamma) if self.scale else tf.ones(channels),
            offset=ops.convert_to_tensor(self.beta) if self.center else tf.zeros(channels),
            mean=[] if training else ops.convert_to_tensor(self.moving_mean),
            variance=[] if training else ops.convert_to_tensor(self.moving_variance),
            epsilon=self.epsilon,
            data_format="NHWC" if self.axis in (-1, 3) else "NCHW",
            is_training=training,
        )
        if training:
            count = tf.cast(tf.size(inputs, out_type=tf.int64) // channels[0], variance.dtype)
            # The kernel returns the sample variance; Keras keeps the population variance.
            variance *= (count - 1) / count
            self._update(self.moving_mean, mean)
            self._update(self.moving_variance, variance)
        return outputs

    def _update(self, moving: Any, value: Any) -> None:
        moving.assign(moving * self.momentum + value * (1 - self.momentum))
