"""Calls of layers in a functional model, with the shapes that follow from a given input."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import keras

from keras_preact.composition import functional, required_functional
from keras_preact.layer_names import inside
from keras_preact.layers import Rematerialized, StackedUnits
from keras_preact.layers.stacked_units import TEMPLATE_PREFIX
from keras_preact.tensor import Tensor

Shape = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Call:
    """Call of a layer, or of a template's layer for all the units of a stack.

    Attributes:
        layer: Layer that is called.
        name: Its path; in a stack, with the stack's name in place of the unit's.
        inputs: Symbolic tensors that go in.
        output: The symbolic tensor that comes out; the first, where there are several.
        units: How many units make the call, each with weights of its own.
        frames: How many frames it is made for, each with the same weights, in a
            `keras.layers.TimeDistributed`.
        kept_input: Input of the unit that it is a part of, where training keeps nothing else of it.
    """

    layer: Any
    name: str
    inputs: tuple[Tensor, ...]
    output: Tensor
    units: int = 1
    frames: int = 1
    kept_input: Tensor | None = None


def calls(model: keras.Model, input_shape: Shape | None = None) -> list[Call]:
    """List every call of a layer, also inside nested models and stacked units.

    Nothing is computed and the model is left as it is.

    Args:
        model: A functional model with one input.
        input_shape: Shape of one example, without unknown sizes; by default the model's own.

    Returns:
        The calls, each after those it takes its inputs from.

    Raises:
        ValueError: If the model is not functional, or the shape is unknown or does not fit.
    """
    model = required_functional(model)
    given = _checked_shape(model, input_shape)
    recorded: list[Call] = []
    inputs = keras.KerasTensor((None, *given), dtype=model.inputs[0].dtype)
    _Walk(recorded.append).through(model, [inputs])
    return recorded


def _checked_shape(model: keras.Model, input_shape: Shape | None) -> Shape:
    if len(model.inputs) != 1:
        raise ValueError(
            f"`model` must have one input. Received: {model.name!r} with {len(model.inputs)}"
        )
    own = tuple(model.inputs[0].shape[1:])
    given = own if input_shape is None else tuple(input_shape)
    fits = len(given) == len(own) and all(
        theirs in (None, ours) for theirs, ours in zip(own, given, strict=True)
    )
    if None in given or not fits:
        raise ValueError(
            f"`input_shape` must be the whole shape of an example that {model.name!r} takes, "
            f"{own}. Received: {input_shape}"
        )
    return given


@dataclass(frozen=True)
class _Walk:
    """Records the calls that a model, or one in it, makes of its layers.

    Attributes:
        record: Takes each call.
        rename: From a layer's name in the model to its path.
        units: As in `Call`.
        frames: As in `Call`.
        kept_input: As in `Call`.
    """

    record: Callable[[Call], None]
    rename: Callable[[str], str] = str
    units: int = 1
    frames: int = 1
    kept_input: Tensor | None = None

    def through(self, model: keras.Model, inputs: list[Tensor]) -> Any:
        """Record the calls that a model makes; return its output."""
        # The walk that a functional model's own shape inference makes.
        return model._run_through_graph(inputs, operation_fn=self._called)

    def _called(self, layer: Any) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            tensors = _tensors([arguments, options])
            if isinstance(layer, Rematerialized):
                walk = replace(self._inside(layer), kept_input=tensors[0])
                return walk._called(layer.layer)(*arguments, **options)
            if isinstance(layer, keras.layers.TimeDistributed):
                return self._each_frame(layer, tensors[0])
            part = functional(layer)
            if isinstance(part, StackedUnits):
                return self._units(part, tensors)
            if isinstance(part, keras.Model) and hasattr(part, "_run_through_graph"):
                return self._inside(part).through(part, tensors)
            output = layer.compute_output_spec(*arguments, **options)
            self._record(layer, tuple(tensors), next(iter(_tensors(output))))
            return output

        return call

    def _record(self, layer: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        name = self.rename(layer.name)
        self.record(Call(layer, name, inputs, output, self.units, self.frames, self.kept_input))

    def _inside(self, layer: Any) -> _Walk:
        """Return the walk of what a layer holds."""
        prefix = inside("", layer.name)
        return replace(self, rename=lambda name: self.rename(prefix + name))

    def _units(self, stack: StackedUnits, tensors: list[Tensor]) -> Any:
        own_name, model = self.rename(stack.name), stack.unit_model()
        walk = replace(
            self,
            rename=lambda name: f"{own_name}_{name.removeprefix(TEMPLATE_PREFIX)}",
            units=self.units * len(stack.unit_names),
            kept_input=tensors[0] if stack.rematerialize else self.kept_input,
        )
        return walk.through(model, [*tensors, *model.inputs[1:]])

    def _each_frame(self, layer: keras.layers.TimeDistributed, frames: Tensor) -> Tensor:
        """Record the calls for one frame, and before and after them what parts and joins frames."""
        if None in frames.shape[1:]:
            name = self.rename(layer.name)
            raise ValueError(f"The shape that {name!r} takes is not known: {frames.shape[1:]}")
        frame = keras.KerasTensor((None, *frames.shape[2:]), dtype=frames.dtype)
        self._record(keras.layers.Identity(name=layer.name), (frames,), frame)
        walk = replace(self._inside(layer), frames=self.frames * frames.shape[1])
        output = walk._called(layer.layer)(frame)
        joined = keras.KerasTensor((None, frames.shape[1], *output.shape[1:]), dtype=output.dtype)
        self._record(keras.layers.Identity(name=layer.name), (output,), joined)
        return joined


def _tensors(value: Any) -> list[Tensor]:
    return [each for each in keras.tree.flatten(value) if isinstance(each, keras.KerasTensor)]
