"""The kinds of normalisation, as functions that make the layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import keras

from keras_preact.layers import BatchNormalization, EvoNormS0, FilterResponseNormalization

if TYPE_CHECKING:
    from keras_preact.architecture import Architecture


@dataclass(frozen=True)
class Norm:
    """One kind of normalisation.

    Attributes:
        layer: Makes the layer, from the architecture and `axis`, `epsilon`, `dtype`, `name`, and
            in some places `gamma_initializer`. None where there is no normalisation.
        grouped: Whether it goes by groups of channels, `Architecture.norm_groups` of them.
        activates: Whether it contains an activation, so that none may follow.
        any_channels: Whether it is of use on any number of channels, even on one.
    """

    layer: Callable[..., keras.layers.Layer] | None
    grouped: bool = False
    activates: bool = False
    any_channels: bool = False


def _batch_norm(architecture: Architecture, **common: Any) -> keras.layers.Layer:
    return BatchNormalization(momentum=architecture.norm_momentum, **common)


def _group_norm(architecture: Architecture, **common: Any) -> keras.layers.Layer:
    return keras.layers.GroupNormalization(architecture.norm_groups, **common)


def _evonorm_s0(architecture: Architecture, **common: Any) -> keras.layers.Layer:
    return EvoNormS0(architecture.norm_groups, **common)


def _layer_norm(architecture: Architecture, **common: Any) -> keras.layers.Layer:
    return keras.layers.LayerNormalization(**common)


def _filter_response_norm(architecture: Architecture, **common: Any) -> keras.layers.Layer:
    return FilterResponseNormalization(**common)


NORMS = {
    "batch": Norm(_batch_norm, any_channels=True),
    "group": Norm(_group_norm, grouped=True),
    "layer": Norm(_layer_norm),
    "frn": Norm(_filter_response_norm, activates=True),
    "none": Norm(None),
    "evonorm_s0": Norm(_evonorm_s0, grouped=True, activates=True),
}
