"""Nested models: units and encoder blocks that are models of their own, so that graphs stay flat.

Keras walks a graph recursively, and Python's default recursion limit is about 900 of its steps.
"""

from __future__ import annotations

import keras

from keras_preact.blocks.layer_factory import LayerFactory
from keras_preact.layers import Rematerialized
from keras_preact.spec.fields import Fields
from keras_preact.tensor import Tensor

# The units of the 110- and 164-layer CIFAR nets. A flat unit adds up to 15 steps to the graph's
# depth.
FLAT_UNITS = 54
# Each nested model is one step. Some are left for the rest of the net and for the caller.
SEPARATE_UNITS = 750


def check_separate_units(count: int) -> None:
    """Check that Keras can build a net of so many separate units.

    Args:
        count: Separate units of the net.

    Raises:
        ValueError: If they are too many.
    """
    if count > SEPARATE_UNITS:
        raise ValueError(
            f"A net of {count} separate units is deeper than Keras can build within Python's "
            f"default recursion limit, which leaves room for {SEPARATE_UNITS}. Stack its units: "
            "`scan_units=True`."
        )


def nests(net: Fields) -> bool:
    """Return whether separate units, and the blocks of an encoder, are models of their own."""
    return net.rematerialize or sum(net.units) + net.encoder_depth > FLAT_UNITS


def nested(x: Tensor, model: keras.Model, make: LayerFactory) -> Tensor:
    """Apply a nested model, which the backward pass computes again with `rematerialize`."""
    if make.net.rematerialize:
        return Rematerialized(model, dtype=make.dtype, name=model.name)(x)
    return model(x)
