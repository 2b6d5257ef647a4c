"""Which weights a weight decay applies to."""

from __future__ import annotations

from typing import Any

import keras


def decayed_variables(model: keras.Model) -> list[Any]:
    """The kernels of a net's convolutions and dense layers: what its papers' weight decay is for.

    Scales and shifts of norms, and biases, are left out. To use it with a Keras optimiser, exclude
    the rest before training:

        kernels = {id(variable) for variable in keras_preact.decayed_variables(model)}
        optimizer.exclude_from_weight_decay(
            [variable for variable in model.trainable_variables if id(variable) not in kernels]
        )

    Args:
        model: A built model.

    Returns:
        The trainable variables named `kernel`, or `…_kernel` where units are stacked, in the order
        of `model.trainable_variables`.
    """
    return [each for each in model.trainable_variables if each.name.split("_")[-1] == "kernel"]
