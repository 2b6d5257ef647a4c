"""Dense units and the transitions between their stages (DenseNet, arXiv:1608.06993)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import keras

from keras_preact.parts import Parts
from keras_preact.units import residual_branch

if TYPE_CHECKING:
    from keras_preact.architecture import Architecture, Unit

# The kinds of unit that are dense.
DENSE_UNITS = ("dense", "dense_basic")


@dataclass(frozen=True)
class DenseStage:
    """The channels of one stage of dense units.

    Attributes:
        entering: Channels that the first unit takes, after the transition.
        growth: Channels that each unit adds, the paper's k.
        rest: What is left of the stage's channels: 0 in a stage that can be built.
    """

    entering: int
    growth: int
    rest: int


def dense_channels(
    units: Sequence[int], growth_rate: int, stem_channels: int, compression: float = 0.5
) -> tuple[int, ...]:
    """The channels of each stage of a DenseNet, for `Architecture`.

    Args:
        units: Dense units of each stage.
        growth_rate: Channels that each unit adds, the paper's k.
        stem_channels: Output channels of the stem.
        compression: Channels after a transition as a share of those before it.

    Returns:
        The output channels of each stage.
    """
    channels: list[int] = []
    for count in units:
        entering = int(channels[-1] * compression) if channels else stem_channels
        channels.append(entering + count * growth_rate)
    return tuple(channels)


def dense_stages(architecture: Architecture) -> list[DenseStage]:
    """What `Architecture.channels` makes of the stages of dense units."""
    stages = []
    entering = architecture.stem_channels
    for count, channels in zip(architecture.units, architecture.channels, strict=True):
        stages.append(DenseStage(entering, *divmod(channels - entering, count)))
        entering = int(channels * architecture.compression)
    return stages


def dense_unit(x: Any, unit: Unit, parts: Parts) -> Any:
    """What comes in, together with the maps that the unit makes of it.

    A unit that opens a stage takes what a transition leaves of the stage before.

    Args:
        x: Tensor `(batch, height, width, unit.in_channels)`, or with the channels first.
        unit: What the architecture says of this unit.
        parts: Makes the layers.

    Returns:
        A tensor with `unit.channels` channels, height and width divided by `unit.stride`.
    """
    parts = _DenseParts(**vars(parts))
    if unit.projects:
        x = _transition(x, unit, parts)
    branch = parts.apply(x, parts.order.first, unit.name, 1)
    branch = residual_branch(branch, unit, parts)
    return parts.concatenate([x, branch], name=f"{unit.name}_concat")


def _transition(x: Any, unit: Unit, parts: Parts) -> Any:
    """Norm, activation, 1x1 convolution to fewer channels, 2x2 average pooling."""
    name = f"{unit.name.partition('_')[0]}_transition"
    x = parts.apply(x, parts.order.first, name)
    x = parts.conv(x, unit.shortcut_channels, 1, name=f"{name}_conv")
    if not unit.strided:
        return x
    pool = keras.layers.AveragePooling2D(
        2,
        unit.stride,
        padding="same" if unit.stride == 1 else "valid",
        data_format=parts.data_format,
        dtype=parts.dtype,
        name=f"{name}_pool",
    )
    return pool(x)


@dataclass(frozen=True)
class _DenseParts(Parts):
    """Makes the layers of dense units, where dropout follows every convolution."""

    def conv(self, *arguments: Any, name: str, **options: Any) -> Any:
        """A convolution, and dropout at the architecture's rate."""
        x = super().conv(*arguments, name=name, **options)
        return super().dropout(x, name=f"{name}_dropout")

    def dropout(self, x: Any, *, name: str) -> Any:
        """Nothing: it stands after the convolutions."""
        return x
