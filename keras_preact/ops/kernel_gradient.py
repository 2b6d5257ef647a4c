"""Convolutions that differentiate faster on TensorFlow without a GPU.

TensorFlow's gradients are slow there where a convolution pads by itself. That of the kernel, a sum
over all pixels, is slow where maps are small or strides skip pixels
(`benchmarks/kernel_gradient.py`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from keras_preact.ops.choices import enabled
from keras_preact.ops.custom_gradient import depends_on, value_of
from keras_preact.tensor import Tensor

# With fewer channels, in or out, products for each tap take longer than the convolution's gradient.
_LEAST_CHANNELS = 128
# In 16 bits the convolution's gradient is the slower one in maps of fewer pixels than this.
_FEW_PIXELS = 256


def products_pay(
    shape: tuple[int | None, ...],
    kernel_shape: tuple[int, int, int, int],
    strides: tuple[int, int],
    dtype: str,
) -> bool:
    """Return whether `by_products` makes a 3x3 `convolution` faster.

    Args:
        shape: Shape of the inputs, `(batch, height, width, channels)`.
        kernel_shape: `(height, width, channels, filters)`.
        strides: Down and across, in pixels.
        dtype: Dtype of inputs and kernel.
    """
    _, height, width, _ = shape
    *sides, channels, filters = kernel_shape
    if height is None or width is None or not enabled("products"):
        return False
    if tuple(sides) != (3, 3):
        return False
    if min(channels, filters) < _LEAST_CHANNELS:
        return False
    if tuple(strides) == (1, 1):
        return dtype == "bfloat16" and height * width < _FEW_PIXELS
    return tuple(strides) == (2, 2)


def convolution(
    inputs: Tensor, kernel: Tensor, strides: tuple[int, int] = (1, 1), *, by_products: bool
) -> Tensor:
    """Convolve on TensorFlow, padded by half the kernel, with faster gradients.

    The inputs are padded again for the gradients, so that training keeps no padded copy.

    Args:
        inputs: Maps `(batch, height, width, channels)`.
        kernel: `(height, width, channels, filters)`, of the same dtype; of odd height and width.
        strides: Down and across, in pixels.
        by_products: Whether the kernel's gradient is a matrix product for each of its taps, of the
            pixels that it met and the gradient of the outputs. Maps must be of a known size, and a
            stride divide what the kernel's side has beyond 1.

    Returns:
        Maps `(batch, ceil(height / stride down), ceil(width / stride across), filters)`.
    """
    return _convolution(tuple(strides), by_products)(inputs, value_of(kernel))


@functools.cache
def _convolution(strides: tuple[int, int], by_products: bool) -> Callable[[Tensor, Tensor], Tensor]:
    import tensorflow as tf

    gradient_of_kernel = _by_products if by_products else _by_convolution

    @tf.custom_gradient
    def convolve(inputs: Tensor, kernel: Tensor) -> Tensor:
        def gradient(upstream: Tensor) -> tuple[Tensor, Tensor]:
            of_inputs = _gradient_of_inputs(inputs, kernel, upstream, strides)
            late = depends_on(upstream, inputs)
            return of_inputs, gradient_of_kernel(late, kernel, upstream, strides)

        padding = "SAME" if strides == (1, 1) else _pads(kernel)
        return tf.nn.conv2d(inputs, kernel, strides, padding), gradient

    return convolve


def _pads(kernel: Tensor) -> list[list[int]]:
    """Return half of the kernel, before and after height and width."""
    down, across = (side // 2 for side in kernel.shape[:2])
    return [[0, 0], [down, down], [across, across], [0, 0]]


def _gradient_of_inputs(
    inputs: Tensor, kernel: Tensor, upstream: Tensor, strides: tuple[int, int]
) -> Tensor:
    import tensorflow as tf

    arguments = {"filter": kernel, "out_backprop": upstream, "strides": [1, *strides, 1]}
    size = tf.shape(inputs)
    if strides == (1, 1):
        return tf.raw_ops.Conv2DBackpropInput(input_sizes=size, padding="SAME", **arguments)
    pads = tf.constant(_pads(kernel))
    padded = tf.raw_ops.Conv2DBackpropInput(
        input_sizes=size + tf.reduce_sum(pads, axis=1), padding="VALID", **arguments
    )
    return tf.slice(padded, pads[:, 0], size)


def _by_convolution(
    inputs: Tensor, kernel: Tensor, upstream: Tensor, strides: tuple[int, int]
) -> Tensor:
    import tensorflow as tf

    return tf.raw_ops.Conv2DBackpropFilter(
        input=tf.pad(inputs, _pads(kernel)),
        filter_sizes=kernel.shape,
        out_backprop=upstream,
        strides=[1, *strides, 1],
        padding="VALID",
    )


def _by_products(
    inputs: Tensor, kernel: Tensor, upstream: Tensor, strides: tuple[int, int]
) -> Tensor:
    import tensorflow as tf

    upstreams = tf.reshape(upstream, (-1, upstream.shape[-1]))
    products = [
        tf.matmul(tf.reshape(pixels, (-1, inputs.shape[-1])), upstreams, transpose_a=True)
        for pixels in _pixels_of_taps(inputs, kernel, strides)
    ]
    return tf.reshape(tf.stack(products), kernel.shape)


def _pixels_of_taps(inputs: Tensor, kernel: Tensor, strides: tuple[int, int]) -> list[Tensor]:
    """Return the pixels that each tap of the kernel met, in maps as large as the outputs."""
    import tensorflow as tf

    sides = kernel.shape[:2]
    if sides == strides == (1, 1):
        return [inputs]
    if sides == (1, 1) and None in inputs.shape[1:3]:
        return [inputs[:, :: strides[0], :: strides[1]]]
    # A strided slice of maps takes longer than the convolution. In a grid of cells of a stride's
    # pixels, the same is a slice of whole rows.
    outputs, cells, pads = [], [], [[0, 0]]
    for size, side, stride in zip(inputs.shape[1:3], sides, strides, strict=True):
        outputs.append(-(-size // stride))
        cells.append(outputs[-1] + (side - 1) // stride)
        pads.append([side // 2, cells[-1] * stride - size - side // 2])
    down, across = strides
    padded = tf.pad(inputs, [*pads, [0, 0]])
    grid = tf.reshape(padded, (-1, cells[0], down, cells[1], across, inputs.shape[-1]))
    return [
        grid[:, top : top + outputs[0], row, left : left + outputs[1], column]
        for top, row in (divmod(tap, down) for tap in range(sides[0]))
        for left, column in (divmod(tap, across) for tap in range(sides[1]))
    ]
