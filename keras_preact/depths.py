"""How deep in a net each variable lies, which layer-wise decay of the learning rate goes by."""

from __future__ import annotations

import keras

from keras_preact.layer_names import block_of, in_encoder, stage_numbers, stage_of


def layer_depths(model: keras.Model) -> dict[str, int]:
    """The depth of each variable that trains, for a learning rate that falls towards the input.

    The rule, from BEiT (arXiv:2106.08254), multiplies the learning rate of a variable by
    `decay ** (deepest - depth)`. The groups are the stages: 0 the stem, 1 stage 2 and so on, then
    the head with every layer that is not of the net's body. A finer grouping, by unit, would not be
    the same for stacked units, of which one variable holds all. A transformer encoder's embedding
    of tokens is a group after the last stage, then each of its blocks, as in BEiT; its last norm
    goes with the head.

    Args:
        model: A net built by this package, or a functional model that contains its layers.

    Returns:
        Depth by `variable.path`, in the order of `model.trainable_variables`. What is frozen is
        left out; it does not change the depth of the rest.

    Raises:
        ValueError: If the model is no such net, or two of its variables have the same path.
    """
    groups = _groups(model)
    depths = {
        id(variable): groups[layer.name]
        for layer in model.layers
        for variable in layer.trainable_variables
    }
    by_path: dict[str, int] = {}
    for variable in model.trainable_variables:
        if variable.path in by_path:
            raise ValueError(
                f"Two variables of {model.name!r} have the path {variable.path!r}. "
                "Give their layers different names."
            )
        by_path[variable.path] = depths[id(variable)]
    return by_path


def _groups(model: keras.Model) -> dict[str, int]:
    """The depth of each layer, by its name."""
    last = stage_numbers(model)[-1]
    names = [layer.name for layer in model.layers]
    blocks = max((block_of(name) or 0 for name in names), default=0)
    head = last + blocks + 1 if blocks else last

    def depth(name: str) -> int:
        if in_encoder(name) and name != "encoder_norm":
            return last + (block_of(name) or 0)
        stage = stage_of(name)
        return stage - 1 if stage else head

    return {name: depth(name) for name in names}
