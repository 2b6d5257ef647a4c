"""Channels of DenseNets (arXiv:1608.06993)."""

from __future__ import annotations

from collections.abc import Sequence

from keras_preact.messages import require
from keras_preact.spec.rules import A_VALUE_EACH_STAGE, POSITIVE_INTEGER, SHARE, or_each

_RATES = or_each(POSITIVE_INTEGER)


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

    Raises:
        ValueError: If an argument is out of its range, or there is not one growth rate per stage.
    """
    units = A_VALUE_EACH_STAGE.check("units", units)
    rates = _RATES.check("growth_rate", growth_rate)
    stem_channels = POSITIVE_INTEGER.check("stem_channels", stem_channels)
    compression = SHARE.check("compression", compression)
    if isinstance(rates, int):
        rates = (rates,) * len(units)
    one_each = f"a number, or one for each of {len(units)} stages"
    require(len(rates) == len(units), "growth_rate", one_each, rates)
    channels: list[int] = []
    for count, rate in zip(units, rates, strict=True):
        entering = int(channels[-1] * compression) if channels else stem_channels
        channels.append(entering + count * rate)
    return tuple(channels)
