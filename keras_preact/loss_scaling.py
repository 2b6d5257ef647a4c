"""Loss scaling of nets that compute in float16."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import keras

from keras_preact.composition import named_layers


def with_loss_scaling(optimizer: keras.Optimizer, model: keras.Model) -> keras.Optimizer:
    """Let an optimizer scale the loss of a model that needs it.

    Gradients of float16 become 0 where they are small, unless the loss is scaled
    (arXiv:1710.03740, section 3.2). `model.compile` does so only by the policy of the model itself:
    see `scaling_when_compiled`.

    Args:
        optimizer: The optimizer.
        model: The model that it trains.

    Returns:
        A `keras.optimizers.LossScaleOptimizer` around it where a layer with weights, trained or
        frozen, computes in float16; else the optimizer itself.
    """
    if computes_in_float16(model):
        return keras.optimizers.LossScaleOptimizer(optimizer)
    return optimizer


def scaling_when_compiled(model: keras.Model) -> keras.Model:
    """Let `model.compile` scale the loss of a functional model that needs it.

    It looks at the policy of the model itself, which is the global one, whatever its layers compute
    in. A configuration does not hold it, so that models that are loaded have the global one again;
    but those that were compiled are loaded with the optimizer that scales, and its state.

    Args:
        model: The model.

    Returns:
        The model, under the policy `"mixed_float16"` where a layer with float32 weights, trained or
        frozen, computes in float16. Its layers keep theirs.
    """
    dtypes = {(layer.variable_dtype, layer.compute_dtype) for layer in _weighted(model)}
    if ("float32", "float16") in dtypes:
        model.dtype_policy = keras.DTypePolicy("mixed_float16")
        model.get_compile_config = functools.partial(_compile_config, model)
    return model


def _compile_config(model: keras.Model) -> dict[str, Any]:
    """Return what a model's file says of `compile`, with the optimizer that Keras made of another.

    Keras stores the one that `compile` was given, whose variables are not those of the file.
    """
    config = type(model).get_compile_config(model)
    if config:
        config["optimizer"] = keras.saving.serialize_keras_object(model.optimizer)
    return config


def computes_in_float16(model: keras.Model) -> bool:
    """Return whether a layer with weights, trained or frozen, computes in float16."""
    return any(layer.compute_dtype == "float16" for layer in _weighted(model))


def _weighted(model: keras.Model) -> Iterator[keras.layers.Layer]:
    # Checkpoints name the optimizer's variables: freezing layers must not change it.
    return (layer for _, layer in named_layers(model) if layer.variables)
