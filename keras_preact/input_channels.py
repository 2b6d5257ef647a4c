"""Weights of the first convolution for images of another number of channels."""

from __future__ import annotations

import numpy as np

from keras_preact.spec.rules import POSITIVE_INTEGER
from keras_preact.tensor import Tensor


def adapt_kernel(kernel: Tensor, channels: int) -> np.ndarray:
    """Adapt the kernel of a convolution to another number of input channels, by timm's rule.

    For one channel the input channels are summed, so that a gray image gets the scores that it
    would get with its channel repeated. Otherwise they are repeated in turn, as often as needed,
    and scaled so that the response to an image with equal channels stays about the same.

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
