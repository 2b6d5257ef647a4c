"""The order of normalisation, activation and convolution in a unit, and around the units."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

# Normalisation and activation, where both stand.
_BOTH = ("norm", "act")


@dataclass(frozen=True)
class Order:
    """Where normalisation (`"norm"`) and activation (`"act"`) stand; empty where none does.

    Attributes:
        first: Before a unit's first convolution; a projecting shortcut takes what this gives.
        between: Between two convolutions of a unit.
        last: After a unit's last convolution.
        projection: After the convolution of a shortcut.
        sum: After the addition.
        stem: After the stem's last convolution.
        head: After the last unit.
    """

    first: tuple[str, ...] = ()
    between: tuple[str, ...] = _BOTH
    last: tuple[str, ...] = ()
    projection: tuple[str, ...] = ()
    sum: tuple[str, ...] = ()
    stem: tuple[str, ...] = ()
    head: tuple[str, ...] = ()

    @property
    def zero_residual(self) -> str | None:
        """What starts at zero for a branch that does so, and learns: `"conv"`, `"norm"` or None.

        With a norm after the last convolution it is that norm's scale. A scale of zero before an
        activation would leave the branch without a gradient.
        """
        return {(): "conv", ("norm",): "norm"}.get(self.last)

    def without_norms(self) -> Order:
        """The same order of what is left in a net without normalisation."""
        steps = dataclasses.asdict(self).items()
        return Order(**{place: tuple(s for s in each if s != "norm") for place, each in steps})


# The orders of arXiv:1603.05027, figure 4, and that of PyramidNet (arXiv:1610.02915, figure 6d).
ORDERS = {
    "full_preactivation": Order(first=_BOTH, head=_BOTH),
    "original": Order(last=("norm",), projection=("norm",), sum=("act",), stem=_BOTH),
    "bn_after_addition": Order(sum=_BOTH, stem=_BOTH),
    "relu_before_addition": Order(last=_BOTH, projection=("norm",), stem=_BOTH),
    "relu_only_preactivation": Order(
        first=("act",), last=("norm",), projection=("norm",), stem=("norm",), head=("act",)
    ),
    "pyramid": Order(first=("norm",), last=("norm",), stem=("norm",), head=_BOTH),
}
