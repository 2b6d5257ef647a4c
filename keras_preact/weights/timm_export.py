"""Weights of a net in a file that timm reads, where timm has the net."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_preact.architecture import Architecture
from keras_preact.layer_names import data_format, first_convolution, stage_numbers
from keras_preact.named_weights import NamedWeights, named_weights
from keras_preact.published import NETS
from keras_preact.weights.converters.timm import (
    DENSENET,
    HYBRID,
    NF_RESNET,
    RESNETV2,
    Family,
    entries,
)
from keras_preact.weights.identify import HEAD, ROUNDING, Outline, difference, stem_kernels
from keras_preact.weights.safetensors_file import save

# By builder, timm's name of the same net.
NAMES = {
    "PreActResNet18": "resnetv2_18",
    "PreActResNet18d": "resnetv2_18d",
    "PreActResNet34": "resnetv2_34",
    "PreActResNet34d": "resnetv2_34d",
    "PreActResNet50": "resnetv2_50",
    "PreActResNet50d": "resnetv2_50d",
    "PreActResNet50d_GN": "resnetv2_50d_gn",
    "PreActResNet50d_EvoS": "resnetv2_50d_evos",
    "PreActResNet50t": "resnetv2_50t",
    "PreActResNet101": "resnetv2_101",
    "PreActResNet152": "resnetv2_152",
    "BiTResNet50x1": "resnetv2_50x1_bit",
    "BiTResNet50x3": "resnetv2_50x3_bit",
    "BiTResNet101x1": "resnetv2_101x1_bit",
    "BiTResNet101x3": "resnetv2_101x3_bit",
    "BiTResNet152x2": "resnetv2_152x2_bit",
    "BiTResNet152x4": "resnetv2_152x4_bit",
    "NFPreActResNet50": "nf_resnet50",
    "PreActDenseNet121": "densenet121",
    "PreActDenseNet169": "densenet169",
    "PreActDenseNet201": "densenet201",
    "PreActViTHybrid_R26_S32": "vit_small_r26_s32_224",
    "PreActViTHybrid_R50_B16": "vit_base_r50_s16_224",
}
# By the start of a name, the nets whose entries are named alike.
_FAMILIES = {"resnetv2": RESNETV2, "nf_resnet": NF_RESNET, "densenet": DENSENET, "vit": HYBRID}
# Nets of timm's that take other units and channels as arguments.
_CHANGEABLE = [name for name in NAMES.values() if name.startswith("resnetv2") and "bit" not in name]
# By field, timm's arguments for them.
_SIZES = {"units": "layers", "channels": "channels", "stem_channels": "stem_chs"}
# timm makes every number of channels a multiple of it.
_DIVISOR = 8


@dataclass(frozen=True)
class TimmNet:
    """timm's form of a net: `timm.create_model(name, **arguments)`.

    Attributes:
        name: timm's name of it.
        arguments: Arguments of `timm.create_model` in which it differs from the one of that name.
    """

    name: str
    arguments: dict[str, Any]


def export_timm(model: keras.Model, path: str | os.PathLike) -> TimmNet:
    """Write the weights of a net under timm's names, for `timm.create_model` to load.

    The net is compared with the published one on an image before, so that weights are only written
    for a net of timm's that computes the same scores.

    Args:
        model: A net, with the top or without, in any form of its units. Its input is one batch of
            images.
        path: The file, which ends in `.safetensors`; an older one there is replaced.

    Returns:
        How timm builds the net: `timm.create_model(net.name, checkpoint_path=path,
        **net.arguments)`.

    Raises:
        ImportError: If the package safetensors is not installed.
        ValueError: If timm has no such net; the message gives the reason. Nothing is written.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"`path` must end in .safetensors. Received: {str(path)!r}")
    net, tensors = timm_entries(model, named_weights(model))
    save(tensors, path)
    return net


def timm_entries(model: keras.Model, named: NamedWeights) -> tuple[TimmNet, dict[str, np.ndarray]]:
    """Return timm's form of a net, and its weights under timm's names.

    Args:
        model: The net.
        named: Its weights.

    Raises:
        ValueError: If timm has no such net.
    """
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise ValueError(
            "timm's nets have one input and one output. "
            f"Received: {model.name!r} with {len(model.inputs)} and {len(model.outputs)}"
        )
    stage_numbers(model)
    reasons = []
    for net, architecture in _candidates(model, named):
        try:
            distance = difference(model, named, architecture)
            _check_channels(named)
            _check_shortcut(architecture, named)
        except ValueError as error:
            reasons.append(f"{net.name}: {error}")
            continue
        if distance <= ROUNDING:
            return net, entries(named, _family(net.name))
        reasons.append(
            f"{net.name} has the same weights, and other outputs, by {distance:.1e} of their "
            "largest: its options, such as its activation or its strides, differ"
        )
    raise ValueError(
        f"timm has no net like {model.name!r}, of {Outline.of_weights(named)}. "
        + ("; ".join(reasons) or f"There are {list(NAMES.values())}.")
    )


def adapted_modules(net: TimmNet, named: NamedWeights) -> dict[str, str | None]:
    """Return the modules that timm adapts to other images and classes, by its names for them.

    Args:
        net: timm's form of a net.
        named: The net's weights.
    """
    naming = _family(net.name).naming
    layers = {
        "first_conv": "stem_conv" if "stem_conv" in named else "stem_conv1",
        "classifier": HEAD,
    }
    return {
        module: naming.their_module(layer) if layer in named else None
        for module, layer in layers.items()
    }


def _family(name: str) -> Family:
    return next(family for start, family in _FAMILIES.items() if name.startswith(start))


def _candidates(model: keras.Model, named: NamedWeights) -> Iterator[tuple[TimmNet, Architecture]]:
    """Yield timm's nets that may be the one of these weights, those of published nets first.

    A `resnetv2` may also have other units and channels than its name says.
    """
    outline = Outline.of_weights(named)
    changed: dict[Architecture, TimmNet] = {}
    for builder, name in NAMES.items():
        published = NETS[builder].architecture
        arguments = _arguments(model, named, name)
        if Outline.of_architecture(published) == outline:
            yield TimmNet(name, arguments), published
        if published.unit != outline.unit or name not in _CHANGEABLE:
            continue
        sizes = (outline.units, outline.channels, stem_kernels(named)[-1].shape[-1])
        try:
            architecture = published.replace(**dict(zip(_SIZES, sizes, strict=True)))
        except ValueError:
            continue
        if architecture != published:
            theirs = dict(zip(_SIZES.values(), sizes, strict=True))
            changed.setdefault(architecture, TimmNet(name, arguments | theirs))
    yield from ((net, architecture) for architecture, net in changed.items())


def _check_channels(named: NamedWeights) -> None:
    """Refuse channels that timm would round.

    Raises:
        ValueError: If there are such.
    """
    channels = {arrays["0"].shape[-1] for arrays in named.values() if arrays["0"].ndim == 4}
    if odd := sorted(count for count in channels if count % _DIVISOR):
        raise ValueError(f"it makes all numbers of channels multiples of {_DIVISOR}, not {odd}")


def _check_shortcut(architecture: Architecture, named: NamedWeights) -> None:
    """Refuse bottlenecks that begin without a projection, which timm's always have.

    Raises:
        ValueError: If the shortcut of the first unit is the identity.
    """
    if "stage2_unit1_conv3" in named and "stage2_unit1_shortcut" not in named:
        raise ValueError(
            "its first unit has a projection where this one has an identity, because "
            f"`stem_channels` is `channels[0]`, {architecture.channels[0]}"
        )


def _arguments(model: keras.Model, named: NamedWeights, name: str) -> dict[str, Any]:
    """Return the arguments of `timm.create_model` for a net's images and classes."""
    channels = first_convolution(model).kernel.shape[2]
    head = named.get(HEAD)
    arguments = {"num_classes": head["0"].shape[-1] if head else 0}
    if channels != 3:
        arguments["in_chans"] = channels
    if _family(name) is HYBRID:
        first = data_format(model) == "channels_first"
        height, width = model.input_shape[2:] if first else model.input_shape[1:3]
        arguments["img_size"] = height if height == width else (height, width)
    return arguments
