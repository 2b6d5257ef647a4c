"""Orders of normalization, activation and convolution in a unit, and around the units."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

# Normalization, then activation.
_BOTH = ("norm", "act")


@dataclass(frozen=True)
class Order:
    """Places of normalization (`"norm"`) and activation (`"act"`); empty where neither stands.

    Attributes:
        first: Before a unit's first convolution. Their output also enters a projecting shortcut.
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
        """Weight that `zero_init_residual` sets to zero: `"conv"`, `"norm"` or None.

        It is the scale of the norm after the last convolution, where there is one, else the kernel
        of that convolution. None where an activation ends the branch: zeros before it would leave
        the branch without a gradient.
        """
        return {(): "conv", ("norm",): "norm"}.get(self.last)

    def without_norms(self) -> Order:
        """Return the order of a net without normalization: the activations only."""
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
