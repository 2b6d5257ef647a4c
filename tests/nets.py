"""Small nets to test with, images for them, and their scores."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import keras
import numpy as np

import keras_preact
from keras_preact import Architecture
from keras_preact.build import body, layer_factory, net_inputs, top

# Two stages with every kind of unit: projecting with and without a stride, and alike (they scan).
SMALL = Architecture(
    units=(2, 3),
    channels=(32, 64),
    strides=(1, 2),
    stem="cifar",
    stem_channels=16,
    norm_groups=8,
)
# The least that has two stages.
TINY = SMALL.replace(unit="basic", units=(1, 1), channels=(8, 16), stem_channels=8)

# Four stages, whose maps have the strides of a detector's pyramid.
FOUR_STAGES = Architecture(
    units=(1, 1, 1, 1),
    channels=(8, 12, 16, 20),
    strides=(1, 2, 2, 2),
    unit="basic",
    stem_channels=8,
)


def images(*shape: int, seed: int = 0) -> np.ndarray:
    """Return normally distributed float32 images `(batch, height, width, channels)`."""
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


X = images(2, 16, 16, 3)


def net(
    changes: dict[str, Any] | None = None,
    randomize: bool = True,
    *,
    architecture: Architecture = SMALL,
    seed: int = 0,
    nested: bool = False,
    **options: Any,
) -> keras.Model:
    """Build a small net.

    Args:
        changes: Fields of `architecture` to change.
        randomize: Whether to draw every scale, shift and statistic anew, so that none is at a
            neutral value that hides an error.
        architecture: The net before the changes.
        seed: Seed of the kernels.
        nested: Whether units are nested models, as they are in nets that are deep enough.
        **options: Arguments of `PreActResNet`; by default images as `X`, and ten classes.

    Returns:
        The net, the same in every call with the same arguments.
    """
    # Keras draws the seeds of initializers and of random layers here. TensorFlow's own seed, which
    # nothing in a net reads, would empty its cache of kernels: half of the time of a small net.
    random.seed(seed)
    options = {"input_shape": X.shape[1:], "classes": 10, **options}
    build = nested_net if nested else keras_preact.PreActResNet
    model = build(architecture.replace(**changes or {}), **options)
    rng = np.random.default_rng(1)
    for variable in model.weights:
        if randomize and len(variable.shape) == 1:
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    return model


def nested_net(
    architecture: Architecture,
    input_shape: tuple[int, ...],
    classes: int,
    classifier_activation: Any = "softmax",
    dtype: str | None = None,
    data_format: str | None = None,
    name: str = "nested",
) -> keras.Model:
    """Build a net whose units, and blocks of an encoder, are nested models."""
    make = dataclasses.replace(layer_factory(architecture, data_format, dtype), nests=True)
    inputs = net_inputs(make, architecture, input_shape=input_shape)
    x = body(inputs, make, architecture)
    return keras.Model(inputs, top(x, make, classes, classifier_activation), name=name)


def scores(model: Any, x: Any = X) -> np.ndarray:
    """Return the output of a model in inference as an array."""
    return keras.ops.convert_to_numpy(model(x))
