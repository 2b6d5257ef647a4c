"""The first convolution's weights, for images of another number of channels."""

from __future__ import annotations

from typing import Any

import numpy as np


def adapt_kernel(kernel: Any, channels: int) -> np.ndarray:
    """A convolution's kernel for another number of input channels, by timm's rule.

    For one channel the input channels are summed, so that a grey image scores as it would with its
    channel repeated. Otherwise they are repeated in turn, as often as needed, and scaled so that
    the kernel's response to an image whose channels are alike stays about the same.

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
    check_channels(channels)
    given = kernel.shape[2]
    if channels == given:
        return kernel.copy()
    exact = kernel.astype("float32")
    if channels == 1:
        adapted = exact.sum(axis=2, keepdims=True)
    else:
        adapted = exact[:, :, np.arange(channels) % given] * (given / channels)
    return adapted.astype(kernel.dtype)


def check_channels(channels: Any) -> None:
    """Check a number of channels.

    Raises:
        ValueError: If it is not a positive integer.
    """
    if not isinstance(channels, int) or isinstance(channels, bool) or channels < 1:
        raise ValueError(
            "`channels` must be a positive integer. "
            f"Received: {channels!r} (of type {type(channels).__name__})"
        )
