"""Recomputation of a layer's inside in the backward pass, which saves memory."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_preact.ops.pure_call import pure_call
from keras_preact.tensor import Tensor


@keras.saving.register_keras_serializable(package="keras_preact")
class Rematerialized(keras.layers.Wrapper):
    """Layer of which only the input is kept for the backward pass (arXiv:1604.06174).

    Outputs, losses, gradients and updates of moving statistics are those of the layer itself: its
    variables go in and come out as tensors, so that computing twice updates once, and random
    layers draw the same masks again.

    Args:
        layer: A layer or a model with one input and one output.
        **kwargs: As for `keras.layers.Wrapper`.
    """

    def __init__(self, layer: keras.layers.Layer, **kwargs: Any) -> None:
        super().__init__(layer, **kwargs)
        self.autocast = False

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Build the layer, by a call, since not every one has a `build` that does."""
        if not self.layer.built:
            self._symbolic_output(keras.KerasTensor(input_shape))

    def call(self, inputs: Tensor, training: bool = False) -> Tensor:
        if not training:
            return self.layer(inputs, training=False)
        variables = self.layer.variables
        states = self._states(variables)
        # Tensors apart from the variables: torch updates those in place before the inside is
        # computed again, and TensorFlow would differentiate by a variable twice.
        current = [ops.copy(each) for each in variables]

        def compute(x: Tensor, *trained: Tensor) -> tuple[Tensor, ...]:
            remaining = iter(trained)
            values = [
                next(remaining) if variable.trainable else value
                for variable, value in zip(variables, current, strict=True)
            ]
            outputs, values, losses = pure_call(self.layer, variables, values, x, training=True)
            return outputs, *(ops.stop_gradient(values[index]) for index in states), *losses

        trained = [
            value for variable, value in zip(variables, current, strict=True) if variable.trainable
        ]
        outputs, *others = keras.remat(compute)(inputs, *trained)
        updates, losses = others[: len(states)], others[len(states) :]
        for index, value in zip(states, updates, strict=True):
            variables[index].assign(value)
        self.add_loss(losses)
        return outputs

    def _states(self, variables: list[keras.Variable]) -> list[int]:
        """Return the indices of the variables that a training step changes by itself."""
        # Frozen, the inside still draws new masks.
        fixed = set() if self.trainable else {id(each) for each in self.layer.weights}
        return [
            index
            for index, each in enumerate(variables)
            if not each.trainable and id(each) not in fixed
        ]

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return self._symbolic_output(keras.KerasTensor(input_shape)).shape

    def compute_output_spec(
        self, inputs: keras.KerasTensor, training: bool = False
    ) -> keras.KerasTensor:
        return self._symbolic_output(inputs)

    def _symbolic_output(self, inputs: keras.KerasTensor) -> keras.KerasTensor:
        """Call the layer outside the graph that this one is in, which builds it, too."""
        return self.layer(keras.KerasTensor(inputs.shape, inputs.dtype))
