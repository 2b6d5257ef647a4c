"""From an `Architecture` to a functional `keras.Model`.

Names of the layers, which users go by to take a net's maps; unit u of stage s is counted from 1 and
2, as in the paper:

- `stem_conv`, `stem_norm`, `stem_act`, `stem_pool`; of a deep stem `stem_conv1`, `stem_norm1`,
  `stem_act1` and so on to `stem_conv3`, or without a pool to `stem_conv4`;
- `stage{s}_unit{u}_norm{i}`, `_act{i}`, `_conv{i}`, `_drop_block{i}`, `_dropout`, `_drop_path` and
  `_add`;
- after the addition, in other orders than full pre-activation, `_sum_norm` and `_sum_act`;
- `_shortcut`, `_shortcut_norm`, `_shortcut_pool` and `_shortcut_pad` where the shape changes;
- `_conv{i}_subsample` where a convolution is strided and dilated; with `blur_pool`,
  `stem_pool_blur`, `_conv{i}_blur`, which comes before `_conv{i}`, and `_shortcut_blur`;
- in place of a Res2Net bottleneck's `_conv2`, of its splits k, `_conv2_split{k}`, `_conv2_add{k}`,
  `_conv2_conv{k}`, `_conv2_norm{k}`, `_conv2_act{k}`, and `_conv2_pool`, `_conv2_concat`;
- around other shortcuts than the identity `_shortcut_scale`, `_branch_scale`, `_gate`,
  `_gate_rest`, `_shortcut_gated`, `_branch_gated` and `_shortcut_dropout`;
- around branches that are scaled `_input_scale`, `_skip_init` and `_residual_scale`;
- of attention `_se_…`, `_eca_…` and `_cbam_…` (`keras_preact.attention`);
- `_concat` in dense units, and before a stage of them `stage{s}_transition_norm`, `_act`, `_conv`
  and `_pool`, with dropout under the name of each convolution and `_dropout`;
- where self-attention stands in the place of convolution i, `_conv{i}_attention` and
  `_conv{i}_pool`;
- those of `keras_preact.encoder`, which begin with `encoder_`;
- `head_norm`, `head_act`, `head_pool` and `predictions`.

Units 2 to n of a stage that runs as one loop are the layer `stage{s}_unit2to{n}`;
`keras_preact.stages` has every form.
"""

from __future__ import annotations

import os
from typing import Any

import keras

from keras_preact.architecture import Architecture
from keras_preact.encoder import encoder
from keras_preact.head import POOLINGS
from keras_preact.parts import Parts
from keras_preact.stages import check_separate_units, residual_stage, separate_units
from keras_preact.stem import stem
from keras_preact.weights import load_weights


def build(
    architecture: Architecture,
    include_top: bool,
    weights: str | os.PathLike | None,
    input_tensor: Any,
    input_shape: tuple[int | None, ...] | None,
    pooling: str | None,
    classes: int,
    classifier_activation: Any,
    name: str,
    data_format: str | None = None,
    dtype: Any = None,
) -> keras.Model:
    """Build a net. The arguments are those of `keras_preact.PreActResNet`."""
    _check_arguments(architecture, include_top, pooling, classes)
    parts = net_parts(architecture, data_format, dtype)
    inputs = net_inputs(parts, include_top, input_tensor, input_shape)
    x = stem(inputs, parts)
    check_separate_units(separate_units(architecture) + architecture.encoder_depth)
    for units in architecture.stages.values():
        x = residual_stage(x, units, parts)
    x = body_end(x, parts)
    if include_top:
        x = top(x, parts, classes, classifier_activation)
    elif pooling:
        x = parts.global_pool(x, pooling, name="head_pool")
    sources = keras.utils.get_source_inputs(inputs)
    model = keras.Model(sources[0] if len(sources) == 1 else sources, x, name=name)
    if weights is not None:
        load_weights(model, weights)
    return model


def net_parts(architecture: Architecture, data_format: str | None, dtype: Any) -> Parts:
    """What makes the layers of a net; the arguments are those of `build`."""
    return Parts(
        architecture,
        data_format=keras.config.image_data_format() if data_format is None else data_format,
        dtype=keras.dtype_policies.get(dtype),
    )


def body_end(x: Any, parts: Parts) -> Any:
    """What follows the last stage of any net: norm and activation, and the encoder if it has one.

    Args:
        x: The last stage's maps, `(batch, height, width, channels)`, or with the channels first.
        parts: Makes the layers.

    Returns:
        Maps, or an encoder's tokens.
    """
    return encoder(parts.apply(x, parts.order.head, "head"), parts)


def top(x: Any, parts: Parts, classes: int, activation: Any) -> Any:
    """Global pooling and the classifier.

    Args:
        x: What `body_end` gives.
        parts: Makes the layers.
        classes: Number of classes.
        activation: Activation of the class scores; None for logits.

    Returns:
        Class scores `(batch, classes)`.
    """
    x = parts.global_pool(x, name="head_pool")
    return parts.classifier(x, classes, activation, name="predictions")


def _check_arguments(
    architecture: Any, include_top: bool, pooling: str | None, classes: int
) -> None:
    if not isinstance(architecture, Architecture):
        raise ValueError(
            "`architecture` must be a `keras_preact.Architecture`. "
            f"Received: {architecture!r} (of type {type(architecture).__name__})"
        )
    poolings = (None, *POOLINGS[architecture.output_rank])
    if pooling not in poolings:
        raise ValueError(f"`pooling` must be one of {poolings}. Received: {pooling!r}")
    if include_top and not (isinstance(classes, int) and classes > 0):
        raise ValueError(f"`classes` must be a positive integer. Received: {classes!r}")


def net_inputs(
    parts: Parts,
    include_top: bool = True,
    input_tensor: Any = None,
    input_shape: tuple[int | None, ...] | None = None,
) -> Any:
    """The symbolic images that a net takes; the arguments are those of `build`."""
    if parts.data_format not in ("channels_first", "channels_last"):
        raise ValueError(
            '`data_format` must be "channels_last" or "channels_first". '
            f"Received: {parts.data_format!r}"
        )
    if input_tensor is not None:
        return _check_input_tensor(input_tensor, input_shape, parts)
    if input_shape is None:
        sized = include_top or parts.architecture.sized
        size = parts.architecture.input_size if sized else None
        input_shape = (3, size, size) if parts.channel_axis == 1 else (size, size, 3)
    _check_input_shape(tuple(input_shape), parts)
    return keras.Input(shape=input_shape)


def _check_input_tensor(
    input_tensor: Any, input_shape: tuple[int | None, ...] | None, parts: Parts
) -> Any:
    if not keras.utils.is_keras_tensor(input_tensor):
        raise ValueError(
            "`input_tensor` must be a symbolic Keras tensor, such as the output of `keras.Input` "
            f"or of a layer. Received: {type(input_tensor).__name__}"
        )
    _check_input_shape(input_tensor.shape[1:], parts)
    if input_shape is not None and tuple(input_shape) != tuple(input_tensor.shape[1:]):
        raise ValueError(
            "`input_shape` must be None or the shape of `input_tensor`. "
            f"Received: input_shape={input_shape}, input_tensor.shape={input_tensor.shape}"
        )
    return input_tensor


def _check_input_shape(shape: tuple[int | None, ...], parts: Parts) -> None:
    sizes_ok = all(size is None or (isinstance(size, int) and size > 0) for size in shape)
    if len(shape) != 3 or not sizes_ok:
        raise ValueError(
            "`input_shape` must have three dimensions, positive integers or None. "
            f"Received: {shape}"
        )
    if parts.architecture.sized and None in shape:
        raise ValueError(
            "`input_shape` must be known in height and width for a net whose weights fit one size "
            f"of images alone, as positions do. Received: {shape}"
        )
    if shape[parts.channel_axis - 1] is None:
        raise ValueError(
            f"The number of channels must be known. Received: input_shape={shape} "
            f"with data_format={parts.data_format!r}"
        )
