"""The kinds of convolution, as functions that make the layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import keras

from keras_preact.gains import activation_gain
from keras_preact.layers import Conv2D, ScaledStandardizedConv2D, StandardizedConv2D

if TYPE_CHECKING:
    from keras_preact.architecture import Architecture

# That of a scaled convolution (arXiv:2101.08692): the deviation that standardisation leaves.
_FAN_IN = {"scale": 1.0, "mode": "fan_in", "distribution": "untruncated_normal"}


def he_initializer() -> keras.initializers.Initializer:
    """He initialisation of the papers' code: deviation sqrt(2 / (k * k * channels out))."""
    return keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal")


def _plain(architecture: Architecture, zero_init: bool, **options: Any) -> Conv2D:
    return Conv2D(kernel_initializer=_he_or_zero(zero_init), **options)


def _standardized(architecture: Architecture, zero_init: bool, **options: Any) -> Conv2D:
    return StandardizedConv2D(kernel_initializer=_he_or_zero(zero_init), **options)


def _he_or_zero(zero: bool) -> keras.initializers.Initializer:
    return keras.initializers.Zeros() if zero else he_initializer()


def _scaled(architecture: Architecture, zero_init: bool, **options: Any) -> Conv2D:
    return ScaledStandardizedConv2D(
        activation_gain=activation_gain(architecture.activation),
        kernel_initializer=keras.initializers.VarianceScaling(**_FAN_IN),
        gain_initializer="zeros" if zero_init else "ones",
        **options,
    )


# By `Architecture.weight_standardization`: from the architecture, `zero_init` (whether what comes
# out starts at zero) and the layer's options.
CONVOLUTIONS: dict[bool | str, Callable[..., Conv2D]] = {
    True: _standardized,
    False: _plain,
    "scaled": _scaled,
}
