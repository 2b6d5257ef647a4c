"""What a residual branch is made of: its convolutions, and what may stand in their place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from keras_preact.parts import Parts


class Operation(Protocol):
    """One step of a residual branch; normalisation and activation stand between them."""

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
    """

    filters: int
    kernel_size: int
    stride: int = 1
    dilation: int = 1

    def __call__(
        self, x: Any, parts: Parts, *, normalized: bool, zero_init: bool, name: str
    ) -> Any:
        return parts.conv(
            x,
            self.filters,
            self.kernel_size,
            self.stride,
            self.dilation,
            normalized=normalized,
            zero_init=zero_init,
            name=name,
        )


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

    def __call__(
        self, x: Any, parts: Parts, *, normalized: bool, zero_init: bool, name: str
    ) -> Any:
        return parts.depthwise_conv(
            x,
            self.kernel_size,
            self.stride,
            self.dilation,
            normalized=normalized,
            zero_init=zero_init,
            name=name,
        )
