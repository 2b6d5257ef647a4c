"""Norms without moving statistics, whose insides and outputs need not be kept."""

from __future__ import annotations

import abc
from typing import Any

import keras

from keras_preact.ops.custom_gradient import value_of
from keras_preact.ops.pure_call import pure_call
from keras_preact.ops.recomputation import Source, set_source
from keras_preact.tensor import Tensor


class RecomputedNorm(keras.layers.Layer):
    """Base of norms of which training may keep the inputs only.

    Args:
        *args: As for the norm.
        rematerialize: Whether the backward pass computes the norm again, and with it the activation
            and the input of the convolution that follow it
            (`keras_preact.ops.recomputation`).
        **kwargs: As for the norm.
    """

    def __init__(self, *args: Any, rematerialize: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.rematerialize = rematerialize

    @abc.abstractmethod
    def normalize(self, inputs: Tensor) -> Tensor:
        """Return the norm's outputs."""

    def call(self, inputs: Tensor, training: bool = False) -> Tensor:
        if not (training and self.rematerialize):
            return self.normalize(inputs)
        # Not those that the layer lists, which in stacked units are others.
        variables = [each for each in vars(self).values() if isinstance(each, keras.Variable)]
        values = [value_of(each) for each in variables]

        def compute(inputs: Tensor, *values: Tensor) -> Tensor:
            # As a layer, which casts its variables in the backward pass as well.
            return pure_call(self, variables, values, inputs, training=False)[0]

        outputs = keras.remat(compute)(inputs, *values)
        set_source(outputs, Source((inputs, *values), compute))
        return outputs

    def get_config(self) -> dict[str, Any]:
        """Return the arguments, serialized."""
        # Only where it is set, so that other files remain those of earlier versions.
        own = {"rematerialize": True} if self.rematerialize else {}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable(package="keras_preact")
class GroupNormalization(RecomputedNorm, keras.layers.GroupNormalization):
    """`keras.layers.GroupNormalization` that can be rematerialized, see `RecomputedNorm`."""

    def normalize(self, inputs: Tensor) -> Tensor:
        return keras.layers.GroupNormalization.call(self, inputs)


@keras.saving.register_keras_serializable(package="keras_preact")
class LayerNormalization(RecomputedNorm, keras.layers.LayerNormalization):
    """`keras.layers.LayerNormalization` that can be rematerialized, see `RecomputedNorm`."""

    def normalize(self, inputs: Tensor) -> Tensor:
        return keras.layers.LayerNormalization.call(self, inputs)
