"""Shortcuts centred for inference, by biases that their branches' last convolutions get."""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

import keras
import numpy as np

from keras_preact.transforms.config import (
    CONVOLUTIONS,
    NORMS,
    Config,
    always_trains,
    is_called_once,
    is_kind,
    of_kind,
    output_names,
    source,
    taken_by,
)
from keras_preact.weights.named import NamedWeights


class _Sum(NamedTuple):
    """An addition of what a convolution gives to nothing else and of other tensors."""

    convolution: Config
    others: list[str]


def centre(config: Config, weights: NamedWeights) -> None:
    """Take the mean that a norm expects off the sums that it takes, in place.

    A bias of the convolution that ends a branch does it, and the norms, whose moving mean it was,
    expect none any more: the outputs are the same. In 16 bits a sum without its mean is rounded
    less, and TensorFlow computes a convolution, its bias and an addition in one kernel, but not a
    convolution and an addition.

    Args:
        config: Configuration of a functional model whose norms are not folded yet.
        weights: Its weights.
    """
    takers = _takers(config)
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
            arrays = weights[convolution["name"]]
            arrays["1"] = arrays.get("1", 0.0) + bias
            convolution["config"]["use_bias"] = True
            convolution.pop("build_config", None)
    for name, mean in means.items():
        for norm in norms[name]:
            arrays, place = weights[norm["name"]], _place_of_mean(norm)
            arrays[place] = arrays[place] - mean


def _takers(config: Config) -> dict[str, list[Config]]:
    """By the name of a layer, those that take its output, once for each time that they do."""
    takers = defaultdict(list)
    for layer in config["layers"]:
        for each in taken_by(layer):
            takers[source(each)].append(layer)
    # No layer has this name: an output of the model is neither a norm nor a sum.
    for name in output_names(config["output_layers"]):
        takers[name].append({"name": None, "registered_name": "output", "inbound_nodes": []})
    return takers


def _sums(config: Config, takers: dict[str, list[Config]]) -> dict[str, _Sum]:
    """By its name, every addition that a convolution of its own goes into."""
    layers = {layer["name"]: layer for layer in config["layers"]}
    sums = {}
    for addition in of_kind(config, (keras.layers.Add,)):
        if len(addition["inbound_nodes"]) > 1:
            continue
        names = [source(each) for each in taken_by(addition)]
        # The branch comes last, after the shortcut.
        for name in reversed(names):
            if _gives_to_one(layers[name], takers[name]):
                others = [other for other in names if other != name]
                sums[addition["name"]] = _Sum(layers[name], others)
                break
    return sums


def _gives_to_one(layer: Config, takers: list[Config]) -> bool:
    """Whether it is a convolution, not activated, that one layer takes."""
    return (
        is_kind(layer, CONVOLUTIONS)
        and is_called_once(layer)
        and layer["config"]["activation"] == "linear"
        and len(takers) == 1
    )


def _expects_mean(layer: Config, convolution: Config) -> bool:
    """Whether it is a norm that takes a mean off each channel of that convolution's outputs."""
    channel_axis = 1 if convolution["config"]["data_format"] == "channels_first" else 3
    return (
        is_kind(layer, NORMS)
        and is_called_once(layer)
        and not always_trains(layer)
        and layer["config"]["axis"] % 4 == channel_axis
    )


def _place_of_mean(norm: Config) -> str:
    """The moving mean's key among the weights of a norm."""
    return str(norm["config"]["scale"] + norm["config"]["center"])
