"""Channels of DenseNets (arXiv:1608.06993)."""

from __future__ import annotations

from collections.abc import Sequence


def dense_channels(
    units: Sequence[int],
    growth_rate: int | Sequence[int],
    stem_channels: int,
    compression: float = 0.5,
) -> tuple[int, ...]:
    """Compute the channels of each stage of a DenseNet, for `Architecture`.

    Args:
        units: Dense units of each stage.
        growth_rate: Channels that each unit adds, the paper's k; or one such number per stage.
        stem_channels: Output channels of the stem.
        compression: Channels after a transition as a share of those before it.

    Returns:
        The output channels of each stage.
    """
    rates = [growth_rate] * len(units) if isinstance(growth_rate, int) else growth_rate
    channels: list[int] = []
    for count, rate in zip(units, rates, strict=True):
        entering = int(channels[-1] * compression) if channels else stem_channels
        channels.append(entering + count * rate)
    return tuple(channels)
