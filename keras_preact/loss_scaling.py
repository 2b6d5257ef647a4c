"""Loss scaling of nets that compute in float16."""

from __future__ import annotations

import keras

from keras_preact.composition import named_layers


def with_loss_scaling(optimizer: keras.Optimizer, model: keras.Model) -> keras.Optimizer:
    """Let an optimizer scale the loss of a model that needs it.

    Gradients of float16 become 0 where they are small, unless the loss is scaled
    (arXiv:1710.03740, section 3.2). `model.compile` does so only by the policy of the model itself.
    That of a functional model is the global one, whatever its layers compute in.

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


def computes_in_float16(model: keras.Model) -> bool:
    """Return whether a layer with weights, trained or frozen, computes in float16."""
    # Checkpoints name the optimizer's variables: freezing layers must not change it.
    weighted = (layer for _, layer in named_layers(model) if layer.variables)
    return any(layer.compute_dtype == "float16" for layer in weighted)
