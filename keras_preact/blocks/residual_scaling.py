"""Scales of residual branches that let a net train without normalization."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from keras_preact.blocks.layer_factory import LayerFactory
from keras_preact.layers import Scale, SkipInit
from keras_preact.messages import require
from keras_preact.spec.fields import Fields
from keras_preact.spec.orders import ORDERS, Order
from keras_preact.spec.unit import Unit
from keras_preact.tensor import Tensor

_ACTIVATION_FIRST = Order(first=("act",), between=("act",), head=("act",))


@dataclass(frozen=True)
class ResidualScaling:
    """One way to scale the branches.

    Attributes:
        ends: Functions that apply the scales to the end of a branch.
        tracks_variance: Whether the branch divides its input by the standard deviation expected of
            it: `x + alpha * f(x / beta)`.
    """

    ends: tuple[Callable[[Tensor, Unit, LayerFactory], Tensor], ...] = ()
    tracks_variance: bool = False

    @property
    def starts_at_zero(self) -> bool:
        """Whether the scale is learned and starts at zero."""
        return _skip_init in self.ends


def scale_input(x: Tensor, unit: Unit, make: LayerFactory) -> Tensor:
    """Divide the input of a branch by its beta, if the net has it."""
    name = f"{unit.name}_input_scale"
    return make.unit_number(x, "input_scale", unit.input_scale, Scale, name=name)


def scale_branch(x: Tensor, unit: Unit, make: LayerFactory) -> Tensor:
    """Scale the output of a branch as the net says."""
    for end in RESIDUAL_SCALINGS[make.net.residual_scaling].ends:
        x = end(x, unit, make)
    return x


def with_input_scales(units: Iterable[Unit], net: Fields) -> tuple[Unit, ...]:
    """Return the units of a net with `input_scale` set.

    It is 1 / beta, where beta is the standard deviation that the input of the unit is expected to
    have before training. Branches keep the variance at 1 and are then multiplied by alpha, so that
    every unit adds alpha ** 2. A projecting shortcut has the same input as the branch, so after
    such a unit the variance starts from 1 again (arXiv:2101.08692, section 3.1).

    Args:
        units: The units of all stages, in order.
        net: Fields of the net.
    """
    if not RESIDUAL_SCALINGS[net.residual_scaling].tracks_variance:
        return tuple(units)
    scaled, variance = [], 1.0
    for unit in units:
        scaled.append(dataclasses.replace(unit, input_scale=variance**-0.5))
        variance = (1.0 if unit.projects else variance) + net.residual_scale**2
    return tuple(scaled)


def _skip_init(x: Tensor, unit: Unit, make: LayerFactory) -> Tensor:
    return SkipInit(dtype=make.dtype, name=f"{unit.name}_skip_init")(x)


def _alpha(x: Tensor, unit: Unit, make: LayerFactory) -> Tensor:
    return make.rescale(x, make.net.residual_scale, name=f"{unit.name}_residual_scale")


# SkipInit is arXiv:2002.10444, the others NF-ResNet, arXiv:2101.08692.
RESIDUAL_SCALINGS = {
    None: ResidualScaling(),
    "skip_init": ResidualScaling((_skip_init,)),
    "norm_free": ResidualScaling((_alpha,), tracks_variance=True),
    "norm_free_skip_init": ResidualScaling((_skip_init, _alpha), tracks_variance=True),
}


def check(net: Fields) -> None:
    """Check that the units of the net have the variance that its scales expect.

    Raises:
        ValueError: If they have not.
    """
    if not RESIDUAL_SCALINGS[net.residual_scaling].tracks_variance:
        return
    scaling = f'`residual_scaling="{net.residual_scaling}"`'
    require(
        ORDERS[net.order].without_norms() == _ACTIVATION_FIRST,
        "order",
        f'"full_preactivation" or "relu_only_preactivation" with {scaling}, which expects an '
        "activation before every convolution and none after the last",
        net.order,
    )
    for field, value in (("activated_stem", False), ("projection_input", "activated")):
        require(
            getattr(net, field) == value,
            field,
            f"{value!r} with {scaling}, which works out the variance of what each unit adds",
            getattr(net, field),
        )
    require(
        net.shortcut == "identity",
        "shortcut",
        f'"identity" with {scaling}, which works out the variance that it hands on',
        net.shortcut,
    )
