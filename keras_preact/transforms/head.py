"""New heads on the bodies of nets."""

from __future__ import annotations

from typing import Any

import keras

from keras_preact.blocks.head import classifier, global_pool
from keras_preact.composition import functional, nested_net, output_of
from keras_preact.layer_names import body_end, data_format, first_convolution, has_stages
from keras_preact.loss_scaling import scaling_when_compiled
from keras_preact.spec.rules import COUNT, plain
from keras_preact.tensor import Tensor


def replace_head(
    model: keras.Model,
    classes: int | None,
    classifier_activation: Any = "softmax",
    name: str | None = None,
) -> keras.Model:
    """Build the same net with a new last layer, for other classes.

    The body's layers are those of `model`, not copies: training or freezing them in one model does
    so in both, and memory holds them once. For a body of its own, start from
    `keras.models.clone_model(model)` with `model`'s weights. `predictions` is new and starts as in
    a new net. A net without the top gets one: its pooling, or what a new net has where it has none
    (the mean, or a transformer encoder's class token), and `predictions`.

    Args:
        model: A net built by this package, with or without its top, or a functional model that ends
            in such a net.
        classes: Number of classes; None or 0 for no `predictions`: the model then returns the
            pooled vector of each image.
        classifier_activation: Activation of the last layer; None for logits.
        name: Name of the new model; `model`'s by default.

    Returns:
        A functional model from `model`'s input to the scores, not compiled.

    Raises:
        ValueError: If the model is no such net, goes on after its head, or is cut before the norm
            and activation that follow its last stage; or `classes` is no number of classes.
    """
    classes = plain(classes)
    if not (classes is None or COUNT.holds(classes)):
        raise ValueError(
            "`classes` must be a positive integer, or None or 0 for no classifier. "
            f"Received: {classes!r} (of type {type(classes).__name__})"
        )
    model = functional(model)
    if isinstance(model, keras.Model) and not has_stages(model):
        net = nested_net(model)
        _check_end(model, net.model, net.output)
        inner = replace_head(net.model, classes, classifier_activation)
        output = net.called(inner)
    else:
        output = _pooled(model)
        if classes:
            policy = first_convolution(model).dtype_policy
            output = classifier(output, classes, classifier_activation, policy, name="predictions")
    result = keras.Model(model.input, output, name=name or model.name)
    return scaling_when_compiled(result)


def _check_end(model: keras.Model, net: keras.Model, output: Tensor) -> None:
    if len(model.outputs) != 1 or model.outputs[0] is not output:
        raise ValueError(
            f"`model` must end in its net, {net.name!r}, whose head is replaced. Received: "
            f"{model.name!r}, which goes on after it to {model.layers[-1].name!r}"
        )


def _pooled(model: Any) -> Tensor:
    """Return the vector per image that a net's classifier takes."""
    body = body_end(model)
    end = model.get_layer(index=-1)
    ends = ("predictions", "head_pool", body.name)
    if len(model.outputs) != 1 or end.name not in ends or output_of(end) is not model.outputs[0]:
        raise ValueError(
            f"`model` must end in one of the layers {ends}, as the builders' nets do. "
            f"Received: {model.name!r}, which returns {model.output}"
        )
    if end.name == "predictions":
        return end.input
    if end.name == "head_pool":
        return end.output
    policy = first_convolution(model).dtype_policy
    return global_pool(output_of(end), None, data_format(model), policy, name="head_pool")
