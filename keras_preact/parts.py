"""Makes the layers of one net: what its architecture chose, under the names given here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras

from keras_preact import head
from keras_preact.architecture import Architecture
from keras_preact.layers import (
    BatchNormalization,
    Conv2D,
    DropPath,
    EvoNormS0,
    MaxPooling2D,
    StandardizedConv2D,
)

# He initialisation of the papers' code: deviation sqrt(2 / (k * k * channels out)).
_HE_FAN_OUT = {"scale": 2.0, "mode": "fan_out", "distribution": "untruncated_normal"}


def _batch_norm(architecture: Architecture, **common: Any) -> keras.layers.Layer:
    return BatchNormalization(momentum=architecture.norm_momentum, **common)


def _group_norm(architecture: Architecture, **common: Any) -> keras.layers.Layer:
    return keras.layers.GroupNormalization(architecture.norm_groups, **common)


def _evonorm_s0(architecture: Architecture, **common: Any) -> keras.layers.Layer:
    return EvoNormS0(architecture.norm_groups, **common)


NORMS: dict[str, Callable[..., keras.layers.Layer]] = {
    "batch": _batch_norm,
    "group": _group_norm,
    "evonorm_s0": _evonorm_s0,
}


@dataclass(frozen=True)
class Parts:
    """Makes and applies the layers of one net.

    Attributes:
        architecture: Decides what the layers are.
        data_format: `"channels_last"` or `"channels_first"`.
        dtype: Dtype policy of every layer.
    """

    architecture: Architecture
    data_format: str
    dtype: keras.DTypePolicy

    @property
    def channel_axis(self) -> int:
        """Axis of the channels in a batch."""
        return 1 if self.data_format == "channels_first" else 3

    def conv(
        self,
        x: Any,
        filters: int,
        kernel_size: int,
        stride: int = 1,
        dilation: int = 1,
        *,
        normalized: bool = False,
        zero_init: bool = False,
        name: str,
    ) -> Any:
        """A convolution with He initialisation, or one that starts at zero.

        `normalized` says that a normalisation follows.
        """
        architecture = self.architecture
        convolution = StandardizedConv2D if architecture.weight_standardization else Conv2D
        layer = convolution(
            filters,
            kernel_size,
            strides=stride,
            dilation_rate=dilation,
            padding=architecture.padding,
            use_bias=architecture.use_bias is True
            or (architecture.use_bias == "unnormalized" and not normalized),
            kernel_initializer=(
                keras.initializers.Zeros()
                if zero_init
                else keras.initializers.VarianceScaling(**_HE_FAN_OUT)
            ),
            data_format=self.data_format,
            dtype=self.dtype,
            name=name,
        )
        return layer(x)

    def norm_act(self, x: Any, prefix: str, index: int | str = "") -> Any:
        """Normalisation, then activation: the pre-activation of what follows."""
        norm = NORMS[self.architecture.norm](
            self.architecture,
            axis=self.channel_axis,
            epsilon=self.architecture.norm_epsilon,
            dtype=self.dtype,
            name=f"{prefix}_norm{index}",
        )
        act = keras.layers.Activation(
            self.architecture.activation, dtype=self.dtype, name=f"{prefix}_act{index}"
        )
        return act(norm(x))

    def dropout(self, x: Any, *, name: str) -> Any:
        """Dropout at the architecture's rate; nothing where that is 0."""
        rate = self.architecture.dropout
        return keras.layers.Dropout(rate, dtype=self.dtype, name=name)(x) if rate else x

    def drop_path(self, x: Any, rate: float, *, name: str) -> Any:
        """Stochastic depth at the unit's rate; nothing where that is 0."""
        return DropPath(rate, dtype=self.dtype, name=name)(x) if rate else x

    def add(self, shortcut: Any, branch: Any, *, name: str) -> Any:
        """The addition that ends a unit."""
        return keras.layers.Add(dtype=self.dtype, name=name)([shortcut, branch])

    def max_pool(self, x: Any, size: int, stride: int, *, name: str) -> Any:
        """Max pooling, padded as the convolutions are, or by zeros."""
        layer = MaxPooling2D(
            size,
            stride,
            padding="zeros" if self.architecture.zero_pad_pool else self.architecture.padding,
            data_format=self.data_format,
            dtype=self.dtype,
            name=name,
        )
        return layer(x)

    def global_pool(self, x: Any, kind: str, *, name: str) -> Any:
        """Mean (`"avg"`) or maximum (`"max"`) over height and width."""
        return head.global_pool(x, kind, self.data_format, self.dtype, name)

    def classifier(self, x: Any, classes: int, activation: Any, *, name: str) -> Any:
        """Dense layer to class scores, in float32 where the policy computes in 16 bits."""
        return head.classifier(x, classes, activation, self.dtype, name)
