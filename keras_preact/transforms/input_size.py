"""The same net for images of another size, where its positions are learned."""

from __future__ import annotations

import keras
import numpy as np

from keras_preact.layer_names import data_format, stage_numbers
from keras_preact.layers import SelfAttention2D, TokenEmbedding
from keras_preact.spec.rules import is_positive_integer
from keras_preact.transforms.config import functional_config
from keras_preact.weights.named import named_weights, set_named_weights


def resize_input(model: keras.Model, height: int, width: int) -> keras.Model:
    """The same net for images of another size, its encoder's positions resized.

    The positions of a transformer encoder's tokens, an image of the embeddings' width in channels,
    are resized by bicubic interpolation with anti-aliasing, as in timm; that of the class token is
    kept, and every other weight is copied. A net without an encoder only gets another input.

    Args:
        model: A net built by this package, or a functional model that contains its layers, with one
            input of known height and width. No `SelfAttention2D`: its embeddings are of distances,
            which stay the same in pixels.
        height: Height of the new input, in pixels.
        width: Width of the new input, in pixels.

    Returns:
        A model with weights of its own, not compiled.

    Raises:
        ValueError: If the model is no such net or has several inputs, or the size is not of
            positive integers.
    """
    if not (is_positive_integer(height) and is_positive_integer(width)):
        raise ValueError(
            "`height` and `width` must be positive integers. "
            f"Received: height={height!r}, width={width!r}"
        )
    stage_numbers(model)
    config = functional_config(model)
    if len(model.inputs) != 1:
        raise ValueError(
            f"`model` must have one input. Received: {model.name!r}, which has {len(model.inputs)}"
        )
    _check_layers(model)
    first = data_format(model) == "channels_first"
    shape = list(model.inputs[0].shape)
    shape[slice(2, 4) if first else slice(1, 3)] = height, width
    for layer in config["layers"]:
        # Shapes that layers were built with; calling them on the new input builds them anew.
        layer.pop("build_config", None)
        if "batch_shape" in layer["config"]:
            layer["config"]["batch_shape"] = tuple(shape)
    result = type(model).from_config(config)
    named = named_weights(model)
    for old, new in zip(_embeddings(model), _embeddings(result), strict=True):
        class_token, positions = named[new.name].values()
        named[new.name] = {"0": class_token, "1": _resized(positions, _grid(old), _grid(new))}
    set_named_weights(result, named)
    return result


def _check_layers(model: keras.Model) -> None:
    attends = any(isinstance(layer, SelfAttention2D) for layer in model._flatten_layers())
    if attends:
        raise ValueError(
            f"{model.name!r} has layers `SelfAttention2D`, whose embeddings are of distances in "
            "pixels: it cannot be resized. Build it anew with the other `input_shape`."
        )


def _embeddings(model: keras.Model) -> list[TokenEmbedding]:
    return [layer for layer in model.layers if isinstance(layer, TokenEmbedding)]


def _grid(layer: TokenEmbedding) -> tuple[int, int]:
    """Height and width of the maps that a layer takes."""
    first = layer.data_format == "channels_first"
    return tuple(layer.input.shape[2:] if first else layer.input.shape[1:3])


def _resized(positions: np.ndarray, old: tuple[int, int], new: tuple[int, int]) -> np.ndarray:
    """The positions of a grid of tokens, after that of the class token, on another grid."""
    if old == new:
        return positions
    class_token, grid = positions[:, :1], positions[:, 1:].reshape(*old, -1)
    rows, columns = (_bicubic(*lengths) for lengths in zip(old, new, strict=True))
    grid = np.einsum("yh,xw,hwc->yxc", rows, columns, grid, optimize=True)
    grid = grid.reshape(1, -1, grid.shape[-1]).astype(positions.dtype)
    return np.concatenate([class_token, grid], axis=1)


def _bicubic(length: int, target: int) -> np.ndarray:
    """How much each of `length` places adds to each of `target`: Pillow's rule, in floats."""
    scale = length / target
    stretch = max(scale, 1.0)
    centres = (np.arange(target) + 0.5) * scale
    distance = np.abs(np.arange(length) + 0.5 - centres[:, np.newaxis]) / stretch
    # Keys's kernel with a = -1/2.
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = -0.5 * (((distance - 5) * distance + 8) * distance - 4)
    weights = np.where(distance < 1, near, np.where(distance < 2, far, 0.0))
    return weights / weights.sum(axis=1, keepdims=True)
