"""Rescaling of the residual stream, so that norms can be folded: the same function for less.

A residual stream is a sum to which each unit adds the output of its branch. Norms read it and leave
it as it is. So every channel may have its own offset and scale, provided that all layers that add
to the stream or read it use the same ones.
"""

from __future__ import annotations

from typing import NamedTuple

import keras
import numpy as np

from keras_preact.layers import AveragePooling2D, BlurPool2D, ScaleShift
from keras_preact.named_weights import NamedWeights
from keras_preact.transforms.graph_config import (
    CONVOLUTION_LAYERS,
    NORM_LAYERS,
    Config,
    bypass,
    consumers,
    has_single_consumer,
    inputs_of,
    is_called_once,
    is_kind,
    is_linear_convolution,
    is_of_channels,
    layers_of,
    scale_outputs,
    shift_outputs,
    source,
)

# Layers that take a weighted mean per channel, which commutes with a scale.
_MEANS = (AveragePooling2D, keras.layers.AveragePooling2D, BlurPool2D)
# With a smaller scale, float16 has too few digits for the scaled stream.
_LEAST_SCALE = 2.0**-10


class _Sum(NamedTuple):
    """Addition of other tensors and the output of a convolution that only it takes."""

    convolution: Config
    others: list[str]


def center(config: Config, weights: NamedWeights, trained: set[str]) -> None:
    """Subtract a norm's moving mean from the sums that it reads, in place.

    The convolution that ends a branch subtracts it by its bias, and the norms' moving means become
    zero, so the outputs are the same. In 16 bits a sum without its mean is rounded less. TensorFlow
    also computes a convolution, its bias and an addition in one kernel, but not a convolution and
    an addition without a bias.

    Args:
        config: Configuration of a functional model whose norms are not folded yet.
        weights: Its weights.
        trained: Layers that may run as in training (`graph_config.trained_layers`), whose norms
            do not read their moving mean.
    """
    users = consumers(config)
    sums = _sums(config, users)
    norms: dict[str, list[Config]] = {}
    means: dict[str, np.ndarray] = {}
    for name, (convolution, _) in sums.items():
        norms[name] = [
            user
            for user in users[name]
            if user["name"] not in trained and _reads_channels(user, NORM_LAYERS, convolution)
        ]
        rest = [user for user in users[name] if user not in norms[name]]
        if norms[name] and all(user["name"] in sums for user in rest):
            means[name] = weights[norms[name][0]["name"]][_place_of_mean(norms[name][0])]
    for name, (convolution, others) in sums.items():
        bias = np.asarray(sum(means.get(each, 0.0) for each in others) - means.get(name, 0.0))
        if np.any(bias):
            shift_outputs(bias, convolution, weights)
    for name, mean in means.items():
        for norm in norms[name]:
            arrays, place = weights[norm["name"]], _place_of_mean(norm)
            arrays[place] = arrays[place] - mean


class _Stream(NamedTuple):
    """Layers that add to a sum of which one norm is the only consumer, and that read its terms."""

    convolutions: list[Config]
    readers: list[Config]
    last: Config


def rescale(config: Config, weights: NamedWeights) -> None:
    """Remove norms that are the only consumer of a sum, such as those after a stage, in place.

    The convolutions that add to the stream scale it as the norm would. The norm's shift becomes a
    bias of the last of them.

    Args:
        config: Configuration of a functional model whose norms are folded, but for those that
            became a `ScaleShift`.
        weights: Its weights.
    """
    for norm in layers_of(config, (ScaleShift,)):
        stream = _stream_into(norm, config)
        scale, shift = weights[norm["name"]].values()
        if stream is None or np.abs(scale).min() < _LEAST_SCALE:
            continue
        for convolution in stream.convolutions:
            scale_outputs(convolution, scale, weights)
        for reader in stream.readers:
            weights[reader["name"]]["0"] = weights[reader["name"]]["0"] / scale
        shift_outputs(shift, stream.last, weights)
        del weights[norm["name"]]
        bypass(norm, config)


def _stream_into(norm: Config, config: Config) -> _Stream | None:
    """Return the stream that ends in a norm; None where other layers forbid to rescale it."""
    layers = {layer["name"]: layer for layer in config["layers"]}
    users = consumers(config)
    end = source(next(inputs_of(norm)))
    end_sum = _sums(config, users).get(end)
    if end_sum is None or users[end] != [norm]:
        return None
    found: dict[str, Config] = {}
    pending = [end]
    while pending:
        layer = layers[pending.pop()]
        found[layer["name"]] = layer
        if _adds_like_shapes(layer) or (is_kind(layer, _MEANS) and is_called_once(layer)):
            pending.extend({source(each) for each in inputs_of(layer)} - found.keys())
        elif not is_linear_convolution(layer):
            return None
    readers = [user for name in found for user in users[name] if user["name"] not in found]
    if not all(_reads_channels(each, (ScaleShift,), end_sum.convolution) for each in readers):
        return None
    readers.remove(norm)
    convolutions = [layer for layer in found.values() if is_kind(layer, CONVOLUTION_LAYERS)]
    return _Stream(convolutions, readers, end_sum.convolution)


def _sums(config: Config, users: dict[str, list[Config]]) -> dict[str, _Sum]:
    """Return, by name, every addition that has a convolution of its own."""
    layers = {layer["name"]: layer for layer in config["layers"]}
    sums = {}
    for addition in filter(_adds_like_shapes, config["layers"]):
        names = [source(each) for each in inputs_of(addition)]
        # The branch comes last, after the shortcut.
        for name in reversed(names):
            if has_single_consumer(layers[name], users[name]):
                others = [other for other in names if other != name]
                sums[addition["name"]] = _Sum(layers[name], others)
                break
    return sums


def _adds_like_shapes(layer: Config) -> bool:
    """Return whether a layer is an addition, called once, in which nothing is broadcast."""
    shapes = {tuple(each["config"]["shape"]) for each in inputs_of(layer)}
    calls = len(layer["inbound_nodes"])
    return is_kind(layer, (keras.layers.Add,)) and calls == len(shapes) == 1


def _reads_channels(
    layer: Config, kinds: tuple[type[keras.layers.Layer], ...], convolution: Config
) -> bool:
    """Return whether a layer of these classes is called once, on the channels of a convolution."""
    return is_kind(layer, kinds) and is_called_once(layer) and is_of_channels(layer, convolution)


def _place_of_mean(norm: Config) -> str:
    """Return the key of the moving mean among the weights of a norm."""
    return str(norm["config"]["scale"] + norm["config"]["center"])
