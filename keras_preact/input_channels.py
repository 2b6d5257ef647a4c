"""Weights of the first convolution for images of another number of channels."""

from __future__ import annotations

from collections.abc import Mapping

import keras
import numpy as np

from keras_preact.layers.scaled_standardized_conv import (
    ScaledStandardizedConv2D,
    gain_for_same_scale,
)
from keras_preact.spec.rules import POSITIVE_INTEGER
from keras_preact.tensor import Tensor


def adapt_kernel(kernel: Tensor, channels: int) -> np.ndarray:
    """Adapt the kernel of a convolution to another number of input channels, by timm's rule.

    For one channel the input channels are summed, so that a gray image gets the scores that it
    would get with its channel repeated. Otherwise they are repeated in turn, as often as needed,
    and scaled so that the response to an image with equal channels stays about the same.

    That holds for a kernel that convolves as it is. A layer that standardizes its kernel takes the
    scale out again. `ScaledStandardizedConv2D` has a gain per filter, which is adapted with the
    kernel (`keras_preact.transforms.adapt_input_channels`, and published weights as they are
    loaded). `StandardizedConv2D`, as in BiT, has nothing that could hold the scale: the response of
    each filter changes by a factor of its own, here as in timm, and the net needs further training.

    Args:
        kernel: Array `(height, width, channels in, channels out)`.
        channels: Input channels of the new kernel.

    Returns:
        A new array `(height, width, channels, channels out)` of the same dtype.

    Raises:
        ValueError: If the kernel is not of rank 4, or `channels` is not a positive integer.
    """
    kernel = np.asarray(kernel)
    if kernel.ndim != 4:
        raise ValueError(
            "`kernel` must have the shape (height, width, channels in, channels out). "
            f"Received: shape {kernel.shape}"
        )
    channels = POSITIVE_INTEGER.check("channels", channels)
    given = kernel.shape[2]
    if channels == given:
        return kernel.copy()
    exact = kernel.astype("float32")
    if channels == 1:
        adapted = exact.sum(axis=2, keepdims=True)
    else:
        adapted = exact[:, :, np.arange(channels) % given] * (given / channels)
    return adapted.astype(kernel.dtype)


def adapt_convolution(
    layer: keras.layers.Layer, arrays: Mapping[str, np.ndarray], channels: int
) -> dict[str, np.ndarray]:
    """Adapt all weights of a net's first convolution to another number of input channels.

    Args:
        layer: The convolution.
        arrays: Its weights, under the keys that `save_own_variables` gives them.
        channels: Input channels of the new convolution.

    Returns:
        The adapted weights, under the same keys. The gain of a `ScaledStandardizedConv2D` keeps
        what `adapt_kernel` says exact for one channel, and for a multiple of the former ones.
    """
    adapted = {
        key: adapt_kernel(array, channels) if array.ndim == 4 else array
        for key, array in arrays.items()
    }
    # Weights of another kind of convolution are refused where they are set.
    if isinstance(layer, ScaledStandardizedConv2D) and layer.gain_key in arrays:
        gain = arrays[layer.gain_key]
        adapted[layer.gain_key] = gain_for_same_scale(gain, arrays["0"], adapted["0"])
    return adapted
