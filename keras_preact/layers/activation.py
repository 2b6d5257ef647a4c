"""Activation that the backward pass computes again."""

from __future__ import annotations

import keras

from keras_preact.ops.recomputation import recomputed, set_source, source_of
from keras_preact.tensor import Tensor


@keras.saving.register_keras_serializable(package="keras_preact")
class Activation(keras.layers.Activation):
    """`keras.layers.Activation` whose output after a rematerialized norm is not kept.

    The backward pass computes it again, for its own gradient and for the convolution that follows.
    After any other layer it is kept. It takes the arguments of the Keras layer.
    """

    def call(self, inputs: Tensor) -> Tensor:
        source = source_of(inputs)
        if source is None or self.activation is keras.activations.linear:
            return super().call(inputs)
        outputs = recomputed(self.activation, inputs)
        set_source(outputs, source.then(self.activation))
        return outputs
