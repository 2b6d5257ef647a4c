"""Identification of the published net that weights belong to."""

from __future__ import annotations

import math
from dataclasses import dataclass

import keras
import numpy as np
from keras import ops

from keras_preact.architecture import Architecture
from keras_preact.blocks.head import POOLINGS
from keras_preact.blocks.units import UNITS
from keras_preact.build import build
from keras_preact.composition import output_of
from keras_preact.layer_names import body_end, data_format, first_convolution, parse, stage_numbers
from keras_preact.named_weights import NamedWeights, set_named_weights
from keras_preact.published import NETS, find_net
from keras_preact.transforms import with_dtype

HEAD = "predictions"
# Side of the images on which two nets are compared, where the net takes any, in pixels.
_SIDE = 64
# Least size of what is compared: a new head may give nothing but zeros.
_LEAST = 1e-6
# Largest difference between the maps of two nets, as a share of their largest value, that is
# rounding: single precision through some hundreds of layers.
ROUNDING = 1e-4
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
        """Find the outline of the net that weights are of.

        Raises:
            ValueError: If they are of no net, or of a model that holds one or several.
        """
        outer = {layer.prefix.rstrip("/") for layer in map(parse, named) if layer} - {""}
        if outer:
            raise ValueError(
                f"they are of a model that holds the nets {sorted(outer)}, not of a net. Save the "
                "weights of one, as by `model.get_layer(name).save_weights(path)`"
            )
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
    net = find_net(name)
    head = named.get(HEAD)
    model = build(
        net.architecture,
        include_top=head is not None,
        input_tensor=None,
        input_shape=(*_size(named, net.architecture), stem_kernels(named)[0].shape[-2]),
        pooling=None,
        classes=net.classes if head is None else head["0"].shape[-1],
        classifier_activation="softmax",
        name=net.model_name,
        data_format="channels_last",
        dtype="float32",
    )
    set_named_weights(model, named)
    return model


def stem_kernels(named: NamedWeights) -> list[np.ndarray]:
    """Return the kernels of a net's stem, in their order.

    Raises:
        ValueError: If there are none.
    """
    kernels = [named[each]["0"] for each in sorted(named) if each.startswith("stem_conv")]
    if not kernels:
        raise ValueError(f"no stem among its {len(named)} layers: {list(named)[:3]}")
    return kernels


def _size(named: NamedWeights, architecture: Architecture) -> tuple[int | None, int | None]:
    """Return height and width of the images that weights fit; None where they fit any."""
    if not architecture.sized:
        return None, None
    if "encoder_tokens" not in named:
        return architecture.input_size, architecture.input_size
    tokens = named["encoder_tokens"]["1"].shape[1] - 1
    size = math.isqrt(tokens) * architecture.reached_strides[-1]
    return size, size


def builder_of(model: keras.Model, named: NamedWeights) -> str | None:
    """Return the name of the published net that a model is, by its weights and what it computes.

    Args:
        model: A model with one input and one output.
        named: Its weights.

    Returns:
        The builder's name; None if the model is no published net, or one with other options than
        those that act in training only and, without the top, the pooling.
    """
    try:
        stage_numbers(model)
        candidates = _candidates(named)
    except ValueError:
        return None
    for name in candidates:
        architecture = NETS[name].architecture
        try:
            for pooling in _poolings(model, named, architecture):
                if difference(model, named, architecture, pooling) <= ROUNDING:
                    return name
        except ValueError:
            continue
    return None


def _poolings(
    model: keras.Model, named: NamedWeights, architecture: Architecture
) -> tuple[str | None, ...]:
    """Return what a net without the top may be pooled by, first as a classifier pools."""
    pools = HEAD not in named and len(model.output_shape) == 2
    return tuple(POOLINGS[architecture.output_rank]) if pools else (None,)


def difference(
    model: keras.Model,
    named: NamedWeights,
    architecture: Architecture,
    pooling: str | None = None,
) -> float:
    """Compare a net with one of an architecture and the same weights.

    Args:
        model: The net.
        named: Its weights.
        architecture: What it may be.
        pooling: What it may be pooled by without the top; by default, what a classifier pools by.

    Returns:
        The largest difference between their last maps and outputs for an image, as a share of the
        largest value.

    Raises:
        ValueError: If the weights do not fit the architecture.
    """
    pooling = pooling or _poolings(model, named, architecture)[0]
    twin = _twin(model, named, architecture, pooling)
    set_named_weights(twin, named)
    if first_convolution(model).dtype_policy.name != "float32":
        model = with_dtype(model, "float32")
    shape = [_SIDE if side is None else side for side in model.input_shape[1:]]
    x = np.random.default_rng(0).standard_normal((1, *shape)).astype("float32")
    outputs = ([output_of(body_end(net)), net.output] for net in (model, twin))
    ours, theirs = (
        [ops.convert_to_numpy(y) for y in keras.Model(net.input, each)(x, training=False)]
        for net, each in zip((model, twin), outputs, strict=True)
    )
    if [each.shape for each in ours] != [each.shape for each in theirs]:
        raise ValueError(f"its maps have the shape {theirs[0].shape}, not {ours[0].shape}")
    return max(
        float(np.abs(a - b).max() / max(np.abs(b).max(), _LEAST))
        for a, b in zip(ours, theirs, strict=True)
    )


def _twin(
    model: keras.Model, named: NamedWeights, architecture: Architecture, pooling: str | None
) -> keras.Model:
    """Build a net of an architecture with the inputs and outputs of another."""
    head = named.get(HEAD)
    return build(
        architecture,
        include_top=head is not None,
        input_tensor=None,
        input_shape=model.input_shape[1:],
        pooling=pooling,
        classes=head["0"].shape[-1] if head else 1,
        classifier_activation=model.get_layer(HEAD).activation if head else None,
        name=model.name,
        data_format=data_format(model),
        dtype="float32",
    )
