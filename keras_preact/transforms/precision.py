"""Nets in another precision."""

from __future__ import annotations

import keras

from keras_preact.layer_names import in_encoder
from keras_preact.named_weights import named_weights, set_named_weights
from keras_preact.transforms.graph_config import Config, functional_config


def with_dtype(model: keras.Model, dtype: str) -> keras.Model:
    """Build the same net under another dtype policy.

    As when a net is built with the policy, dense layers but those of a transformer encoder compute
    in the dtype of their weights, so that class scores are float32 in mixed precision.

    Args:
        model: A functional model without stacked units.
        dtype: Name of a dtype policy, such as `"mixed_bfloat16"`.

    Returns:
        A model with weights of its own, not compiled.

    Raises:
        ValueError: If the model is not functional, or there is no such policy.
    """
    policy = keras.dtype_policies.get(dtype)
    config = functional_config(model)
    _set_dtype(config, policy, nested=False)
    result = type(model).from_config(config)
    set_named_weights(result, named_weights(model))
    return result


def _set_dtype(config: Config, policy: keras.DTypePolicy, nested: bool) -> None:
    for layer in config["layers"]:
        own = policy
        if layer["class_name"] == "InputLayer":
            if nested:
                layer["config"]["dtype"] = policy.compute_dtype
            continue
        if layer["class_name"] == "Dense" and not in_encoder(layer["config"]["name"]):
            own = keras.DTypePolicy(policy.variable_dtype)
        if "input_layers" in layer["config"]:
            layer.pop("build_config", None)
            _set_dtype(layer["config"], policy, nested=True)
        if "dtype" in layer["config"]:
            layer["config"]["dtype"] = keras.saving.serialize_keras_object(own)
