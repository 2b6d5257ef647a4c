"""Lesion studies: what a net loses with some of its units gone or moved (arXiv:1605.06431).

A net of identity shortcuts is, unit by unit, a sum: it loses little by any one of its terms.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_preact.analysis.chain import Chain, ResidualUnit, take_apart


def scores_without(model: keras.Model, x: Any, units: Sequence[str]) -> np.ndarray:
    """The scores of a net some of whose units are taken out.

    Args:
        model: A net built by this package, of separate or stacked units.
        x: Images `(batch, height, width, channels)`, or with the channels first.
        units: Names of the units to leave out, such as `["stage2_unit3"]`; they must leave the
            shape as it is.

    Returns:
        The net's outputs in inference.

    Raises:
        ValueError: If the net has no such unit, or one changes the shape.
    """
    chain = take_apart(model)
    _check_removable(chain, units)
    return _scores(chain, [each for each in chain.units if each.name not in units], x)


def scores_with_order(model: keras.Model, x: Any, order: Sequence[str]) -> np.ndarray:
    """The scores of a net whose units come in another order.

    Args:
        model: A net built by this package, of separate or stacked units.
        x: Images `(batch, height, width, channels)`, or with the channels first.
        order: Names of all its units; those that change the shape must stay in their places.

    Returns:
        The net's outputs in inference.

    Raises:
        ValueError: If the names are not those of the net's units, or the shapes do not fit.
    """
    chain = take_apart(model)
    units = {unit.name: unit for unit in chain.units}
    if sorted(order) != sorted(units):
        raise ValueError(f"`order` must name every unit once, {list(units)}. Received: {order}")
    moved = [old for old, new in zip(units, order, strict=True) if old != new]
    _check_removable(chain, moved)
    return _scores(chain, [units[name] for name in order], x)


def _check_removable(chain: Chain, names: Sequence[str]) -> None:
    removable = [unit.name for unit in chain.units if unit.keeps_shape]
    if strays := [name for name in names if name not in removable]:
        raise ValueError(
            f"Only units that leave the shape as it is may go or move: {removable}. "
            f"Received: {strays}"
        )


def _scores(chain: Chain, units: Sequence[ResidualUnit], x: Any) -> np.ndarray:
    x = chain.stem(x)
    for unit in units:
        x = unit(x)
    return ops.convert_to_numpy(chain.head(x))
