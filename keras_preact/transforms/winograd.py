"""Nets whose 3x3 convolutions multiply less, by Winograd's algorithm."""

from __future__ import annotations

import keras

from keras_preact.composition import layers_by_path
from keras_preact.layers import Conv2D, WinogradConv2D
from keras_preact.named_weights import named_weights
from keras_preact.ops.winograd import LEAST_CHANNELS, transformed_kernel
from keras_preact.transforms.graph_config import functional_config, graphs, insert, rebuilt

# On smaller maps a kernel of four times the size serves few tiles, but for large batches
# (`benchmarks/winograd.py`).
_SIDE = 12


def winograd(model: keras.Model) -> keras.Model:
    """Build the same net with Winograd's algorithm for 3x3 convolutions, where that is faster.

    On a CPU such a convolution takes less time in float32, its outputs differ by about 1e-4 of
    their magnitude, and its kernel takes four times the memory. It pays in batches: for single
    images the convolution is as fast. GPUs choose such algorithms by themselves.

    Convolutions of stride 1 with at least 128 channels, in and out, on maps of at least 12x12
    pixels are replaced; all others stay as they are, as do the names of all layers.

    Args:
        model: A functional model with a known size of image, channels last, such as
            `keras_preact.transforms.fold` gives.

    Returns:
        A model with weights of its own, for inference; not compiled.

    Raises:
        ValueError: If the model is not functional, or has no such convolution.
    """
    config = functional_config(model)
    weights = named_weights(model)
    layers = dict(layers_by_path(model))
    replaced = {
        path: layer
        for prefix, graph in graphs(config)
        for layer in graph["layers"]
        if (path := prefix + layer["name"]) in layers and _is_faster(layers[path])
    }
    if not replaced:
        raise ValueError(
            f"{model.name!r} has no convolution that Winograd's algorithm makes faster: 3x3, of "
            f"stride 1, in float32, channels last, with {LEAST_CHANNELS} channels or more on "
            f"maps of a known size of {_SIDE}x{_SIDE} pixels or more."
        )
    for path, layer in replaced.items():
        old = layers[path]
        new = WinogradConv2D(old.filters, old.use_bias, name=old.name, dtype=old.dtype_policy)
        insert(layer, new)
        weights[path] = {**weights[path], "0": transformed_kernel(weights[path]["0"])}
    return rebuilt(model, config, weights)


def _is_faster(layer: keras.layers.Layer) -> bool:
    if type(layer) not in (Conv2D, keras.layers.Conv2D) or layer.data_format != "channels_last":
        return False
    _, height, width, channels = layer.input.shape
    return (
        layer.kernel_size == (3, 3)
        and layer.strides == layer.dilation_rate == (1, 1)
        and layer.padding == "same"
        and layer.groups == 1
        and layer.activation in (None, keras.activations.linear)
        and layer.compute_dtype == "float32"
        and min(channels, layer.filters) >= LEAST_CHANNELS
        and min(height or 0, width or 0) >= _SIDE
    )
