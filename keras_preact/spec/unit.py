"""Record of one unit of a net."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Unit:
    """One residual unit of a net, as `Architecture.stages` lists it.

    Attributes:
        name: Prefix of the names of its layers, such as `"stage3_unit1"`.
        stage: Number of its stage, from 2.
        in_channels: Input channels.
        shortcut_channels: Channels of the shortcut. They are the output channels, or, in a dense
            unit, those that the unit adds its own to.
        channels: Output channels.
        stride: Factor by which height and width shrink.
        projects: Whether the shortcut has a convolution. In a dense unit, whether a transition
            comes first.
        dilation: Spacing of the kernels' pixels up to and including the convolution that carries
            the stride.
        dilation_after: Spacing after that convolution. It is larger where dilation replaces the
            stride.
        drop_path: Probability that training drops the residual branch of an example.
        rate: Part of the dilation that the architecture chose, as opposed to dilation in place of
            strides.
        spatial: Operation between the 1x1 convolutions of a bottleneck.
        input_scale: Factor of the branch's input.
        activated: Whether its input is activated already, so that it does not begin with that.
    """

    name: str
    stage: int
    in_channels: int
    shortcut_channels: int
    channels: int
    stride: int
    projects: bool
    dilation: int
    dilation_after: int
    drop_path: float
    rate: int = 1
    spatial: str = "conv"
    input_scale: float = 1.0
    activated: bool = False

    @property
    def nominal_stride(self) -> int:
        """The stride that the unit would have if dilation did not replace it."""
        return self.stride * self.dilation_after // self.dilation

    @property
    def growth(self) -> int:
        """Channels that a dense unit adds."""
        return self.channels - self.shortcut_channels

    @property
    def strided(self) -> bool:
        """Whether the unit has a stride, or dilation in its place."""
        return self.stride != 1 or self.dilation != self.dilation_after

    @property
    def reshapes(self) -> bool:
        """Whether the shortcut cannot be an identity."""
        return self.strided or self.in_channels != self.shortcut_channels
