"""Functional `keras.Model` of an `Architecture`. `keras_preact.layer_names` lists its layers."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras

from keras_preact.architecture import Architecture
from keras_preact.blocks.encoder import encoder
from keras_preact.blocks.head import POOLINGS
from keras_preact.blocks.layer_factory import LayerFactory
from keras_preact.blocks.nesting import (
    check_depth,
    check_separate_units,
    graph_depth,
    is_too_deep,
)
from keras_preact.blocks.stages import residual_stage, separate_units
from keras_preact.blocks.stem import stem
from keras_preact.loss_scaling import scaling_when_compiled
from keras_preact.messages import require
from keras_preact.spec.rules import POSITIVE_INTEGER, as_tuple, is_positive_integer, plain
from keras_preact.tensor import Tensor

# Maps of fewer rows and columns are no images, whose order could be told.
_LEAST_SIDE = 8
_SHAPE = "`input_shape` must have three dimensions, positive integers or None. Received: {}"


def build(
    architecture: Architecture,
    include_top: bool,
    input_tensor: Tensor | None,
    input_shape: tuple[int | None, ...] | None,
    pooling: str | None,
    classes: int,
    classifier_activation: Any,
    name: str,
    data_format: str | None = None,
    dtype: Any = None,
) -> keras.Model:
    """Build a net with random weights. `keras_preact.PreActResNet` documents the arguments."""
    classes = plain(classes)
    _check_arguments(architecture, include_top, pooling, classes)
    stages = architecture.stages.values()
    check_separate_units(separate_units(stages, architecture) + architecture.encoder_depth)
    make = layer_factory(architecture, data_format, dtype)
    given = (architecture, include_top, input_tensor, input_shape)
    inputs = net_inputs(make, *given)
    x = body(inputs, make, architecture)
    if is_too_deep(graph_depth(x)):
        make = dataclasses.replace(make, nests=True)
        # New inputs, since the old ones hold on to everything that they went into.
        inputs = net_inputs(make, *given)
        x = body(inputs, make, architecture)
        check_depth(graph_depth(x))
    x = head(x, make, include_top, pooling, classes, classifier_activation)
    sources = keras.utils.get_source_inputs(inputs)
    model = keras.Model(sources[0] if len(sources) == 1 else sources, x, name=name)
    return scaling_when_compiled(model)


def layer_factory(architecture: Architecture, data_format: str | None, dtype: Any) -> LayerFactory:
    """Make the layer factory of a net. The arguments are those of `build`."""
    return LayerFactory(
        architecture,
        data_format=keras.config.image_data_format() if data_format is None else data_format,
        dtype=keras.dtype_policies.get(dtype),
        nests=architecture.rematerialize is True,
    )


def body(x: Tensor, make: LayerFactory, architecture: Architecture) -> Tensor:
    """Apply everything but the head.

    Args:
        x: Images, `(batch, height, width, channels)`, or with the channels first.
        make: Makes the layers.
        architecture: The net.

    Returns:
        Maps, or an encoder's tokens.
    """
    x = stem(x, make)
    for units in architecture.stages.values():
        x = residual_stage(x, units, make)
    return body_end(x, make)


def body_end(x: Tensor, make: LayerFactory) -> Tensor:
    """Apply what follows the last stage: norm and activation, and the encoder if there is one.

    Args:
        x: The last stage's maps, `(batch, height, width, channels)`, or with the channels first.
        make: Makes the layers.

    Returns:
        Maps, or an encoder's tokens.
    """
    return encoder(make.apply(x, make.order.head, "head"), make)


def head(
    x: Tensor,
    make: LayerFactory,
    include_top: bool,
    pooling: str | None,
    classes: int,
    activation: Any,
) -> Tensor:
    """Apply the top, or the pooling that stands in its place. The arguments are those of `build`.

    Args:
        x: Output of `body_end`.
        make: Makes the layers.
        include_top: Whether to apply the top.
        pooling: Pooling without the top; None for none.
        classes: See `top`.
        activation: See `top`.

    Returns:
        Class scores; or one vector per image, or `x` itself.
    """
    if include_top:
        return top(x, make, classes, activation)
    return make.global_pool(x, pooling, name="head_pool") if pooling else x


def top(x: Tensor, make: LayerFactory, classes: int, activation: Any) -> Tensor:
    """Apply global pooling and the classifier.

    Args:
        x: Output of `body_end`.
        make: Makes the layers.
        classes: Number of classes.
        activation: Activation of the class scores; None for logits.

    Returns:
        Class scores `(batch, classes)`.
    """
    x = make.global_pool(x, name="head_pool")
    return make.classifier(x, classes, activation, name="predictions")


def _check_arguments(
    architecture: Any, include_top: bool, pooling: str | None, classes: int
) -> None:
    if not isinstance(architecture, Architecture):
        raise ValueError(
            "`architecture` must be a `keras_preact.Architecture`. "
            f"Received: {architecture!r} (of type {type(architecture).__name__})"
        )
    poolings = (None, *POOLINGS[architecture.output_rank])
    require(pooling in poolings, "pooling", f"one of {poolings}", pooling)
    if include_top:
        POSITIVE_INTEGER.check("classes", classes)


def net_inputs(
    make: LayerFactory,
    architecture: Architecture,
    include_top: bool = True,
    input_tensor: Tensor | None = None,
    input_shape: Sequence[int | None] | None = None,
) -> Tensor:
    """Return the symbolic images that a net takes. The arguments are those of `build`."""
    if make.data_format not in ("channels_first", "channels_last"):
        raise ValueError(
            '`data_format` must be "channels_last" or "channels_first". '
            f"Received: {make.data_format!r}"
        )
    shape: tuple[int | None, ...] | None = plain(as_tuple(input_shape))
    if not (shape is None or isinstance(shape, tuple)):
        raise ValueError(_SHAPE.format(shape))
    if input_tensor is not None:
        return _check_input_tensor(input_tensor, shape, make, architecture)
    if shape is None:
        sized = include_top or architecture.sized
        size = architecture.input_size if sized else None
        shape = (3, size, size) if make.channel_axis == 1 else (size, size, 3)
    _check_input_shape(shape, make, architecture)
    _check_order(shape, make.data_format, "`input_shape`")
    return keras.Input(shape=shape)


def _check_input_tensor(
    input_tensor: Tensor,
    input_shape: tuple[int | None, ...] | None,
    make: LayerFactory,
    architecture: Architecture,
) -> Tensor:
    if not keras.utils.is_keras_tensor(input_tensor):
        raise ValueError(
            "`input_tensor` must be a symbolic Keras tensor, such as the output of `keras.Input` "
            f"or of a layer. Received: {type(input_tensor).__name__}"
        )
    _check_input_shape(input_tensor.shape[1:], make, architecture)
    # The maps of another layer may have three rows.
    if isinstance(input_tensor._keras_history.operation, keras.layers.InputLayer):
        _check_order(input_tensor.shape[1:], make.data_format, "The shape of `input_tensor`")
    if input_shape is not None and input_shape != tuple(input_tensor.shape[1:]):
        raise ValueError(
            "`input_shape` must be None or the shape of `input_tensor`. "
            f"Received: input_shape={input_shape}, input_tensor.shape={input_tensor.shape}"
        )
    return input_tensor


def _check_input_shape(
    shape: tuple[int | None, ...], make: LayerFactory, architecture: Architecture
) -> None:
    sizes_ok = all(size is None or is_positive_integer(size) for size in shape)
    if len(shape) != 3 or not sizes_ok:
        raise ValueError(_SHAPE.format(shape))
    if architecture.sized and None in shape:
        raise ValueError(
            "`input_shape` must be known in height and width for a net whose weights fit one size "
            f"of images only, as positions do. Received: {shape}"
        )
    if shape[make.channel_axis - 1] is None:
        raise ValueError(
            f"The number of channels must be known. Received: input_shape={shape} "
            f"with data_format={make.data_format!r}"
        )


def _check_order(shape: tuple[int | None, ...], data_format: str, subject: str) -> None:
    """Refuse a shape that is an image's in the other order of axes.

    Three rows, or a single one where width and channels are equal, are channels.

    Args:
        shape: Shape of an image.
        data_format: `"channels_last"` or `"channels_first"`.
        subject: Name of the shape in messages.
    """
    if data_format == "channels_last":
        few, *sides = shape
        right, other = (*sides, few), "channels_first"
    else:
        *sides, few = shape
        right, other = (few, *sides), "channels_last"
    known = [side for side in sides if side is not None]
    if len(known) < len(sides) or min(known) < _LEAST_SIDE:
        return
    if few == 3 or (few == 1 and sides[0] == sides[1]):
        raise ValueError(
            f"{subject} must be in the order of `data_format={data_format!r}`: expected "
            f"{right}, or `data_format={other!r}`. Received: {shape}"
        )
