"""What a residual branch is made of: its convolutions, and what may stand in their place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import keras

from keras_preact.layers import SelfAttention2D
from keras_preact.res2 import Res2

if TYPE_CHECKING:
    from keras_preact.architecture import Architecture, Unit
    from keras_preact.parts import Parts


class Operation(Protocol):
    """One step of a residual branch; normalisation and activation stand between them.

    Two attributes that it may have, or not, are: `stride`, the factor by which height and width
    shrink (1 without it); and `activates`, whether it ends in a normalisation and activation of
    its own, so that none follows it (False without it).
    """

    def __call__(
        self, x: Any, parts: Parts, *, normalized: bool, zero_init: bool, name: str
    ) -> Any:
        """Apply the operation.

        Args:
            x: Tensor `(batch, height, width, channels)`, or with the channels first.
            parts: Makes the layers.
            normalized: Whether a normalisation follows.
            zero_init: Whether the result starts at zero.
            name: Of the layer, or what the names of the layers begin with.
        """


@dataclass(frozen=True)
class Convolution:
    """A convolution.

    Attributes:
        filters: Output channels.
        kernel_size: Height and width of the kernel, in pixels.
        stride: Factor by which height and width shrink.
        dilation: Spacing of the kernel's pixels.
        groups: Groups of channels that convolve each for itself.
    """

    filters: int
    kernel_size: int
    stride: int = 1
    dilation: int = 1
    groups: int = 1

    def __call__(self, x: Any, parts: Parts, **options: Any) -> Any:
        size = (self.kernel_size, self.stride, self.dilation)
        return parts.conv(x, self.filters, *size, groups=self.groups, **options)


@dataclass(frozen=True)
class Depthwise:
    """A convolution of each channel by itself.

    Attributes:
        kernel_size: Height and width of the kernel, in pixels.
        stride: Factor by which height and width shrink.
        dilation: Spacing of the kernel's pixels.
    """

    kernel_size: int
    stride: int = 1
    dilation: int = 1

    def __call__(self, x: Any, parts: Parts, **options: Any) -> Any:
        return parts.depthwise_conv(x, self.kernel_size, self.stride, self.dilation, **options)


@dataclass(frozen=True)
class SelfAttention:
    """Self-attention between all pixels, then average pooling where the maps shrink.

    Attributes:
        filters: Output channels.
        heads: Number of heads.
        stride: Factor by which height and width shrink.
    """

    filters: int
    heads: int
    stride: int = 1

    def __call__(
        self, x: Any, parts: Parts, *, normalized: bool, zero_init: bool, name: str
    ) -> Any:
        common = {"data_format": parts.data_format, "dtype": parts.dtype}
        x = SelfAttention2D(self.filters, self.heads, **common, name=f"{name}_attention")(x)
        if self.stride == 1:
            return x
        pool = keras.layers.AveragePooling2D(
            2, self.stride, padding="same", **common, name=f"{name}_pool"
        )
        return pool(x)


def _convolution(
    architecture: Architecture, unit: Unit, filters: int, stride: int, dilation: int
) -> Operation:
    return Convolution(filters, 3, stride, dilation, architecture.cardinality)


def _res2(
    architecture: Architecture, unit: Unit, filters: int, stride: int, dilation: int
) -> Operation:
    return Res2(
        filters,
        architecture.res2_scale,
        stride,
        dilation,
        architecture.cardinality,
        hierarchical=not unit.projects and unit.nominal_stride == 1,
    )


def _self_attention(
    architecture: Architecture, unit: Unit, filters: int, stride: int, dilation: int
) -> Operation:
    # Every pixel sees every other: there is nothing to dilate.
    return SelfAttention(filters, architecture.attention_heads, stride)


# What looks at a pixel's neighbours in a bottleneck, by `Architecture.spatial`.
SPATIAL: dict[str, Callable[[Architecture, Unit, int, int, int], Operation]] = {
    "conv": _convolution,
    "res2": _res2,
    "self_attention": _self_attention,
}
# Those whose weights fit maps of one size alone.
SIZED = ("self_attention",)
