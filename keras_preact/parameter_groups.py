"""Groups of a net's variables, for weight decay and for learning rates that depend on depth."""

from __future__ import annotations

from typing import Any

import keras

from keras_preact.composition import nets
from keras_preact.layer_names import (
    block_of,
    expression_of,
    in_encoder,
    net_paths,
    stage_numbers,
    stage_of,
)


def decayed_variables(model: keras.Model) -> list[Any]:
    """Return the kernels of convolutions and dense layers, which the papers' weight decay is for.

    Scales and shifts of norms, and biases, are left out. To use it with a Keras optimizer, exclude
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


def layer_depths(model: keras.Model) -> dict[str, int]:
    """Return the depth of each trainable variable, for layer-wise learning-rate decay.

    The rule, from BEiT (arXiv:2106.08254), multiplies the learning rate of a variable by
    `decay ** (deepest - depth)`. The depth is 0 for the stem, 1 for stage 2, and so on, then one
    more for the head and every layer that is not part of the net's body. Depths by unit would
    differ between stacked units, whose variables hold all units, and separate ones. The token
    embedding of a transformer encoder comes after the last stage, then each of its blocks, as in
    BEiT; its last norm belongs to the head.

    Args:
        model: A net built by this package, or a functional model that contains its layers or such
            nets.

    Returns:
        Depth by `variable.path`, in the order of `model.trainable_variables`. Variables of two nets
        may have one path and one depth. Frozen variables are left out, and do not change the depth
        of the others.

    Raises:
        ValueError: If the model is no such net, or two of its variables have the same path and
            different depths, as in two nets of which one has more stages.
    """
    depths: dict[int, int] = {}
    others = 0
    for net in nets(model):
        last = stage_numbers(net)[-1]
        head = _head_depth(net, last)
        others = max(others, head)
        for layer in net.layers:
            depth = _depth(layer.name, last, head)
            depths |= {id(variable): depth for variable in layer.trainable_variables}
    by_path: dict[str, int] = {}
    for variable in model.trainable_variables:
        depth = depths.get(id(variable), others)
        if by_path.setdefault(variable.path, depth) != depth:
            raise ValueError(
                "Variables of one path must have one depth: take the depths of each net by itself, "
                f"such as {expression_of(net_paths(model)[0])}. Received: {model.name!r} with "
                f"depths {by_path[variable.path]} and {depth} of {variable.path!r}"
            )
    return by_path


def _head_depth(net: keras.Model, last: int) -> int:
    """Return the depth of a net's head, which comes after the encoder, if there is one."""
    blocks = max((block_of(layer.name) or 0 for layer in net.layers), default=0)
    return last + blocks + 1 if blocks else last


def _depth(name: str, last: int, head: int) -> int:
    """Return the depth of a layer in a net of so many stages, whose head has a depth."""
    if in_encoder(name) and name != "encoder_norm":
        return last + (block_of(name) or 0)
    stage = stage_of(name)
    return stage - 1 if stage else head
