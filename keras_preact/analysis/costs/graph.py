"""Calls of layers in a functional model, with the shapes that follow from a given input."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
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
        kept_input: Input of the unit that it is a part of, where training keeps nothing else of it.
    """

    layer: Any
    name: str
    inputs: tuple[Tensor, ...]
    output: Tensor
    units: int = 1
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
    _walk(model, [inputs], recorded.append)
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


def _walk(
    model: keras.Model,
    inputs: list[Tensor],
    record: Callable[[Call], None],
    rename: Callable[[str], str] = str,
    units: int = 1,
    kept_input: Tensor | None = None,
) -> Tensor:
    """Record the calls that a model makes of its layers; return its output."""

    def called(layer: Any) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            tensors = tuple(_tensors([arguments, options]))
            part = functional(layer.layer if isinstance(layer, Rematerialized) else layer)
            rematerializes = isinstance(layer, Rematerialized) or (
                isinstance(part, StackedUnits) and part.rematerialize
            )
            unit_input = tensors[0] if rematerializes else kept_input
            if isinstance(part, StackedUnits):
                own_name = rename(part.name)
                return _walk(
                    part.unit_model(),
                    [*tensors, *part.unit_model().inputs[1:]],
                    record,
                    lambda name: f"{own_name}_{name.removeprefix(TEMPLATE_PREFIX)}",
                    units * len(part.unit_names),
                    unit_input,
                )
            if isinstance(part, keras.Model) and hasattr(part, "_run_through_graph"):
                prefix = inside("", part.name)
                return _walk(
                    part,
                    list(tensors),
                    record,
                    lambda name: rename(prefix + name),
                    units,
                    unit_input,
                )
            output = layer.compute_output_spec(*arguments, **options)
            first = next(iter(_tensors(output)))
            record(Call(layer, rename(layer.name), tensors, first, units, kept_input))
            return output

        return call

    # The walk that a functional model's own shape inference makes.
    return model._run_through_graph(inputs, operation_fn=called)


def _tensors(value: Any) -> Iterable[Tensor]:
    return [each for each in keras.tree.flatten(value) if isinstance(each, keras.KerasTensor)]
