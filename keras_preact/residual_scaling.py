"""Scales of residual branches that let a net train without normalisation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from keras_preact.layers import Scale, SkipInit

if TYPE_CHECKING:
    from keras_preact.architecture import Architecture, Unit
    from keras_preact.parts import Parts


@dataclass(frozen=True)
class ResidualScaling:
    """One way to scale the branches.

    Attributes:
        ends: What a branch goes through after its operations.
        tracks_variance: Whether a unit's input is divided by its expected standard deviation before
            it enters the branch: `x + alpha * f(x / beta)`.
    """

    ends: tuple[Callable[[Any, Unit, Parts], Any], ...] = ()
    tracks_variance: bool = False


def scale_input(x: Any, unit: Unit, parts: Parts) -> Any:
    """What comes into a unit's branch, divided by beta where the net has it."""
    name = f"{unit.name}_input_scale"
    return parts.unit_number(x, "input_scale", unit.input_scale, Scale, name=name)


def scale_branch(x: Any, unit: Unit, parts: Parts) -> Any:
    """What a branch gives, scaled as the net says."""
    for end in RESIDUAL_SCALINGS[parts.architecture.residual_scaling].ends:
        x = end(x, unit, parts)
    return x


def with_input_scales(units: Iterable[Unit], architecture: Architecture) -> tuple[Unit, ...]:
    """The units of a net, in their order, with the scale that each one's branch takes its input by.

    The scale is 1 / beta, beta being the standard deviation that the unit's input is expected to
    have at the start. Branches keep the variance at 1 and then are multiplied by alpha, so that
    every unit adds alpha ** 2. A shortcut that projects takes what the branch takes, so after such
    a unit it starts from 1 again (arXiv:2101.08692, section 3.1).

    Args:
        units: The units of all stages.
        architecture: What they are units of.

    Returns:
        The units.
    """
    if not RESIDUAL_SCALINGS[architecture.residual_scaling].tracks_variance:
        return tuple(units)
    scaled, variance = [], 1.0
    for unit in units:
        scaled.append(dataclasses.replace(unit, input_scale=variance**-0.5))
        variance = (1.0 if unit.projects else variance) + architecture.residual_scale**2
    return tuple(scaled)


def _skip_init(x: Any, unit: Unit, parts: Parts) -> Any:
    return SkipInit(dtype=parts.dtype, name=f"{unit.name}_skip_init")(x)


def _alpha(x: Any, unit: Unit, parts: Parts) -> Any:
    return parts.rescale(x, parts.architecture.residual_scale, name=f"{unit.name}_residual_scale")


# SkipInit is arXiv:2002.10444, the others NF-ResNet, arXiv:2101.08692.
RESIDUAL_SCALINGS = {
    None: ResidualScaling(),
    "skip_init": ResidualScaling((_skip_init,)),
    "norm_free": ResidualScaling((_alpha,), tracks_variance=True),
    "norm_free_skip_init": ResidualScaling((_skip_init, _alpha), tracks_variance=True),
}
