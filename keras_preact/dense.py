"""Channels of DenseNets (arXiv:1608.06993)."""

from __future__ import annotations

from collections.abc import Sequence


def dense_channels(
    units: Sequence[int], growth_rate: int, stem_channels: int, compression: float = 0.5
) -> tuple[int, ...]:
    """Compute the channels of each stage of a DenseNet, for `Architecture`.

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
