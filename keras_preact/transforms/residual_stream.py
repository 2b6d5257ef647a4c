"""What goes along the shortcuts, in other units than in training: the same function for less.

A residual stream is a sum to which unit after unit adds what its branch gives. Norms read it and
change nothing of it, so every channel can have a zero and a scale of its own, if what adds to the
stream and what reads it do so in the same units.
"""

from __future__ import annotations

from typing import NamedTuple

import keras
import numpy as np

from keras_preact.layers import AveragePooling2D, BlurPool2D, ScaleShift
from keras_preact.transforms.graph_config import (
    CONVOLUTIONS,
    NORMS,
    Config,
    add_bias,
    always_trains,
    gives_to_one,
    is_called_once,
    is_kind,
    is_linear_convolution,
    is_of_channels,
    leave_out,
    multiply,
    of_kind,
    source,
    taken_by,
    takers_by_name,
)
from keras_preact.weights.named import NamedWeights

# What takes a weighted mean of each channel, which a scale goes through.
_MEANS = (AveragePooling2D, keras.layers.AveragePooling2D, BlurPool2D)
# Below, float16 has too few digits for what is scaled.
_LEAST_SCALE = 2.0**-10


class _Sum(NamedTuple):
    """An addition of what a convolution gives to nothing else and of other tensors."""

    convolution: Config
    others: list[str]


def center(config: Config, weights: NamedWeights) -> None:
    """Take the mean that a norm expects off the sums that it takes, in place.

    A bias of the convolution that ends a branch does it, and the norms, whose moving mean it was,
    expect none any more: the outputs are the same. In 16 bits a sum without its mean is rounded
    less, and TensorFlow computes a convolution, its bias and an addition in one kernel, but not a
    convolution and an addition.

    Args:
        config: Configuration of a functional model whose norms are not folded yet.
        weights: Its weights.
    """
    takers = takers_by_name(config)
    sums = _sums(config, takers)
    norms: dict[str, list[Config]] = {}
    means: dict[str, np.ndarray] = {}
    for name, (convolution, _) in sums.items():
        norms[name] = [taker for taker in takers[name] if _expects_mean(taker, convolution)]
        rest = [taker for taker in takers[name] if taker not in norms[name]]
        if norms[name] and all(taker["name"] in sums for taker in rest):
            means[name] = weights[norms[name][0]["name"]][_place_of_mean(norms[name][0])]
    for name, (convolution, others) in sums.items():
        bias = sum(means.get(other, 0.0) for other in others) - means.get(name, 0.0)
        if np.any(bias):
            add_bias(bias, convolution, weights)
    for name, mean in means.items():
        for norm in norms[name]:
            arrays, place = weights[norm["name"]], _place_of_mean(norm)
            arrays[place] = arrays[place] - mean


class _Stream(NamedTuple):
    """All that adds to a sum that one norm alone takes, and all that reads what it is a sum of."""

    convolutions: list[Config]
    readers: list[Config]
    last: Config


def rescale(config: Config, weights: NamedWeights) -> None:
    """Leave out the norms that alone take a sum, such as those after a stage's last, in place.

    The stream is scaled as the norm would do it, by the convolutions that add to it, and the
    norm's shift is a bias of the last of them.

    Args:
        config: Configuration of a functional model whose norms are folded, but for those that
            became a `ScaleShift`.
        weights: Its weights.
    """
    for norm in of_kind(config, (ScaleShift,)):
        stream = _stream_into(norm, config)
        scale, shift = weights[norm["name"]].values()
        if stream is None or np.abs(scale).min() < _LEAST_SCALE:
            continue
        for convolution in stream.convolutions:
            multiply(convolution, scale, weights)
        for reader in stream.readers:
            weights[reader["name"]]["0"] = weights[reader["name"]]["0"] / scale
        add_bias(shift, stream.last, weights)
        del weights[norm["name"]]
        leave_out(norm, config)


def _stream_into(norm: Config, config: Config) -> _Stream | None:
    """The stream that ends in a norm; None if it is not one, or something else is done with it."""
    layers = {layer["name"]: layer for layer in config["layers"]}
    takers = takers_by_name(config)
    end = source(next(taken_by(norm)))
    end_sum = _sums(config, takers).get(end)
    if end_sum is None or takers[end] != [norm]:
        return None
    found: dict[str, Config] = {}
    pending = [end]
    while pending:
        layer = layers[pending.pop()]
        found[layer["name"]] = layer
        if _adds_like_shapes(layer) or (is_kind(layer, _MEANS) and is_called_once(layer)):
            pending.extend({source(each) for each in taken_by(layer)} - found.keys())
        elif not is_linear_convolution(layer):
            return None
    readers = [taker for name in found for taker in takers[name] if taker["name"] not in found]
    if not all(_reads_channels(each, (ScaleShift,), end_sum.convolution) for each in readers):
        return None
    readers.remove(norm)
    convolutions = [layer for layer in found.values() if is_kind(layer, CONVOLUTIONS)]
    return _Stream(convolutions, readers, end_sum.convolution)


def _sums(config: Config, takers: dict[str, list[Config]]) -> dict[str, _Sum]:
    """By its name, every addition that a convolution of its own goes into."""
    layers = {layer["name"]: layer for layer in config["layers"]}
    sums = {}
    for addition in filter(_adds_like_shapes, config["layers"]):
        names = [source(each) for each in taken_by(addition)]
        # The branch comes last, after the shortcut.
        for name in reversed(names):
            if gives_to_one(layers[name], takers[name]):
                others = [other for other in names if other != name]
                sums[addition["name"]] = _Sum(layers[name], others)
                break
    return sums


def _adds_like_shapes(layer: Config) -> bool:
    """Whether it is an addition, called once, in which nothing is broadcast."""
    shapes = {tuple(each["config"]["shape"]) for each in taken_by(layer)}
    calls = len(layer["inbound_nodes"])
    return is_kind(layer, (keras.layers.Add,)) and calls == len(shapes) == 1


def _expects_mean(layer: Config, convolution: Config) -> bool:
    """Whether it is a norm that takes a mean off each channel of that convolution's outputs."""
    return not always_trains(layer) and _reads_channels(layer, NORMS, convolution)


def _reads_channels(
    layer: Config, kinds: tuple[type[keras.layers.Layer], ...], convolution: Config
) -> bool:
    """Whether it is of these classes, called once, on each channel that the convolution gives."""
    return is_kind(layer, kinds) and is_called_once(layer) and is_of_channels(layer, convolution)


def _place_of_mean(norm: Config) -> str:
    """The moving mean's key among the weights of a norm."""
    return str(norm["config"]["scale"] + norm["config"]["center"])
