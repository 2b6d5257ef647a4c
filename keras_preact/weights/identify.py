"""Tells by a file's weights which net they are of."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import keras

from keras_preact.architecture import Architecture
from keras_preact.dense import DENSE_UNITS
from keras_preact.messages import did_you_mean
from keras_preact.weights.named import NamedWeights, set_named_weights

_CONVOLUTION = re.compile(r"stage(?P<stage>\d+)_unit(?P<unit>\d+)_conv(?P<conv>\d+)")
# By the sizes of its kernels.
_UNITS = {(3, 3): "basic", (1, 3, 1): "bottleneck", (1, 3): "dense", (3,): "dense_basic"}


@dataclass(frozen=True)
class _Outline:
    """What nets differ in most.

    Attributes:
        unit: Kind of unit, as in `Architecture`.
        units: Units of each stage.
        channels: Channels that the last convolution of each stage gives.
    """

    unit: str
    units: tuple[int, ...]
    channels: tuple[int, ...]

    @classmethod
    def of_architecture(cls, architecture: Architecture) -> _Outline:
        last = (units[-1] for units in architecture.stages.values())
        dense = architecture.unit in DENSE_UNITS
        channels = tuple(unit.growth if dense else unit.channels for unit in last)
        return cls(architecture.unit, architecture.units, channels)

    @classmethod
    def of_weights(cls, named: NamedWeights) -> _Outline:
        kernels = {
            tuple(int(number) for number in match.groups()): named[name]["0"].shape
            for name in named
            for match in [_CONVOLUTION.fullmatch(name)]
            if match
        }
        if not kernels:
            raise ValueError(f"no residual units among its {len(named)} layers: {list(named)[:3]}")
        stages = sorted({stage for stage, _, _ in kernels})
        units = tuple(max(u for s, u, _ in kernels if s == stage) for stage in stages)
        first = [kernels[each] for each in sorted(kernels) if each[:2] == (stages[0], 1)]
        return cls(
            unit=_UNITS.get(
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
    """Check, without building it, that weights are of a published net.

    Args:
        named: The weights.
        builder: Name of the net's builder.

    Raises:
        ValueError: If they are of a net with other units.
    """
    expected = _Outline.of_architecture(_builders()[builder].architecture)
    received = _Outline.of_weights(named)
    if received != expected:
        raise ValueError(f"{builder} has {expected}, the file {received}")


def identified_model(
    named: NamedWeights, architecture: str | None = None
) -> tuple[str, keras.Model]:
    """The published net that weights are of, with these weights.

    Args:
        named: The weights, with or without those of the top.
        architecture: Name of the net's builder; found out by default.

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
            f"The weights fit several nets: {list(fitting)}. Name the one that they are of."
        )
    reasons = "; ".join(f"{name}: {error}" for name, error in misfits.items())
    raise ValueError(
        f"The weights, of {_Outline.of_weights(named)}, fit no published net. "
        + (reasons or f"There are {list(_builders())}.")
    )


def _candidates(named: NamedWeights) -> list[str]:
    received = _Outline.of_weights(named)
    return [
        name
        for name, builder in _builders().items()
        if _Outline.of_architecture(builder.architecture) == received
    ]


def _model(named: NamedWeights, name: str) -> keras.Model:
    builders = _builders()
    if name not in builders:
        hint = did_you_mean(name, builders, quote="'")
        raise ValueError(f"There is no builder {name!r}.{hint}")
    head = named.get("predictions")
    stem = next(named[each]["0"] for each in named if each.startswith("stem_conv"))
    model = builders[name](
        include_top=head is not None,
        weights=None,
        input_shape=(*_size(named, builders[name].architecture), stem.shape[-2]),
        data_format="channels_last",
        dtype="float32",
        **({} if head is None else {"classes": head["0"].shape[-1]}),
    )
    set_named_weights(model, named)
    return model


def _size(named: NamedWeights, architecture: Architecture) -> tuple[int | None, int | None]:
    """Height and width of the images that weights fit; None where they fit any."""
    if not architecture.sized:
        return None, None
    if "encoder_tokens" not in named:
        return architecture.input_size, architecture.input_size
    tokens = named["encoder_tokens"]["1"].shape[1] - 1
    size = math.isqrt(tokens) * architecture.reached_strides[-1]
    return size, size


def _builders() -> dict:
    # The builders load weights, so this module cannot import them before they are defined.
    from keras_preact.applications import BUILDERS

    return BUILDERS
