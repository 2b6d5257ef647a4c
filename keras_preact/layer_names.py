"""What the names of a net's layers, as `keras_preact.build` gives them, say about it."""

from __future__ import annotations

import re
from typing import Any

import keras

_STAGE = re.compile(r"stage(?P<stage>\d+)_(unit\d+(to\d+)?(_.*)?|transition_.*)")
# The layers after the last stage's units.
HEAD = ("head_norm", "head_act", "head_pool", "predictions")
_ENCODER = "encoder_"
_BLOCK = re.compile(r"encoder_block(?P<block>\d+)(_.*)?")


def stage_of(layer_name: str) -> int | None:
    """Number of the stage that a layer is in: 1 for the stem, None for the head and any other."""
    if layer_name.startswith("stem_"):
        return 1
    match = _STAGE.fullmatch(layer_name)
    return int(match["stage"]) if match else None


def stage_numbers(model: Any) -> tuple[int, ...]:
    """Numbers of a net's stages, the stem's, 1, first.

    Args:
        model: A net built by this package, or a functional model that contains its layers.

    Returns:
        The numbers, ascending.

    Raises:
        ValueError: If it is no such model.
    """
    names = [layer.name for layer in model.layers] if isinstance(model, keras.Model) else []
    numbers = tuple(sorted({stage_of(name) for name in names} - {None}))
    if len(numbers) < 2 or numbers[0] != 1:
        raise ValueError(
            "`model` must be a net of keras_preact, with layers named as `keras_preact.build` "
            f"documents. Received: {getattr(model, 'name', model)!r} "
            f"(of type {type(model).__name__})"
        )
    return numbers


def stage_opening(model: keras.Model, stage: int) -> keras.layers.Layer:
    """The first convolution of a stage: that of its transition, where it has one."""
    names = (f"stage{stage}_transition_conv", f"stage{stage}_unit1_conv1")
    return next(layer for layer in model.layers if layer.name in names)


def in_encoder(layer_name: str) -> bool:
    """Whether a layer is of the transformer encoder that follows the last stage."""
    return layer_name.startswith(_ENCODER)


def block_of(layer_name: str) -> int | None:
    """Number of the encoder's block that a layer is in; None for any other layer."""
    match = _BLOCK.fullmatch(layer_name)
    return int(match["block"]) if match else None


def body_end(model: keras.Model) -> keras.layers.Layer:
    """The layer whose output a net's pooling takes: its last maps, or its encoder's tokens."""
    end = maps_end(model)
    return next((layer for layer in model.layers if layer.name == "encoder_norm"), end)


def maps_end(model: keras.Model) -> keras.layers.Layer:
    """The layer whose output is a net's last maps."""
    last = stage_numbers(model)[-1]
    return [
        layer
        for layer in model.layers
        if layer.name in ("head_norm", "head_act") or stage_of(layer.name) == last
    ][-1]


def data_format(model: keras.Model) -> str:
    """`"channels_last"` or `"channels_first"`, as a net's first convolution has it."""
    return first_convolution(model).data_format


def first_convolution(model: keras.Model) -> keras.layers.Layer:
    """The convolution that sees the image."""
    return next(layer for layer in model.layers if layer.name.startswith("stem_conv"))
