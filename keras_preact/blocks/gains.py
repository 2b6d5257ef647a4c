"""Variance gains of activations (arXiv:2101.08692)."""

from __future__ import annotations

import functools

import keras
import numpy as np

# Constants of the paper's code, github.com/deepmind/deepmind-research/tree/master/nfnets, which the
# published nets were trained with. They were estimated from random numbers and are up to 0.1% off:
# for ReLU, `sqrt(2 / (1 - 1 / pi))` is 1.7128.
_PUBLISHED = {
    "celu": 1.270926833152771,
    "elu": 1.2716004848480225,
    "gelu": 1.7015043497085571,
    "linear": 1.0,
    "log_sigmoid": 1.9193484783172607,
    "relu": 1.7139588594436646,
    "relu6": 1.7131484746932983,
    "selu": 1.0008515119552612,
    "sigmoid": 4.803835391998291,
    "silu": 1.7881293296813965,
    "softplus": 1.9203323125839233,
    "softsign": 2.338853120803833,
    "tanh": 1.5939117670059204,
}


def activation_gain(activation: str) -> float:
    """Return the factor that brings the variance of an activation's output back to 1.

    Args:
        activation: Name of a Keras activation.

    Returns:
        One over the standard deviation of the output for inputs from the standard normal
        distribution (arXiv:2101.08692): the published constant where there is one. Infinity for an
        activation, such as softmax, whose output is constant for a channel by itself.
    """
    name = keras.activations.get(activation).__name__
    return _PUBLISHED[name] if name in _PUBLISHED else computed_gain(activation)


@functools.cache
def computed_gain(activation: str) -> float:
    """Return the gain of any activation, see `activation_gain`, by numerical integration."""
    x = np.linspace(-12, 12, 24001)
    density = np.exp(-(x**2) / 2)
    density /= density.sum()
    values = keras.activations.get(activation)(keras.ops.convert_to_tensor(x[:, None], "float32"))
    values = keras.ops.convert_to_numpy(values)[:, 0].astype("float64")
    variance = np.sum(density * values**2) - np.sum(density * values) ** 2
    return float(1 / np.sqrt(variance)) if variance > 1e-12 else float("inf")
