"""Nested models: units and blocks of an encoder that are models, so that Keras can walk the graph.

Keras walks a graph recursively when it makes a model of it, and Python's default recursion limit is
1000 frames. The walk goes from the outputs against the edges, first through the first input of
each layer, and through each layer once. A unit's shortcut is the first input of its addition or
concatenation, so the walk takes few steps per unit, whatever the branch holds: one where the
shortcut is the identity. A nested model is one step always.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Any, TypeVar

import keras

from keras_preact.blocks.layer_factory import LayerFactory
from keras_preact.layers import Rematerialized
from keras_preact.tensor import Tensor

# The rest of the frames is for Keras around its walk, about 30, and for the caller.
DEEPEST_GRAPH = 750
_TOO_DEEP = (
    "{} is deeper than Keras can build within Python's default recursion limit, which leaves room "
    f"for {DEEPEST_GRAPH}. Stack its units: `scan_units=True`."
)

Step = TypeVar("Step", bound=Hashable)


def walk_depth(ends: Iterable[Step], sources: Callable[[Step], Iterable[Step]]) -> int:
    """Return the number of frames that Keras's walk through a graph takes at most.

    Args:
        ends: The calls of layers that give the outputs, in their order.
        sources: Returns the calls that give the inputs of a call, in their order.
    """
    seen, walk, deepest = set(), [iter(ends)], 0
    while walk:
        deepest = max(deepest, len(walk) - 1)
        step = next(walk[-1], None)
        if step is None:
            walk.pop()
        elif step not in seen:
            seen.add(step)
            walk.append(iter(sources(step)))
    return deepest


def graph_depth(output: Tensor) -> int:
    """Return the number of frames that Keras's walk through the graph of a tensor takes at most."""
    return walk_depth(_calls([output]), lambda call: _calls(call.input_tensors))


def _calls(tensors: Iterable[Tensor]) -> Iterator[Any]:
    for tensor in tensors:
        operation, index, _ = tensor._keras_history
        yield operation._inbound_nodes[index]


def is_too_deep(depth: int) -> bool:
    """Return whether Keras cannot build a graph that it walks in so many steps."""
    return depth > DEEPEST_GRAPH


def check_separate_units(count: int) -> None:
    """Check that Keras can build a net of so many separate units.

    Args:
        count: Separate units of the net.

    Raises:
        ValueError: If they are too many.
    """
    if is_too_deep(count):
        raise ValueError(_TOO_DEEP.format(f"A net of {count} separate units"))


def check_depth(depth: int) -> None:
    """Check that Keras can build a net whose graph it walks in so many steps.

    Raises:
        ValueError: If they are too many.
    """
    if is_too_deep(depth):
        raise ValueError(_TOO_DEEP.format(f"A net whose graph is {depth} steps deep"))


def nested(x: Tensor, model: keras.Model, make: LayerFactory) -> Tensor:
    """Apply a nested model, which the backward pass computes again with `rematerialize`."""
    if make.net.rematerialize is True:
        return Rematerialized(model, dtype=make.dtype, name=model.name)(x)
    return model(x)
