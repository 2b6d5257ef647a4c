"""Nets in another precision."""

from __future__ import annotations

import keras

from keras_preact.layer_names import in_encoder, is_container
from keras_preact.layers import StackedUnits
from keras_preact.layers.stacked_units import TEMPLATE_PREFIX
from keras_preact.named_weights import named_weights
from keras_preact.transforms.graph_config import (
    CONVOLUTION_LAYERS,
    Config,
    functional_config,
    graphs,
    inputs_of,
    is_kind,
    output_names,
    rebuilt,
    source,
    with_wrapped,
)


def with_dtype(model: keras.Model, dtype: str) -> keras.Model:
    """Build the same net under another dtype policy.

    As when a net is built with the policy, dense layers but those of a transformer encoder compute
    in the dtype of their weights, so that class scores are float32 in mixed precision. Layers that
    `model.quantize` has changed stay quantized, under the policy that Keras makes of this one.

    Args:
        model: A functional model.
        dtype: Name of a dtype policy, such as `"mixed_bfloat16"`.

    Returns:
        A model with weights of its own, not compiled. In `"mixed_float16"` its `compile` scales the
        loss.

    Raises:
        ValueError: If the model is not functional, there is no such policy, or Keras has no such
            policy of a quantized layer.
    """
    policy = keras.dtype_policies.get(dtype)
    config = functional_config(model)
    _set_dtypes(config, policy)
    return rebuilt(model, config, named_weights(model))


def stored_as_computed(model: keras.Model) -> keras.Model:
    """Build the same net with the weights of its convolutions in the dtype that they compute in.

    In mixed precision a convolution rounds its float32 weights in every call. Here they are rounded
    once, to the same numbers in half the memory. So the net is no longer one to be trained.

    Args:
        model: A functional model, such as `keras_preact.transforms.fold` gives.

    Returns:
        A model with weights of its own, not compiled; `model` itself if nothing is to be changed.

    Raises:
        ValueError: If the model is not functional.
    """
    config = functional_config(model)
    changed = False
    for _, graph in graphs(config):
        for layer in (each for outer in graph["layers"] for each in with_wrapped(outer)):
            # A subclass may need the float32 weights, as weight standardization does.
            if not is_kind(layer, CONVOLUTION_LAYERS):
                continue
            policy = keras.saving.deserialize_keras_object(layer["config"]["dtype"])
            if policy.compute_dtype != policy.variable_dtype:
                own = keras.DTypePolicy(policy.compute_dtype)
                layer["config"]["dtype"] = keras.saving.serialize_keras_object(own)
                changed = True
    return rebuilt(model, config, named_weights(model)) if changed else model


def _set_dtypes(config: Config, policy: keras.DTypePolicy) -> None:
    """Set the policy of every layer of a functional model, in its configuration."""
    for _, graph in graphs(config):
        for outer in graph["layers"]:
            scores = _gives_scores(outer, graph)
            own = keras.DTypePolicy(policy.variable_dtype) if scores else policy
            for layer in with_wrapped(outer):
                _set_dtype(layer, graph["name"], own)


def _set_dtype(layer: Config, graph_name: str, policy: keras.DTypePolicy) -> None:
    """Set the policy of a layer in a graph, in place."""
    config = layer["config"]
    if layer["class_name"] == "InputLayer":
        # Maps come into a unit; into other models come images, tokens or anything else.
        if is_container(graph_name) or layer["name"] == f"{TEMPLATE_PREFIX}input":
            config["dtype"] = policy.compute_dtype
    # Of an operation, such as `keras.ops.cast`, the dtype is an argument.
    elif isinstance(config.get("dtype"), dict):
        given = config["dtype"]["config"]
        if "source_name" in given:
            # A quantized layer stays so: its policy is made of another one.
            given["source_name"] = policy.name
        else:
            config["dtype"] = keras.saving.serialize_keras_object(policy)
    if is_kind(layer, (StackedUnits,)):
        _set_dtypes(config["template"]["config"], policy)


def _gives_scores(layer: Config, graph: Config) -> bool:
    """Return whether a layer is or wraps a classifier, its activation, or a model that ends so."""
    *_, inner = with_wrapped(layer)
    if "input_layers" in inner["config"]:
        graph, names = inner["config"], set(output_names(inner["config"]["output_layers"]))
    elif inner["class_name"] in ("Activation", "Softmax"):
        names = {source(each) for each in inputs_of(layer)}
    else:
        return inner["class_name"] == "Dense" and not in_encoder(inner["config"]["name"])
    return all(_gives_scores(each, graph) for each in graph["layers"] if each["name"] in names)
