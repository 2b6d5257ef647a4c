"""Nets for images of another size or another number of channels."""

from __future__ import annotations

import keras
import numpy as np

from keras_preact.composition import (
    before_net,
    functional,
    named_layers,
    nested_net,
    only_net,
    required_functional,
)
from keras_preact.images.resampling import cubic
from keras_preact.input_channels import adapt_convolution
from keras_preact.layer_names import block_of, data_format, first_convolution, has_stages
from keras_preact.layers import SelfAttention2D, TokenEmbedding
from keras_preact.loss_scaling import scaling_when_compiled
from keras_preact.named_weights import NamedWeights, named_weights, set_named_weights
from keras_preact.spec.rules import POSITIVE_INTEGER, is_positive_integer, plain
from keras_preact.transforms.graph_config import Config, functional_config, layers_of, nested_graph


def adapt_input_channels(model: keras.Model, channels: int) -> keras.Model:
    """Build the same net for another number of channels, its first convolution adapted.

    `keras_preact.weights.adapt_kernel` says how. Every other weight is copied, but for the gain of
    a scaled standardized convolution. Where layers before the net spread one channel over several,
    as a normalization per channel does, the first convolution stays as it is.

    Args:
        model: A net built by this package, or a functional model that contains its layers or such a
            net, with one input.
        channels: Channels of the new input.

    Returns:
        A model with weights of its own, not compiled. Height and width of its input are `model`'s.

    Raises:
        ValueError: If the model is no such net or has several inputs, layers before the net do not
            take images of so many channels, or `channels` is not a positive integer.
    """
    channels = POSITIVE_INTEGER.check("channels", channels)
    net = only_net(model)
    required_functional(model)
    first = first_convolution(net)
    path = next(path for path, layer in named_layers(model) if layer is first)
    axis = 1 if first.data_format == "channels_first" else 3
    named = named_weights(model)
    # Each layer has its own errors for an input of another shape.
    try:
        result = _with_input(model, {axis: channels})
        arriving = _channels_into(result, axis)
        # Of one channel, layers before the net may make as many as ever.
        if arriving != first.kernel.shape[2]:
            named[path] = adapt_convolution(first, named[path], arriving)
        set_named_weights(result, named)
    except Exception as error:
        raise ValueError(_unfit(model, channels, error)) from error
    return result


def _channels_into(model: keras.Model, axis: int) -> int:
    """Count the channels that come into a net's first convolution, by a blank image."""
    shape = [size or 1 for size in model.inputs[0].shape]
    return before_net(model)(np.zeros(shape, "float32")).shape[axis]


def _unfit(model: keras.Model, channels: int, error: Exception) -> str:
    before = [each.name for each in before_net(model).operations[1:]]
    reason = (
        f"The layers before its first convolution, {before}, must take images of as many channels: "
        "one that normalizes has a value per channel. Leave it out, and normalize the images"
    )
    return (
        f"{model.name!r} cannot be built for {channels} channels. {reason if before else ''}. "
        f"{error}"
    )


def resize_input(model: keras.Model, height: int, width: int) -> keras.Model:
    """Build the same net for images of another size, its encoder's positions resized.

    The positions of a transformer encoder's tokens, an image of the embeddings' width in channels,
    are resized by bicubic interpolation with anti-aliasing, as in timm. That of the class token is
    kept, and every other weight is copied. A net without an encoder only gets another input.

    Args:
        model: A net built by this package, or a functional model that contains its layers or such a
            net, with one input of known height and width. It has no `SelfAttention2D`, whose
            embeddings are of distances, which stay the same in pixels.
        height: Height of the new input, in pixels.
        width: Width of the new input, in pixels.

    Returns:
        A model with weights of its own, not compiled.

    Raises:
        ValueError: If the model is no such net or has several inputs, or the size is not of
            positive integers.
    """
    height, width = plain((height, width))
    if not (is_positive_integer(height) and is_positive_integer(width)):
        raise ValueError(
            "`height` and `width` must be positive integers. "
            f"Received: height={height!r}, width={width!r}"
        )
    net = only_net(model)
    _check_layers(model)
    axes = (2, 3) if data_format(net) == "channels_first" else (1, 2)
    result = _with_input(model, dict(zip(axes, (height, width), strict=True)))
    named = named_weights(model)
    for (path, old), (_, new) in zip(
        token_embeddings(model), token_embeddings(result), strict=True
    ):
        resize_positions(named, path, token_grid(old), token_grid(new))
    set_named_weights(result, named)
    return result


def _with_input(model: keras.Model, sizes: dict[int, int]) -> keras.Model:
    """Build a net anew with other sizes along some axes of its one input."""
    model = required_functional(model)
    if len(model.inputs) != 1:
        raise ValueError(
            f"`model` must have one input. Received: {model.name!r}, which has {len(model.inputs)}"
        )
    shape = list(model.inputs[0].shape)
    for axis, size in sizes.items():
        shape[axis] = size
    return scaling_when_compiled(type(model).from_config(_config_for(model, tuple(shape))))


def _config_for(model: keras.Model, input_shape: tuple[int | None, ...]) -> Config:
    """Return the configuration of a model for an input of another shape, and of the net in it."""
    config = functional_config(model)
    for layer in config["layers"]:
        _rebuild(layer, input_shape)
    if not has_stages(functional(model)):
        net = nested_net(functional(model))
        arriving = _arriving(functional(model), net.input, input_shape)
        (layer,) = (each for each in config["layers"] if each["name"] == net.model.name)
        layer["config"] = _config_for(net.model, arriving)
    return config


def _arriving(
    model: keras.Model, tensor: keras.KerasTensor, input_shape: tuple[int | None, ...]
) -> tuple[int | None, ...]:
    """Return the shape that a tensor in a model gets from an input of another shape."""
    # Keras 3.12 builds no model without a layer.
    if tensor is model.input:
        return input_shape
    before = functional_config(keras.Model(model.inputs, tensor))
    for layer in before["layers"]:
        _rebuild(layer, input_shape)
    return keras.Model.from_config(before).output.shape


def _rebuild(layer: Config, input_shape: tuple[int | None, ...]) -> None:
    """Take the shapes out of a layer's configuration, so that it is built for a new input."""
    layer.pop("build_config", None)
    if "batch_shape" in layer["config"]:
        layer["config"]["batch_shape"] = input_shape
    if block_of(layer["name"]) is not None:
        for _, block in nested_graph(layer, ""):
            _take_any_tokens(block)


def _take_any_tokens(block: Config) -> None:
    """Let a block of an encoder that is a nested model take any number of tokens."""
    for layer in layers_of(block, (keras.layers.InputLayer,)):
        batch, _, width = layer["config"]["batch_shape"]
        layer["config"]["batch_shape"] = (batch, None, width)


def _check_layers(model: keras.Model) -> None:
    attends = any(isinstance(layer, SelfAttention2D) for _, layer in named_layers(model))
    if attends:
        raise ValueError(
            f"{model.name!r} has layers `SelfAttention2D`, whose embeddings are of distances in "
            "pixels: it cannot be resized. Build it anew with the other `input_shape`."
        )


def token_embeddings(model: keras.Model) -> list[tuple[str, TokenEmbedding]]:
    """Return the layers that make tokens of a net's maps, each with its path."""
    return [each for each in named_layers(model) if isinstance(each[1], TokenEmbedding)]


def token_grid(layer: TokenEmbedding) -> tuple[int, int]:
    """Return height and width of the maps that go into a layer."""
    first = layer.data_format == "channels_first"
    return tuple(layer.input.shape[2:] if first else layer.input.shape[1:3])


def resize_positions(
    named: NamedWeights, path: str, old: tuple[int, int], new: tuple[int, int]
) -> None:
    """Resize the positions of a grid of tokens among the weights of a net, in place.

    Args:
        named: The weights.
        path: Path of the layer that makes the tokens, `TokenEmbedding`.
        old: Height and width of the grid.
        new: Height and width that it gets. The same leave the positions bit for bit.
    """
    class_token, positions = named[path].values()
    named[path] = {"0": class_token, "1": _resized(positions, old, new)}


def _resized(positions: np.ndarray, old: tuple[int, int], new: tuple[int, int]) -> np.ndarray:
    """Resize positions `(1, 1 + height * width, channels)`, the first of the class token."""
    if old == new:
        return positions
    class_token, grid = positions[:, :1], positions[:, 1:].reshape(*old, -1)
    rows, columns = (_bicubic(*lengths) for lengths in zip(old, new, strict=True))
    grid = np.einsum("yh,xw,hwc->yxc", rows, columns, grid, optimize=True)
    grid = grid.reshape(1, -1, grid.shape[-1]).astype(positions.dtype)
    return np.concatenate([class_token, grid], axis=1)


def _bicubic(length: int, target: int) -> np.ndarray:
    """Return the weight of each of `length` places in each of `target`, by Pillow's rule."""
    scale = length / target
    stretch = max(scale, 1.0)
    centers = (np.arange(target) + 0.5) * scale
    distance = np.abs(np.arange(length) + 0.5 - centers[:, np.newaxis]) / stretch
    weights = np.where(distance < 2, cubic(distance, np.where), 0.0)
    return weights / weights.sum(axis=1, keepdims=True)
