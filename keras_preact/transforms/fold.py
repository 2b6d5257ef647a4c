"""Folding of a net for inference: batch norms and regularization disappear."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_preact.layer_names import is_container
from keras_preact.layers import (
    Conv2D,
    DepthwiseConv2D,
    DropBlock,
    DropPath,
    Rematerialized,
    ScaleShift,
    ShakeDrop,
    StackedUnits,
)
from keras_preact.named_weights import NamedWeights, named_weights
from keras_preact.transforms.graph_config import (
    NORM_LAYERS,
    Config,
    bypass,
    consumers,
    functional_config,
    graphs,
    has_single_consumer,
    inputs_of,
    insert,
    is_called_once,
    is_kind,
    is_of_channels,
    layers_of,
    nested_graph,
    rebuilt,
    scale_outputs,
    shift_outputs,
    source,
    trained_layers,
    weights_in,
)
from keras_preact.transforms.residual_stream import center, rescale
from keras_preact.transforms.stacking import unroll

# The class that a convolution that makes its kernel becomes, and an example of its arguments.
_PLAIN = {Conv2D: Conv2D(1, 1), DepthwiseConv2D: DepthwiseConv2D(1)}
# Layers that are the identity in inference.
_IDENTITIES = (DropBlock, DropPath, keras.layers.Dropout, keras.layers.SpatialDropout2D)


def fold(model: keras.Model) -> keras.Model:
    """Build the same function with only the work that inference needs.

    - A batch norm that is the only consumer of a convolution becomes part of its kernel and bias.
    - The sum of a shortcut and a branch is centered: a bias of the branch's last convolution
      subtracts the mean that the norms after the sum expect. This is done only where all consumers
      are norms and further sums, so an output of the model never moves.
    - A batch norm that is the only consumer of such a sum, as after a stage's last unit, becomes
      part of the convolutions that are summed. The norms along their shortcut are rescaled with it.
    - Every other batch norm becomes a `keras_preact.layers.ScaleShift` of the same name. An example
      is a unit's first norm, whose input goes into the shortcut too.
    - A convolution that makes its kernel of its weights, as weight standardization does, becomes a
      plain one, with the kernel that it used.
    - Dropout, drop path and DropBlock are removed. ShakeDrop, in inference a factor, becomes part
      of the convolution before it where it is the only consumer, or a `keras.layers.Rescaling`.
    - Stacked units become separate ones, and rematerialized units are computed as any other. What
      you wrapped in `keras_preact.layers.Rematerialized` is folded inside of its wrapper.

    Norms of other kinds stay as they are. So does what is called with `training=True`, whose norms
    and dropout are at work in inference too, and what is not surely called before it, to which
    Keras passes it on, unless its call says `training=False`. The names of the layers that stay
    remain too, so that `keras_preact.feature_extractor` takes the folded net; train and save the
    net it came from.

    Augmentation, which trains by default, is not counted as such a call. `predict` and exports run
    it in inference. Where `model(x)` is called without `training`, Keras has the layers behind it
    train: say `training=False` there.

    Args:
        model: A functional model.

    Returns:
        A model with weights of its own, not compiled.

    Raises:
        ValueError: If the model is not functional, or too deep for `unroll`.
    """
    config = functional_config(model)
    if any(layers_of(graph, (StackedUnits,)) for _, graph in graphs(config)):
        config = functional_config(unroll(model))
    weights = named_weights(model)
    _fold_graph(config, weights, "")
    return rebuilt(model, config, weights)


def _fold_graph(config: Config, weights: NamedWeights, prefix: str) -> None:
    """Fold a graph and those nested in it, and their weights, in place.

    Args:
        config: The graph.
        weights: Weights of the whole model.
        prefix: How the paths of the graph's layers begin.
    """
    config["layers"] = [_kept_in_memory(layer) for layer in config["layers"]]
    trained = trained_layers(config)
    for layer in config["layers"]:
        if layer["name"] not in trained:
            for own_prefix, graph in nested_graph(layer, prefix):
                _fold_graph(graph, weights, own_prefix)
    with weights_in(weights, prefix) as own:
        _fold_layers(config, own, trained)


def _fold_layers(config: Config, weights: NamedWeights, trained: set[str]) -> None:
    """Fold the layers of a graph but those that may train, and their weights by name, in place."""
    for layer in layers_of(config, _IDENTITIES):
        if is_called_once(layer) and layer["name"] not in trained:
            bypass(layer, config)
    for layer in config["layers"]:
        for plain, example in _PLAIN.items():
            if _makes_its_kernel(layer, plain):
                _become_plain(layer, plain, example, weights)
    center(config, weights, trained)
    for norm in layers_of(config, NORM_LAYERS):
        if norm["name"] not in trained:
            _fold_norm(norm, config, weights)
    for shake in layers_of(config, (ShakeDrop,)):
        if shake["name"] not in trained and not _takes_rate(shake):
            _fold_shake(shake, config, weights)
    rescale(config, weights)


def _makes_its_kernel(layer: Config, plain: type[keras.layers.Layer]) -> bool:
    """Return whether a convolution is plain but for making its kernel of its variables."""
    kind = keras.saving.get_registered_object(layer["registered_name"])
    return (
        isinstance(kind, type)
        and issubclass(kind, plain)
        and kind.kernel_in_use is not plain.kernel_in_use
        and (kind.call, kind.convolution_op) == (plain.call, plain.convolution_op)
    )


def _become_plain(
    convolution: Config,
    plain: type[keras.layers.Layer],
    example: keras.layers.Layer,
    weights: NamedWeights,
) -> None:
    """Turn a convolution that makes its kernel into one that has it."""
    config, arrays = convolution["config"], weights[convolution["name"]]
    layer = keras.saving.get_registered_object(convolution["registered_name"]).from_config(config)
    channels = arrays["0"].shape[2] * getattr(layer, "groups", 1)
    first = layer.data_format == "channels_first"
    layer.build((None, channels, None, None) if first else (None, None, None, channels))
    layer.load_own_variables(arrays)
    kernel = keras.ops.convert_to_numpy(layer.kernel_in_use(layer.kernel))
    weights[convolution["name"]] = {"0": kernel, **({"1": arrays["1"]} if layer.use_bias else {})}
    options = example.get_config()
    other = plain.from_config({key: config[key] for key in options if key in config})
    other = keras.saving.serialize_keras_object(other)
    for key in ("module", "class_name", "registered_name", "config"):
        convolution[key] = other[key]


def _fold_norm(norm: Config, config: Config, weights: NamedWeights) -> None:
    scale, shift = _scale_and_shift(norm["config"], weights.pop(norm["name"]))
    convolution = _convolution_before(norm, config)
    if convolution is None:
        weights[norm["name"]] = {"0": scale, "1": shift}
        _become_scale_shift(norm)
    else:
        scale_outputs(convolution, scale, weights)
        shift_outputs(shift, convolution, weights)
        bypass(norm, config)


def _fold_shake(shake: Config, config: Config, weights: NamedWeights) -> None:
    factor = 1 - shake["config"]["rate"]
    convolution = _linear_convolution_before(shake, config)
    if convolution is None:
        insert(shake, keras.layers.Rescaling(factor, **_name_and_dtype(shake)))
    else:
        scale_outputs(convolution, factor, weights)
        bypass(shake, config)


def _scale_and_shift(norm: Config, arrays: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return the scale and the shift of a batch norm with its moving statistics."""
    values = [array.astype("float64") for array in arrays.values()]
    gamma = values.pop(0) if norm["scale"] else 1.0
    beta = values.pop(0) if norm["center"] else 0.0
    mean, variance, *_ = values
    scale = gamma / np.sqrt(variance + norm["epsilon"])
    return scale, beta - mean * scale


def _convolution_before(norm: Config, config: Config) -> Config | None:
    """Return the convolution of which a norm is the only consumer; None if there is none."""
    convolution = _linear_convolution_before(norm, config)
    return convolution if convolution and is_of_channels(norm, convolution) else None


def _linear_convolution_before(layer: Config, config: Config) -> Config | None:
    """Return the convolution without activation of which a layer is the only consumer, or None."""
    if not is_called_once(layer):
        return None
    name = source(next(inputs_of(layer)))
    (other,) = (each for each in config["layers"] if each["name"] == name)
    return other if has_single_consumer(other, consumers(config)[name]) else None


def _become_scale_shift(norm: Config) -> None:
    """Turn the configuration of a norm into that of a scale and shift."""
    insert(norm, ScaleShift(axis=norm["config"]["axis"], **_name_and_dtype(norm)))


def _name_and_dtype(layer: Config) -> dict[str, Any]:
    dtype = keras.saving.deserialize_keras_object(layer["config"]["dtype"])
    return {"name": layer["name"], "dtype": dtype}


def _kept_in_memory(layer: Config) -> Config:
    """Return the model inside a rematerialized unit or block; any other layer as it is.

    Only there the wrapper adds nothing to the paths of the weights. Any other stays, which costs
    inference nothing.
    """
    if not is_kind(layer, (Rematerialized,)):
        return layer
    inner, name = layer["config"]["layer"], layer["name"]
    if inner["config"]["name"] != name or not is_container(name):
        return layer
    return {**inner, "name": name, "inbound_nodes": layer["inbound_nodes"]}


def _takes_rate(layer: Config) -> bool:
    """Return whether a call gives a rate in place of the layer's own."""
    return any(call["kwargs"].get("rate") is not None for call in layer["inbound_nodes"])
