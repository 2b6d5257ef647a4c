"""Nets for images of another size or another number of channels."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_preact.images.resampling import cubic
from keras_preact.input_channels import adapt_kernel
from keras_preact.layer_names import data_format, first_convolution, stage_numbers
from keras_preact.layers import SelfAttention2D, TokenEmbedding
from keras_preact.named_weights import named_weights, set_named_weights
from keras_preact.spec.rules import POSITIVE_INTEGER, is_positive_integer, plain
from keras_preact.transforms.graph_config import functional_config


def adapt_input_channels(model: keras.Model, channels: int) -> keras.Model:
    """Build the same net for another number of channels, its first convolution adapted.

    `keras_preact.weights.adapt_kernel` says how. Every other weight is copied.

    Args:
        model: A net built by this package, or a functional model that contains its layers, with one
            input.
        channels: Channels of the new input.

    Returns:
        A model with weights of its own, not compiled. Height and width of its input are `model`'s.

    Raises:
        ValueError: If the model is no such net or has several inputs, or `channels` is not a
            positive integer.
    """
    channels = POSITIVE_INTEGER.check("channels", channels)
    stage_numbers(model)
    axis = 1 if data_format(model) == "channels_first" else 3
    result = _with_input(model, {axis: channels})
    named = named_weights(model)
    first = first_convolution(model).name
    named[first] = {
        key: adapt_kernel(array, channels) if array.ndim == 4 else array
        for key, array in named[first].items()
    }
    set_named_weights(result, named)
    return result


def resize_input(model: keras.Model, height: int, width: int) -> keras.Model:
    """Build the same net for images of another size, its encoder's positions resized.

    The positions of a transformer encoder's tokens, an image of the embeddings' width in channels,
    are resized by bicubic interpolation with anti-aliasing, as in timm. That of the class token is
    kept, and every other weight is copied. A net without an encoder only gets another input.

    Args:
        model: A net built by this package, or a functional model that contains its layers, with one
            input of known height and width. It has no `SelfAttention2D`, whose embeddings are of
            distances, which stay the same in pixels.
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
    stage_numbers(model)
    _check_layers(model)
    axes = (2, 3) if data_format(model) == "channels_first" else (1, 2)
    result = _with_input(model, dict(zip(axes, (height, width), strict=True)))
    named = named_weights(model)
    for old, new in zip(token_embeddings(model), token_embeddings(result), strict=True):
        class_token, positions = named[new.name].values()
        named[new.name] = {
            "0": class_token,
            "1": resized_positions(positions, token_grid(old), token_grid(new)),
        }
    set_named_weights(result, named)
    return result


def _with_input(model: keras.Model, sizes: dict[int, int]) -> keras.Model:
    """Build a net anew with other sizes along some axes of its one input."""
    config = functional_config(model)
    if len(model.inputs) != 1:
        raise ValueError(
            f"`model` must have one input. Received: {model.name!r}, which has {len(model.inputs)}"
        )
    shape = list(model.inputs[0].shape)
    for axis, size in sizes.items():
        shape[axis] = size
    for layer in config["layers"]:
        _rebuild(layer, tuple(shape))
    return type(model).from_config(config)


def _rebuild(layer: dict[str, Any], input_shape: tuple[int | None, ...]) -> None:
    """Take the shapes out of a layer's configuration, so that it is built for a new input."""
    layer.pop("build_config", None)
    if "batch_shape" in layer["config"]:
        layer["config"]["batch_shape"] = input_shape


def _check_layers(model: keras.Model) -> None:
    attends = any(isinstance(layer, SelfAttention2D) for layer in model._flatten_layers())
    if attends:
        raise ValueError(
            f"{model.name!r} has layers `SelfAttention2D`, whose embeddings are of distances in "
            "pixels: it cannot be resized. Build it anew with the other `input_shape`."
        )


def token_embeddings(model: keras.Model) -> list[TokenEmbedding]:
    """Return the layers that make tokens of a net's maps."""
    return [layer for layer in model.layers if isinstance(layer, TokenEmbedding)]


def token_grid(layer: TokenEmbedding) -> tuple[int, int]:
    """Return height and width of the maps that go into a layer."""
    first = layer.data_format == "channels_first"
    return tuple(layer.input.shape[2:] if first else layer.input.shape[1:3])


def resized_positions(
    positions: np.ndarray, old: tuple[int, int], new: tuple[int, int]
) -> np.ndarray:
    """Resize the positions of a grid of tokens, which follow that of the class token.

    Args:
        positions: `(1, 1 + height * width, channels)`.
        old: Height and width of the grid.
        new: Height and width that it gets.

    Returns:
        The positions, bit for bit where both are the same.
    """
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
