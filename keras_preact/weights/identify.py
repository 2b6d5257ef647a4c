"""Identification of the published net that weights belong to."""

from __future__ import annotations

import math
from dataclasses import dataclass

import keras

from keras_preact.architecture import Architecture
from keras_preact.blocks.units import UNITS
from keras_preact.build import build
from keras_preact.layer_names import parse
from keras_preact.messages import did_you_mean
from keras_preact.named_weights import NamedWeights, set_named_weights
from keras_preact.published import NETS

# By the sizes of its kernels, the kind of unit.
_KINDS = {kind.kernels: name for name, kind in UNITS.items() if kind.kernels}


@dataclass(frozen=True)
class Outline:
    """Values in which nets differ most.

    Attributes:
        unit: Kind of unit, as in `Architecture`.
        units: Units of each stage.
        channels: Output channels of the last convolution of each stage.
    """

    unit: str
    units: tuple[int, ...]
    channels: tuple[int, ...]

    @classmethod
    def of_architecture(cls, architecture: Architecture) -> Outline:
        last = (units[-1] for units in architecture.stages.values())
        concatenates = UNITS[architecture.unit].concatenates
        channels = tuple(unit.growth if concatenates else unit.channels for unit in last)
        return cls(architecture.unit, architecture.units, channels)

    @classmethod
    def of_weights(cls, named: NamedWeights) -> Outline:
        kernels = {
            (layer.stage, layer.unit, layer.convolution): named[name]["0"].shape
            for name in named
            if (layer := parse(name)) and layer.convolution
        }
        if not kernels:
            raise ValueError(f"no residual units among its {len(named)} layers: {list(named)[:3]}")
        stages = sorted({stage for stage, _, _ in kernels})
        units = tuple(max(u for s, u, _ in kernels if s == stage) for stage in stages)
        first = [kernels[each] for each in sorted(kernels) if each[:2] == (stages[0], 1)]
        return cls(
            unit=_KINDS.get(
                tuple(shape[0] for shape in first), f"units of {len(first)} convolutions"
            ),
            units=units,
            channels=tuple(
                kernels.get((stage, unit, len(first)), (0,))[-1]
                for stage, unit in zip(stages, units, strict=True)
            ),
        )

    def __str__(self) -> str:
        return f"{self.unit} units {self.units} of {self.channels} channels"


def check_builder(named: NamedWeights, builder: str) -> None:
    """Check that weights belong to a published net, without building it.

    Args:
        named: The weights.
        builder: Name of the net's builder.

    Raises:
        ValueError: If they belong to a net with other units.
    """
    expected = Outline.of_architecture(NETS[builder].architecture)
    received = Outline.of_weights(named)
    if received != expected:
        raise ValueError(f"{builder} has {expected}, the file {received}")


def identified_model(
    named: NamedWeights, architecture: str | None = None
) -> tuple[str, keras.Model]:
    """Build the published net that weights belong to, with these weights.

    Args:
        named: The weights, with or without those of the top.
        architecture: Name of the net's builder. By default it is identified.

    Returns:
        The builder's name and the model.

    Raises:
        ValueError: If the weights fit no published net, or not the named one, or several.
    """
    fitting, misfits = {}, {}
    for name in [architecture] if architecture else _candidates(named):
        try:
            fitting[name] = _model(named, name)
        except ValueError as error:
            misfits[name] = error
    if len(fitting) == 1:
        return fitting.popitem()
    if fitting:
        raise ValueError(
            f"The weights fit several nets: {list(fitting)}. Name the one that they belong to."
        )
    reasons = "; ".join(f"{name}: {error}" for name, error in misfits.items())
    raise ValueError(
        f"The weights, of {Outline.of_weights(named)}, fit no published net. "
        + (reasons or f"There are {list(NETS)}.")
    )


def _candidates(named: NamedWeights) -> list[str]:
    received = Outline.of_weights(named)
    return [
        name for name, net in NETS.items() if Outline.of_architecture(net.architecture) == received
    ]


def _model(named: NamedWeights, name: str) -> keras.Model:
    if name not in NETS:
        hint = did_you_mean(name, NETS, quote="'")
        raise ValueError(f"There is no builder {name!r}.{hint}")
    net = NETS[name]
    head = named.get("predictions")
    stem = next(named[each]["0"] for each in named if each.startswith("stem_conv"))
    model = build(
        net.architecture,
        include_top=head is not None,
        input_tensor=None,
        input_shape=(*_size(named, net.architecture), stem.shape[-2]),
        pooling=None,
        classes=net.classes if head is None else head["0"].shape[-1],
        classifier_activation="softmax",
        name=net.model_name,
        data_format="channels_last",
        dtype="float32",
    )
    set_named_weights(model, named)
    return model


def _size(named: NamedWeights, architecture: Architecture) -> tuple[int | None, int | None]:
    """Return height and width of the images that weights fit; None where they fit any."""
    if not architecture.sized:
        return None, None
    if "encoder_tokens" not in named:
        return architecture.input_size, architecture.input_size
    tokens = named["encoder_tokens"]["1"].shape[1] - 1
    size = math.isqrt(tokens) * architecture.reached_strides[-1]
    return size, size
