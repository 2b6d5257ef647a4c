"""Freezing of a net's first stages, and of its norms."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import keras

from keras_preact.composition import named_layers, nets
from keras_preact.layer_names import HEAD, belongs_to_net, in_encoder, stage_numbers, stage_of
from keras_preact.layers import EvoNormS0, FilterResponseNormalization
from keras_preact.spec.rules import COUNT, plain

_NORMS = (
    keras.layers.BatchNormalization,
    keras.layers.GroupNormalization,
    keras.layers.LayerNormalization,
    EvoNormS0,
    FilterResponseNormalization,
)
_UNDER_LORA = ("kernel", "embeddings")


def freeze(model: keras.Model, up_to_stage: int, norms: bool = False) -> int:
    """Freeze a net's stem and its first stages, and let everything after them train.

    Frozen norms normalize by their moving statistics, which stay as they are, in training too.
    Dropout and stochastic depth go on. The last stage takes the norm that closes it, `head_norm`,
    with it, so that freezing up to it leaves only `predictions` to train: a linear probe. A
    transformer encoder counts as one more stage after the last.

    Each call sets every layer of a net anew: `freeze(model, 3)` after `freeze(model, 4)` lets
    stage 4 train again. Kernels that LoRA's matrices are added to stay frozen. Call `model.compile`
    afterwards: Keras reads what trains when it compiles.

    Args:
        model: A net built by this package, a functional model that contains its layers, such as a
            feature extractor, or a model that holds nets, each of which is frozen so. Other layers
            are left as they are: those before a net, also where it was built by `input_tensor`, and
            those that were added to it. Changed in place, as are models that share layers with it.
        up_to_stage: Number of the last stage to freeze; the stem is stage 1; 0 freezes none.
        norms: Whether to freeze all norms too, also those of the stages that train, as is usual
            where batches are small.

    Returns:
        The number of parameters that are frozen: weights, without the norms' statistics.

    Raises:
        ValueError: If the model is no such net, has no stage of that number, or is frozen as a
            whole (`trainable=False`), around a net or together with layers that are not a net's.
    """
    up_to_stage, found = plain(up_to_stage), nets(model)
    for net in found:
        _check_stage(net, up_to_stage)
    _check_around(model, found)
    for net in found:
        _unfreeze(net)
    trainable = _parameters(model)
    for net in found:
        _freeze(net, up_to_stage)
        if norms:
            _freeze_norms(net)
    return trainable - _parameters(model)


def _check_stage(model: keras.Model, up_to_stage: Any) -> None:
    stages = stage_numbers(model)
    if any(in_encoder(layer.name) for layer in model.layers):
        stages = (*stages, stages[-1] + 1)
    if not COUNT.holds(up_to_stage) or up_to_stage not in (0, *stages):
        raise ValueError(
            f"`up_to_stage` must be 0 or the number of a stage of {model.name!r}, which has "
            f"{stages}. Received: {up_to_stage!r} (of type {type(up_to_stage).__name__})"
        )


def _check_around(model: keras.Model, found: Sequence[keras.Model]) -> None:
    """Check that whatever holds layers beside those of nets is not frozen as a whole.

    Nothing in it would train, and if all of it did, so would layers that were frozen by themselves.
    """
    for layer in [model, *(each for _, each in named_layers(model))]:
        if layer.trainable or not _holds_others(layer, found):
            continue
        held = "with layers that are not the net's" if layer in found else "around a net"
        raise ValueError(
            f"{layer.name!r} is frozen as a whole, {held}: nothing in it trains. Set "
            "its `trainable = True` first, which lets all layers in it train, and freeze those "
            "again that are not to. Received: a model with `trainable=False`"
        )


def _holds_others(layer: keras.layers.Layer, found: Sequence[keras.Model]) -> bool:
    """Return whether a layer is around a net, or a net whose graph has other layers as well."""
    if any(layer is net for net in found):
        return any(each.weights for path, each in named_layers(layer) if not belongs_to_net(path))
    return any(each is net for _, each in named_layers(layer) for net in found)


def _own_layers(net: keras.Model) -> Iterator[keras.layers.Layer]:
    return (layer for path, layer in named_layers(net) if belongs_to_net(path))


def _unfreeze(net: keras.Model) -> None:
    # It reaches all layers: `_check_around` sees to it that they are the net's own.
    if not net.trainable:
        net.trainable = True
    layers = list(_own_layers(net))
    for layer in layers:
        layer.trainable = True
    # Kernels under LoRA's matrices, too, which Keras holds among a layer's trainable variables.
    for layer in layers:
        if getattr(layer, "lora_enabled", False):
            for variable in layer.weights:
                if variable.name in _UNDER_LORA:
                    variable.trainable = False


def _freeze(model: keras.Model, up_to_stage: int) -> None:
    last = stage_numbers(model)[-1]
    for layer in model.layers:
        if (_closing_stage(layer.name, last) or math.inf) <= up_to_stage:
            layer.trainable = False


def _freeze_norms(net: keras.Model) -> None:
    for layer in _own_layers(net):
        if isinstance(layer, _NORMS):
            layer.trainable = False


def _closing_stage(name: str, last: int) -> int | None:
    """Return the stage that a layer is frozen with."""
    if in_encoder(name):
        return last + 1
    stage = last if name in HEAD[:-1] else stage_of(name)
    # In a net cut behind a stage, the next one may have left the norm that closes it.
    return min(stage, last) if stage else None


def _parameters(model: keras.Model) -> int:
    """Count the parameters that train."""
    return sum(math.prod(variable.shape) for variable in model.trainable_variables)
