"""How deep in a net each variable lies, which layer-wise decay of the learning rate goes by."""

from __future__ import annotations

import keras

from keras_preact.layer_names import stage_numbers, stage_of


def layer_depths(model: keras.Model) -> dict[str, int]:
    """The depth of each variable that trains, for a learning rate that falls towards the input.

    The rule, from BEiT (arXiv:2106.08254), multiplies the learning rate of a variable by
    `decay ** (deepest - depth)`. The groups are the stages: 0 the stem, 1 stage 2 and so on, then
    the head with every layer that is not of the net's body. A finer grouping, by unit, would not be
    the same for stacked units, of which one variable holds all.

    Args:
        model: A net built by this package, or a functional model that contains its layers.

    Returns:
        Depth by `variable.path`, in the order of `model.trainable_variables`. What is frozen is
        left out; it does not change the depth of the rest.

    Raises:
        ValueError: If the model is no such net, or two of its variables have the same path.
    """
    head = stage_numbers(model)[-1]
    depths = {
        id(variable): (stage_of(layer.name) or head + 1) - 1
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
