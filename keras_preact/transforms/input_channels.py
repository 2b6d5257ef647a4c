"""The same net for images of another number of channels."""

from __future__ import annotations

import keras

from keras_preact.layer_names import first_convolution, stage_numbers
from keras_preact.transforms.config import functional_config
from keras_preact.weights.input_channels import adapt_kernel, check_channels
from keras_preact.weights.named import named_weights, set_named_weights


def adapt_input_channels(model: keras.Model, channels: int) -> keras.Model:
    """The same net for images of another number of channels, its first convolution adapted.

    `keras_preact.weights.adapt_kernel` says how. Every other weight is copied.

    Args:
        model: A net built by this package, or a functional model that contains its layers, with one
            input.
        channels: Channels of the new input.

    Returns:
        A model with weights of its own, not compiled; height and width of its input are `model`'s.

    Raises:
        ValueError: If the model is no such net or has several inputs, or `channels` is not a
            positive integer.
    """
    check_channels(channels)
    stage_numbers(model)
    config = functional_config(model)
    if len(model.inputs) != 1:
        raise ValueError(
            f"`model` must have one input. Received: {model.name!r}, which has {len(model.inputs)}"
        )
    first = first_convolution(model)
    axis = 1 if first.data_format == "channels_first" else 3
    shape = list(model.inputs[0].shape)
    shape[axis] = channels
    for layer in config["layers"]:
        # Shapes that layers were built with; calling them on the new input builds them anew.
        layer.pop("build_config", None)
        if "batch_shape" in layer["config"]:
            layer["config"]["batch_shape"] = tuple(shape)
    result = type(model).from_config(config)
    named = named_weights(model)
    named[first.name] = {
        key: adapt_kernel(array, channels) if array.ndim == 4 else array
        for key, array in named[first.name].items()
    }
    set_named_weights(result, named)
    return result
