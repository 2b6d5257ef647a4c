"""Sharpness of a minimum: the largest eigenvalue of the loss's Hessian, by power iteration."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_preact.analysis.differentiation import differentiable
from keras_preact.composition import named_layers
from keras_preact.layers import StackedUnits
from keras_preact.tensor import Tensor
from keras_preact.transforms import unroll

# A vector in the space of the weights, as one array a variable.
Vector = list[np.ndarray]


@dataclass(frozen=True)
class Sharpness:
    """Eigenvalue of the Hessian that is largest in absolute value.

    Attributes:
        eigenvalue: Below 0 where the loss curves down most.
        change: By how much the last iteration changed it, as a share of it.
        iterations: Products of the Hessian and a vector that it took.
    """

    eigenvalue: float
    change: float
    iterations: int


def sharpness(
    model: keras.Model,
    x: Tensor,
    y: Tensor,
    loss: Any = "sparse_categorical_crossentropy",
    iterations: int = 50,
    tolerance: float = 1e-3,
    seed: int = 0,
) -> Sharpness:
    """Find the Hessian's largest eigenvalue, over all weights that are trained.

    Each iteration takes the product of the Hessian and a vector, which costs about two gradients
    (Pearlmutter 1994); no Hessian is made. The net is in inference, and is not changed. Where it
    computes in float16, a copy in float32 is measured.

    Args:
        model: A net; one of stacked units is unrolled, with copies of the weights.
        x: Images `(batch, height, width, channels)`, or with the channels first.
        y: Targets that the loss compares with the net's output.
        loss: A Keras loss, or its name.
        iterations: Most iterations.
        tolerance: Change of the eigenvalue, as a share of it, at which they end.
        seed: Seed of the first vector.

    Returns:
        The eigenvalue; `change` is above `tolerance` where the iterations were too few.

    Raises:
        ValueError: If `iterations` is not positive, nothing is trained, or the model computes in
            float16 and is not functional, or holds layers of classes that are not registered with
            Keras; on TensorFlow, if it has float8 layers.
    """
    if iterations < 1:
        raise ValueError(f"`iterations` must be 1 or more. Received: {iterations}")
    model = differentiable(model)
    if any(isinstance(layer, StackedUnits) for _, layer in named_layers(model)):
        model = unroll(model)
    if not model.trainable_variables:
        raise ValueError(f"`model` must have weights that are trained. Received: {model.name!r}")
    compute = keras.losses.get(loss)
    x, y = ops.convert_to_tensor(x), ops.convert_to_tensor(y)

    def mean_loss(outputs: Any) -> Tensor:
        # The one output may be in a dictionary.
        found = keras.tree.flatten(outputs)
        return ops.mean(compute(y, found[0] if len(found) == 1 else outputs))

    product = _PRODUCTS[keras.backend.backend()]
    rng = np.random.default_rng(seed)
    shapes = [tuple(each.shape) for each in model.trainable_variables]
    multiplied = [rng.standard_normal(shape) for shape in shapes]
    eigenvalue, change, done = 0.0, math.inf, 0
    while done < iterations and change > tolerance:
        vector = _normalized(multiplied)
        multiplied = product(model, x, mean_loss, vector)
        before, eigenvalue = eigenvalue, _dot(vector, multiplied)
        change = abs(eigenvalue - before) / max(abs(eigenvalue), float(np.finfo("float32").tiny))
        done += 1
    return Sharpness(eigenvalue, change, done)


def _dot(a: Vector, b: Vector) -> float:
    return float(sum(np.vdot(x.astype("float64"), y) for x, y in zip(a, b, strict=True)))


def _normalized(vector: Sequence[np.ndarray]) -> Vector:
    norm = np.sqrt(_dot(list(vector), list(vector)))
    return [(each / norm).astype("float32") for each in vector]


def _tensorflow(model: keras.Model, x: Tensor, loss: Callable, vector: Vector) -> Vector:
    import tensorflow as tf

    variables = [each.value for each in model.trainable_variables]
    with tf.GradientTape() as outer:
        with tf.GradientTape() as inner:
            value = loss(model(x, training=False))
        gradients = inner.gradient(value, variables, unconnected_gradients="zero")
        along = _along(gradients, vector)
    products = outer.gradient(along, variables, unconnected_gradients="zero")
    return list(map(_as_array, products))


def _jax(model: keras.Model, x: Tensor, loss: Callable, vector: Vector) -> Vector:
    import jax
    import jax.numpy as jnp

    frozen = [each.value for each in model.non_trainable_variables]

    def value(weights: list[Tensor]) -> Tensor:
        return loss(model.stateless_call(weights, frozen, x, training=False)[0])

    weights = [each.value for each in model.trainable_variables]
    # JAX takes changes in the weights' own dtypes only.
    changes = [jnp.asarray(v, w.dtype) for v, w in zip(vector, weights, strict=True)]
    _, products = jax.jvp(jax.grad(value), (weights,), (changes,))
    return list(map(_as_array, products))


def _torch(model: keras.Model, x: Tensor, loss: Callable, vector: Vector) -> Vector:
    import torch

    weights = [each.value for each in model.trainable_variables]
    with torch.enable_grad():
        gradients = torch.autograd.grad(
            loss(model(x, training=False)),
            weights,
            create_graph=True,
            allow_unused=True,
            materialize_grads=True,
        )
        along = _along(gradients, vector)
        products = torch.autograd.grad(along, weights, allow_unused=True, materialize_grads=True)
    return list(map(_as_array, products))


def _along(gradients: Sequence[Tensor], vector: Vector) -> Tensor:
    """Return the product of gradients and a vector, summed in float32 at least."""
    return reduce(add, map(_sum_of_products, gradients, vector))


def _sum_of_products(gradient: Tensor, direction: np.ndarray) -> Tensor:
    dtype = _at_least_float32(gradient)
    return ops.sum(ops.cast(gradient, dtype) * ops.convert_to_tensor(direction, dtype))


def _as_array(product: Tensor) -> np.ndarray:
    """Return a tensor as an array in float32 at least, which NumPy computes in."""
    return ops.convert_to_numpy(ops.cast(product, _at_least_float32(product)))


def _at_least_float32(x: Tensor) -> str:
    return keras.backend.result_type(keras.backend.standardize_dtype(x.dtype), "float32")


# The product of the Hessian and a vector, by backend.
_PRODUCTS: dict[str, Callable[[keras.Model, Tensor, Callable, Vector], Vector]] = {
    "tensorflow": _tensorflow,
    "jax": _jax,
    "torch": _torch,
}
