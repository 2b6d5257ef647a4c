"""Kinds of normalization."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras

from keras_preact.layers import (
    BatchNormalization,
    EvoNormS0,
    FilterResponseNormalization,
    GroupNormalization,
    LayerNormalization,
)
from keras_preact.messages import require
from keras_preact.spec.fields import Fields


@dataclass(frozen=True)
class Norm:
    """One kind of normalization.

    Attributes:
        layer: Makes the layer, from the net and `axis`, `epsilon`, `dtype`, `name`, in some places
            `gamma_initializer`, and in some nets `rematerialize=True`. None where there is no
            normalization.
        grouped: Whether it works on `Architecture.norm_groups` groups of channels.
        activates: Whether it contains an activation, so that none may follow.
        any_channels: Whether it works on any number of channels, even on one.
    """

    layer: Callable[..., keras.layers.Layer] | None
    grouped: bool = False
    activates: bool = False
    any_channels: bool = False


def _batch_norm(net: Fields, **common: Any) -> keras.layers.Layer:
    return BatchNormalization(momentum=net.norm_momentum, **common)


def _group_norm(net: Fields, **common: Any) -> keras.layers.Layer:
    kind = GroupNormalization if "rematerialize" in common else keras.layers.GroupNormalization
    return kind(net.norm_groups, **common)


def _evonorm_s0(net: Fields, **common: Any) -> keras.layers.Layer:
    return EvoNormS0(net.norm_groups, **common)


def _layer_norm(net: Fields, **common: Any) -> keras.layers.Layer:
    kind = LayerNormalization if "rematerialize" in common else keras.layers.LayerNormalization
    return kind(**common)


def _filter_response_norm(net: Fields, **common: Any) -> keras.layers.Layer:
    return FilterResponseNormalization(**common)


NORMS = {
    "batch": Norm(_batch_norm, any_channels=True),
    "group": Norm(_group_norm, grouped=True),
    "layer": Norm(_layer_norm),
    "frn": Norm(_filter_response_norm, activates=True),
    "none": Norm(None),
    "evonorm_s0": Norm(_evonorm_s0, grouped=True, activates=True),
}


def rematerializes(net: Fields) -> bool:
    """Return whether norms and what follows from them are computed again, not whole units."""
    return net.rematerialize == "norms"


def check(net: Fields) -> None:
    """Check that no activation follows a normalization that contains one.

    Raises:
        ValueError: If one does, or norms are to be rematerialized in a net without any.
    """
    require(
        NORMS[net.norm].layer is not None or not rematerializes(net),
        "rematerialize",
        f'True or False with `norm="{net.norm}"`, which leaves nothing to compute again',
        net.rematerialize,
    )
    require(
        net.activation == "linear" or not NORMS[net.norm].activates,
        "activation",
        f'"linear" with `norm="{net.norm}"`, which contains an activation',
        net.activation,
    )
