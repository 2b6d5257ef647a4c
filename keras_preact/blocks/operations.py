"""Operations of a residual branch: its convolutions, and what may replace them."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from keras_preact.blocks.layer_factory import LayerFactory
from keras_preact.layers import SelfAttention2D
from keras_preact.messages import require
from keras_preact.spec.fields import Fields
from keras_preact.spec.unit import Unit
from keras_preact.tensor import Tensor


class Operation(abc.ABC):
    """One step of a residual branch; normalization and activation stand between the steps.

    Attributes:
        stride: Factor by which height and width shrink.
        activates: Whether it ends in a normalization and activation of its own, so that none
            follows it.
    """

    stride: int = 1
    activates: bool = False
    # Every operation is a dataclass.
    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]

    @abc.abstractmethod
    def __call__(
        self, x: Tensor, make: LayerFactory, *, normalized: bool, zero_init: bool, name: str
    ) -> Tensor:
        """Apply the operation.

        Args:
            x: Maps `(batch, height, width, channels)`, or with the channels first.
            make: Makes the layers.
            normalized: Whether a normalization follows.
            zero_init: Whether the output starts at zero.
            name: Name of the layer, or start of the names of the layers.

        Returns:
            Maps.
        """


@dataclass(frozen=True)
class Convolution(Operation):
    """A convolution.

    Attributes:
        filters: Output channels. None to convolve each channel separately.
        kernel_size: Height and width of the kernel, in pixels.
        stride: Factor by which height and width shrink.
        dilation: Spacing of the kernel's pixels.
        groups: Groups of channels that are convolved separately.
    """

    filters: int | None
    kernel_size: int
    stride: int = 1
    dilation: int = 1
    groups: int = 1

    def __call__(self, x: Tensor, make: LayerFactory, **options: Any) -> Tensor:
        if self.filters is not None:
            options["groups"] = self.groups
        return make.conv(x, self.filters, self.kernel_size, self.stride, self.dilation, **options)


@dataclass(frozen=True)
class SelfAttention(Operation):
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
        self, x: Tensor, make: LayerFactory, *, normalized: bool, zero_init: bool, name: str
    ) -> Tensor:
        attention = SelfAttention2D(
            self.filters,
            self.heads,
            data_format=make.data_format,
            dtype=make.dtype,
            name=f"{name}_attention",
        )
        x = attention(x)
        return x if self.stride == 1 else make.average_2x2(x, self.stride, name=f"{name}_pool")


@dataclass(frozen=True)
class Res2(Operation):
    """Res2Net's hierarchy of small convolutions (arXiv:1904.01169).

    The channels are split. Each split is convolved after the result of the split before it is
    added, so the k-th sees as far as k 3x3 convolutions in a row. The last split passes unchanged.
    Every convolution is followed by normalization and activation. Where the shape changes, the
    splits stay separate, and the last is averaged over 3x3 pixels, as in the authors' code. That
    average is not dilated.

    Attributes:
        filters: Output channels, as many as input channels.
        scale: Number of splits; 1 is one convolution.
        stride: Factor by which height and width shrink.
        dilation: Spacing of the kernels' pixels.
        groups: Groups of channels of each convolution.
        hierarchical: Whether the result of a split is added to the next; not where the shape
            changes.
    """

    activates: ClassVar[bool] = True

    filters: int
    scale: int
    stride: int = 1
    dilation: int = 1
    groups: int = 1
    hierarchical: bool = True

    def __call__(
        self, x: Tensor, make: LayerFactory, *, normalized: bool, zero_init: bool, name: str
    ) -> Tensor:
        width = self.filters // self.scale
        splits = [
            make.channels(x, start, start + width, name=f"{name}_split{index}")
            for index, start in enumerate(range(0, self.filters, width), 1)
        ]
        outputs: list[Tensor] = []
        for index, split in enumerate(splits[:-1] or splits, 1):
            if outputs and self.hierarchical:
                split = make.add(outputs[-1], split, name=f"{name}_add{index}")
            split = make.conv(
                split,
                width,
                3,
                self.stride,
                self.dilation,
                normalized=normalized,
                zero_init=zero_init,
                name=f"{name}_conv{index}",
                groups=self.groups,
            )
            outputs.append(make.apply(split, make.order.between, name, index))
        if self.scale == 1:
            return outputs[0]
        last = splits[-1]
        if not self.hierarchical:
            last = make.average_pool(last, 3, self.stride, name=f"{name}_pool")
        return make.concatenate([*outputs, last], name=f"{name}_concat")


def _convolution(net: Fields, unit: Unit, filters: int, stride: int, dilation: int) -> Operation:
    return Convolution(filters, 3, stride, dilation, net.cardinality)


def _res2(net: Fields, unit: Unit, filters: int, stride: int, dilation: int) -> Operation:
    return Res2(
        filters,
        net.res2_scale,
        stride,
        dilation,
        net.cardinality,
        hierarchical=not unit.projects and unit.nominal_stride == 1,
    )


def _self_attention(net: Fields, unit: Unit, filters: int, stride: int, dilation: int) -> Operation:
    # Every pixel sees every other: there is nothing to dilate.
    return SelfAttention(filters, net.attention_heads, stride)


# By `Architecture.spatial`, the operation between a bottleneck's 1x1 convolutions.
SPATIAL: dict[str, Callable[[Fields, Unit, int, int, int], Operation]] = {
    "conv": _convolution,
    "res2": _res2,
    "self_attention": _self_attention,
}
# Those whose weights fit maps of one size only.
SIZED = ("self_attention",)


def stage_spatial(net: Fields, stage: int) -> str:
    """Return what the units of a stage, counted from 2, have for `spatial`."""
    count = len(net.units) if net.spatial_stages is None else net.spatial_stages
    return net.spatial if stage > len(net.units) + 1 - count else "conv"


def check(net: Fields) -> None:
    """Check that the net has as many stages as `spatial` is for.

    Raises:
        ValueError: If it has not.
    """
    require(
        net.spatial_stages is None or net.spatial_stages <= len(net.units),
        "spatial_stages",
        f"None or at most {len(net.units)}, the number of stages",
        net.spatial_stages,
    )
