"""Kinds of convolution."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras

from keras_preact.blocks.gains import activation_gain
from keras_preact.layers import (
    Conv2D,
    DepthwiseConv2D,
    ScaledStandardizedConv2D,
    StandardizedConv2D,
    StandardizedDepthwiseConv2D,
)
from keras_preact.messages import require
from keras_preact.spec.fields import Fields


@dataclass(frozen=True)
class ConvolutionKind:
    """One kind of convolution.

    Attributes:
        layer: Class of the layer.
        depthwise: Class of the layer that convolves each channel separately. None if there is none.
        options: Returns the options of `layer`, among them its initializers, from the net and
            whether its output starts at zero.
    """

    layer: type[Conv2D]
    depthwise: type[DepthwiseConv2D] | None
    options: Callable[[Fields, bool], dict[str, Any]]


def he_initializer() -> keras.initializers.Initializer:
    """Return He's initializer as in the papers' code: deviation sqrt(2 / (k * k * filters))."""
    return keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal")


def he_or_zeros(zeros: bool) -> keras.initializers.Initializer:
    """Return He's initializer, or one of zeros."""
    return keras.initializers.Zeros() if zeros else he_initializer()


def _he_options(net: Fields, zero_init: bool) -> dict[str, Any]:
    return {"kernel_initializer": he_or_zeros(zero_init)}


def _scaled_options(net: Fields, zero_init: bool) -> dict[str, Any]:
    return {
        "activation_gain": activation_gain(net.activation),
        # The deviation that standardization leaves (arXiv:2101.08692).
        "kernel_initializer": keras.initializers.VarianceScaling(
            1.0, "fan_in", "untruncated_normal"
        ),
        "gain_initializer": "zeros" if zero_init else "ones",
    }


# By `Architecture.weight_standardization`.
CONVOLUTIONS: dict[bool | str, ConvolutionKind] = {
    True: ConvolutionKind(StandardizedConv2D, StandardizedDepthwiseConv2D, _he_options),
    False: ConvolutionKind(Conv2D, DepthwiseConv2D, _he_options),
    "scaled": ConvolutionKind(ScaledStandardizedConv2D, None, _scaled_options),
}


def check(net: Fields) -> None:
    """Check that the gain of the activation is known where convolutions use it.

    Raises:
        ValueError: If it is not.
    """
    if net.weight_standardization == "scaled":
        require(
            math.isfinite(activation_gain(net.activation)),
            "activation",
            'a function of each value by itself with `weight_standardization="scaled"`',
            net.activation,
        )
