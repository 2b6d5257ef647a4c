"""2D convolutions that can pad by half the kernel on every side."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import keras
from keras import ops

from keras_preact.layers.lora import restart_lora
from keras_preact.layers.padding import FixedPadding, check_odd, pad_widths
from keras_preact.ops.bias import add_bias
from keras_preact.ops.choices import enabled
from keras_preact.ops.device import (
    is_tensorflow_on_cpu,
    kernels_pad,
    kernels_take_channels_first,
    kernels_take_groups,
)
from keras_preact.ops.kernel_gradient import convolution, products_pay
from keras_preact.ops.pointwise import trainable_pointwise
from keras_preact.ops.recomputation import recomputed
from keras_preact.ops.winograd import trainable_winograd, winograd_pays
from keras_preact.tensor import Tensor


class PaddedConvolution(FixedPadding):
    """Base of every convolution. A subclass has `fixed`, `_convolve` and Keras's attributes."""

    def set_pads(self) -> None:
        """Work out `pads`, once Keras has set its attributes.

        Raises:
            ValueError: If the padding is fixed and the kernel has an even side.
        """
        self.pads = None
        if self.fixed:
            check_odd("kernel_size", self.kernel_size)
        if self.fixed and all(stride == 1 for stride in self.strides):
            # The same result, padded inside the convolution.
            self.padding = "same"
        elif self.fixed and max(self.kernel_size) > 1:
            self.pads = tuple(
                dilation * (size // 2)
                for size, dilation in zip(self.kernel_size, self.dilation_rate, strict=True)
            )

    def kernel_in_use(self, kernel: Tensor) -> Tensor:
        """Return the kernel that convolves. A subclass may make another of the variable."""
        return kernel

    def convolution_op(self, inputs: Tensor, kernel: Tensor) -> Tensor:
        """Pad and convolve, without the bias."""
        return recomputed(self._in_layout, inputs, self.kernel_in_use(kernel))

    def _in_layout(self, inputs: Tensor, kernel: Tensor) -> Tensor:
        """Pad and convolve maps in the layout that the kernels take."""
        if self.data_format == "channels_last" or kernels_take_channels_first():
            return self._convolve(inputs, kernel, self.data_format)
        outputs = self._convolve(ops.transpose(inputs, (0, 2, 3, 1)), kernel, "channels_last")
        return ops.transpose(outputs, (0, 3, 1, 2))

    def finish(self, outputs: Tensor, training: bool = False) -> Tensor:
        """Apply bias and activation."""
        if self.use_bias:
            outputs = self._add_bias(outputs, training)
        return outputs if self.activation is None else self.activation(outputs)

    def _add_bias(self, outputs: Tensor, training: bool) -> Tensor:
        if self.data_format == "channels_last":
            # In inference an addition is better: TensorFlow merges it with the convolution.
            if training and is_tensorflow_on_cpu() and enabled("bias"):
                return add_bias(outputs, self.bias)
            return ops.add(outputs, self.bias)
        # On TensorFlow, `keras.ops.add` takes the last axis for the channels where it is as long.
        return outputs + ops.reshape(self.bias, (1, -1, 1, 1))


@keras.saving.register_keras_serializable(package="keras_preact")
class Conv2D(PaddedConvolution, keras.layers.Conv2D):
    """`keras.layers.Conv2D` that also knows `padding="fixed"`: half the kernel on every side.

    Args:
        filters: Output channels.
        kernel_size: Odd integer or pair of odd integers, in pixels.
        padding: `"fixed"`, `"same"` or `"valid"`.
        **kwargs: As for `keras.layers.Conv2D`.

    Raises:
        ValueError: If `padding` is `"fixed"` and the kernel has an even side.
    """

    def __init__(
        self, filters: int, kernel_size: Any, padding: str = "fixed", **kwargs: Any
    ) -> None:
        self.fixed = padding == "fixed"
        super().__init__(filters, kernel_size, padding="valid" if self.fixed else padding, **kwargs)
        self.set_pads()

    def call(self, inputs: Tensor, training: bool = False) -> Tensor:
        # In inference a convolution is better: TensorFlow merges it with the norm that follows.
        form = self._form_in_training(inputs.shape) if training else None
        if form is None:
            outputs = self.convolution_op(inputs, self.kernel)
        else:
            outputs = recomputed(form, inputs, self.kernel_in_use(self.kernel))
        return self.finish(outputs, training)

    def load_own_variables(self, store: Any) -> None:
        """Load what `save_own_variables` stored, and begin with LoRA's matrices anew."""
        super().load_own_variables(store)
        restart_lora(self)

    def _form_in_training(
        self, shape: tuple[int | None, int | None, int | None, int]
    ) -> Callable[[Tensor, Tensor], Tensor] | None:
        """Return the form that trains faster than the convolution, or None if there is none."""
        if not is_tensorflow_on_cpu() or self.groups > 1 or self.data_format != "channels_last":
            return None
        kernel_shape, dtype = self.kernel.shape, self.compute_dtype
        if self.kernel_size == (1, 1):
            return trainable_pointwise(kernel_shape, self.strides, dtype)
        if self.dilation_rate != (1, 1):
            return None
        by_products = products_pay(shape, kernel_shape, self.strides, dtype)
        if self.pads:
            if not by_products and not enabled("padding"):
                return None
            return partial(convolution, strides=self.strides, by_products=by_products)
        if self.kernel_size != (3, 3) or self.strides != (1, 1) or self.padding != "same":
            return None
        if dtype == "float32" and winograd_pays(shape, self.filters):
            return trainable_winograd
        return partial(convolution, by_products=True) if by_products else None

    def _convolve(self, inputs: Tensor, kernel: Tensor, data_format: str) -> Tensor:
        if self.groups == 1 or kernels_take_groups():
            return self._convolve_group(inputs, kernel, data_format)
        axis = 1 if data_format == "channels_first" else 3
        groups = zip(
            ops.split(inputs, self.groups, axis=axis),
            ops.split(kernel, self.groups, axis=3),
            strict=True,
        )
        return ops.concatenate(
            [self._convolve_group(each, own, data_format) for each, own in groups], axis=axis
        )

    def _convolve_group(self, inputs: Tensor, kernel: Tensor, data_format: str) -> Tensor:
        if self.pads:
            widths = pad_widths(self.pads, data_format)
            if kernels_pad() and enabled("padding"):
                return self._convolve_on_tensorflow(inputs, kernel, data_format, widths)
            inputs = ops.pad(inputs, widths)
        return ops.conv(
            inputs,
            kernel,
            strides=list(self.strides),
            padding=self.padding,
            dilation_rate=self.dilation_rate,
            data_format=data_format,
        )

    def _convolve_on_tensorflow(
        self, inputs: Tensor, kernel: Tensor, data_format: str, widths: list[list[int]]
    ) -> Tensor:
        """Pad inside TensorFlow's kernel, so that training keeps no padded copy of the input."""
        import tensorflow as tf

        return tf.nn.conv2d(
            inputs,
            kernel,
            self.strides,
            widths,
            data_format="NHWC" if data_format == "channels_last" else "NCHW",
            dilations=self.dilation_rate,
        )
