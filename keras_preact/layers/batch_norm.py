"""Batch normalization that uses TensorFlow's fused kernel where it fits."""

from __future__ import annotations

from functools import partial
from typing import Any

import keras
from keras import ops

from keras_preact.ops.choices import enabled
from keras_preact.ops.custom_gradient import value_of
from keras_preact.ops.fused_norm import (
    fused_norm,
    fused_norm_again,
    fused_norm_fits,
    fused_norm_of,
)
from keras_preact.ops.recomputation import Source, set_source
from keras_preact.tensor import Tensor


@keras.saving.register_keras_serializable(package="keras_preact")
class BatchNormalization(keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization`, computed by one fused kernel on TensorFlow.

    Outputs, gradients and moving statistics are those of the Keras layer, which computes moments
    and normalization as separate operations. The fused kernel serves float16, bfloat16 and
    float32 maps of rank 4 whose channels come last, or come first on a GPU, with float32 weights;
    everything else, and every other backend, goes through the Keras layer's own code.

    Args:
        *args: As for the Keras layer.
        rematerialize: Whether the backward pass computes the outputs again, and with them the
            activation and the input of the convolution that follow
            (`keras_preact.ops.recomputation`). Then training keeps the inputs only, and the
            statistics.
        **kwargs: As for the Keras layer.

    Raises:
        ValueError: If `rematerialize` meets `renorm`.
    """

    # Keras sets it from 3.14 on.
    renorm = False

    def __init__(self, *args: Any, rematerialize: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if rematerialize and self.renorm:
            raise ValueError("`rematerialize` does not go with `renorm`. Received both.")
        self.rematerialize = rematerialize

    def call(
        self, inputs: Tensor, training: bool | None = None, mask: Tensor | None = None
    ) -> Tensor:
        if self._fused_kernel_fits(inputs, mask):
            return self._fused_call(inputs, bool(training))
        if training and self.rematerialize and mask is None:
            return self._call_keeping_inputs(inputs)
        return super().call(inputs, training=training, mask=mask)

    def _moments(self, inputs: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and variance: on JAX in one pass over the maps, where Keras takes two."""
        in_one_pass = keras.backend.backend() == "jax" and enabled("moments")
        if not in_one_pass or mask is not None or self.synchronized:
            return super()._moments(inputs, mask)
        # Differences from a value near the mean lose no digits to the subtraction of squares. The
        # moving mean may be far from it, as in a new layer; the first example's is not.
        near = ops.stop_gradient(ops.mean(inputs[:1], self._reduction_axes))
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

        of_batch = training and self.trainable
        settings = {"axis": self.axis, "epsilon": self.epsilon}
        kept = (inputs, *self._gamma_and_beta())
        moving = [value_of(each) for each in (self.moving_mean, self.moving_variance)]
        if not of_batch:
            again = partial(fused_norm_of, **settings)
            outputs, mean, variance = again(*kept, *moving), *moving
        else:
            again = partial(fused_norm_again, **settings)
            outputs, mean, variance = fused_norm(*kept, **settings)
            count = tf.size(inputs, out_type=tf.int64) // inputs.shape[self.axis]
            count = tf.cast(count, variance.dtype)
            # The kernel returns the sample variance; Keras keeps the population variance.
            variance *= (count - 1) / count
            self._update(mean, variance)
        if training and self.rematerialize:
            set_source(outputs, Source((*kept, mean, variance), again))
        return outputs

    def _call_keeping_inputs(self, inputs: Tensor) -> Tensor:
        """Compute as the Keras layer does in training, ready to do so again."""
        dtype = keras.backend.result_type(inputs.dtype, "float32")

        def normalize(
            inputs: Tensor, gamma: Tensor, beta: Tensor, mean: Tensor, variance: Tensor
        ) -> Tensor:
            outputs = ops.batch_normalization(
                ops.cast(inputs, dtype), mean, variance, self.axis, beta, gamma, self.epsilon
            )
            return ops.cast(outputs, self.compute_dtype)

        def normalize_batch(
            inputs: Tensor, gamma: Tensor, beta: Tensor
        ) -> tuple[Tensor, Tensor, Tensor]:
            if self.trainable:
                mean, variance = self._moments(ops.cast(inputs, dtype), None)
            else:
                moving = self.moving_mean, self.moving_variance
                mean, variance = (ops.cast(each, dtype) for each in moving)
            return normalize(inputs, gamma, beta, mean, variance), mean, variance

        kept = (inputs, *(ops.cast(each, dtype) for each in self._gamma_and_beta()))
        if keras.backend.backend() == "torch":
            # Which would keep the differences from the mean.
            normalize_batch = keras.remat(normalize_batch)
        outputs, mean, variance = normalize_batch(*kept)
        if self.trainable:
            self._update(mean, variance)
        set_source(outputs, Source((*kept, mean, variance), normalize))
        return outputs

    def _gamma_and_beta(self) -> tuple[Tensor, Tensor]:
        """Return scale and shift, which do nothing where the layer has none."""
        channels = self.moving_mean.shape
        gamma = value_of(self.gamma) if self.scale else ops.ones(channels)
        beta = value_of(self.beta) if self.center else ops.zeros(channels)
        return gamma, beta

    def _update(self, mean: Tensor, variance: Tensor) -> None:
        for moving, value in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(moving * self.momentum + value * (1 - self.momentum))

    def get_config(self) -> dict[str, Any]:
        """Return the arguments, serialized."""
        # Only where it is set, so that other files remain those of earlier versions.
        own = {"rematerialize": True} if self.rematerialize else {}
        return {**super().get_config(), **own}
