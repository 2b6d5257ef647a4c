"""Res2Net's hierarchy of small convolutions (arXiv:1904.01169)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from keras_preact.parts import Parts


@dataclass(frozen=True)
class Res2:
    """Splits of the channels, each convolved after the result of the one before is added to it.

    So the k-th of them sees as far as k 3x3 convolutions in a row; the last goes on as it came.
    Every convolution is followed by normalisation and activation. Where the shape changes, the
    splits stand apart, and the last is averaged over 3x3 pixels, as in the authors' code. That
    average is not dilated.

    Attributes:
        filters: Channels in all, as many as come in.
        scale: Number of splits; 1 is one convolution.
        stride: Factor by which height and width shrink.
        dilation: Spacing of the kernels' pixels.
        groups: Groups of channels of each convolution.
        hierarchical: Whether a split's result is added to the next; not where the shape changes.
    """

    activates: ClassVar[bool] = True

    filters: int
    scale: int
    stride: int = 1
    dilation: int = 1
    groups: int = 1
    hierarchical: bool = True

    def __call__(
        self, x: Any, parts: Parts, *, normalized: bool, zero_init: bool, name: str
    ) -> Any:
        width = self.filters // self.scale
        splits = [
            parts.channels(x, start, start + width, name=f"{name}_split{index}")
            for index, start in enumerate(range(0, self.filters, width), 1)
        ]
        outputs: list[Any] = []
        for index, split in enumerate(splits[:-1] or splits, 1):
            if outputs and self.hierarchical:
                split = parts.add(outputs[-1], split, name=f"{name}_add{index}")
            split = parts.conv(
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
            outputs.append(parts.apply(split, parts.order.between, name, index))
        if self.scale == 1:
            return outputs[0]
        last = splits[-1]
        if not self.hierarchical:
            last = parts.average_pool(last, 3, self.stride, name=f"{name}_pool")
        return parts.concatenate([*outputs, last], name=f"{name}_concat")
