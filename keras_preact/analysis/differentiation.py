"""Gradients through functions of tensors, on any of Keras's backends."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import keras
from keras import ops

from keras_preact.composition import layers_by_path, named_layers, required_functional
from keras_preact.loss_scaling import computes_in_float16
from keras_preact.tensor import Tensor
from keras_preact.transforms import with_dtype

# From a gradient at each output, or None for none, to that at the input.
PullBack = Callable[[Sequence[Tensor]], Tensor]


def differentiable(model: keras.Model) -> keras.Model:
    """Return a model of the same weights that gradients can be taken through.

    The gradient of a mean loss, at one place in one of many images, is often too small for float16,
    where it would be 0.

    Args:
        model: A model; a functional one where it computes in float16.

    Returns:
        The model itself, or a copy that computes in float32 where the model computes in float16.

    Raises:
        ValueError: If Keras runs on TensorFlow and `model.quantize` has made layers float8, or the
            model computes in float16 and is not functional, or holds layers that Keras cannot
            build from their configuration.
    """
    if keras.backend.backend() == "tensorflow":
        _check_no_float8(model)
    return _in_float32(model) if computes_in_float16(model) else model


def _in_float32(model: keras.Model) -> keras.Model:
    """Return a copy in float32 whose trained variables are at the same place."""
    required_functional(model)
    try:
        copy = with_dtype(model, "float32")
    except (NotImplementedError, TypeError, ValueError) as error:
        strange = [path for path, layer in named_layers(model) if not _can_be_copied(layer)]
        if not strange:
            raise
        raise ValueError(
            "`model` computes in float16, and gradients are taken through a copy in float32, "
            "which Keras must be able to build: register the classes of its layers with "
            "`keras.saving.register_keras_serializable`, and allow `Lambda` layers with "
            f"`keras.config.enable_unsafe_deserialization`. Received: {model.name!r}, whose "
            f"{strange} cannot be copied"
        ) from error
    layers = dict(layers_by_path(model))
    for path, layer in layers_by_path(copy):
        # Keras saves LoRA's matrices merged into the kernel, and begins them anew.
        if getattr(layer, "lora_enabled", False):
            layer.set_weights(layers[path].get_weights())
    return copy


def _can_be_copied(layer: keras.layers.Layer) -> bool:
    """Return whether Keras builds a layer from its configuration; of a model, whatever it holds."""
    if isinstance(layer, keras.Model):
        return True
    try:
        keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    except (NotImplementedError, TypeError, ValueError):
        return False
    return True


def _check_no_float8(model: keras.Model) -> None:
    float8 = [
        layer.name for layer in model._flatten_layers() if layer.quantization_mode == "float8"
    ]
    if float8:
        raise ValueError(
            "`model` must have no float8 layers, through which Keras takes no gradients on "
            f"TensorFlow. Received: {model.name!r}, whose {float8} are float8"
        )


def linearize(
    function: Callable[[Tensor], Sequence[Tensor]], x: Tensor
) -> tuple[list[Tensor], PullBack]:
    """Evaluate a function, ready to take gradients back through it as often as one likes.

    Assignments to variables, such as the moving statistics of norms, do not last.

    Args:
        function: From one tensor to a sequence of tensors.
        x: Where to evaluate it.

    Returns:
        The outputs; and a function from a gradient at each of them, None where there is none, to
        the gradient at `x`.
    """
    with keras.StatelessScope():
        return _LINEARIZE[keras.backend.backend()](function, x)


def _tensorflow(function: Callable, x: Tensor) -> tuple[list[Tensor], PullBack]:
    import tensorflow as tf

    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        outputs = list(function(x))

    def pull(gradients: Sequence[Tensor]) -> Tensor:
        known = [(y, g) for y, g in zip(outputs, gradients, strict=True) if g is not None]
        return tape.gradient(
            [y for y, _ in known],
            x,
            output_gradients=[g for _, g in known],
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )

    return outputs, pull


def _jax(function: Callable, x: Tensor) -> tuple[list[Tensor], PullBack]:
    import jax
    import jax.numpy as jnp

    outputs, vjp = jax.vjp(lambda each: list(function(each)), x)

    def pull(gradients: Sequence[Tensor]) -> Tensor:
        filled = [
            jnp.zeros_like(y) if g is None else g for y, g in zip(outputs, gradients, strict=True)
        ]
        return vjp(filled)[0]

    return outputs, pull


def _torch(function: Callable, x: Tensor) -> tuple[list[Tensor], PullBack]:
    import torch

    with torch.enable_grad():
        x = x.detach().requires_grad_()
        outputs = list(function(x))

    def pull(gradients: Sequence[Tensor]) -> Tensor:
        known = [(y, g) for y, g in zip(outputs, gradients, strict=True) if g is not None]
        (gradient,) = torch.autograd.grad(
            [y for y, _ in known],
            x,
            grad_outputs=[g for _, g in known],
            retain_graph=True,
            allow_unused=True,
            materialize_grads=True,
        )
        return gradient

    return [output.detach() for output in outputs], pull


_LINEARIZE: dict[str, Callable] = {"tensorflow": _tensorflow, "jax": _jax, "torch": _torch}


def norm(x: Tensor) -> Tensor:
    """Return the Euclidean norm of a tensor, a float32 scalar."""
    return ops.sqrt(ops.sum(ops.square(ops.cast(x, "float32"))))
