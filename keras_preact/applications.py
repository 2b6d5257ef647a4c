"""The published nets, each one row, with the signature of `keras.applications`."""

from __future__ import annotations

import fnmatch
import inspect
import os
import re
from typing import Any, Protocol

import keras

from keras_preact.architecture import Architecture
from keras_preact.build import build
from keras_preact.weights.catalogue import imagenet_weights
from keras_preact.weights.resolve import IMAGENET, resolve_weights

_ARGUMENTS = """
    Args:{architecture}
        include_top: Whether to end in global average pooling and a dense layer of `classes`.
        weights: None for random weights; `"imagenet"` for the net's best published ones that know
            ImageNet-1k's classes; the name of an entry of `keras_preact.weights.list_weights()`;
            or the path of a file. Published weights are adapted to another number of channels
            than three.{default_weights}
        input_tensor: Symbolic Keras tensor to use as the input; a new `keras.Input` by default.
        input_shape: Shape of an image, `(height, width, channels)`, or with the channels first.
            Height and width may be None. By default three channels, and the size the net was
            designed for with the top ({size}), None without.
        pooling: Without the top, what to return: None for the last maps, `"avg"` or `"max"` for a
            vector an image.
        classes: Number of classes.
        classifier_activation: Activation of the last layer; None for logits.
        name: Name of the model.
        data_format: `"channels_last"` or `"channels_first"`; Keras's setting by default.
        dtype: Dtype policy of the layers; Keras's setting by default. The last layer computes in
            the dtype of its weights, so that class scores are float32 in mixed precision.{options}

    Returns:
        A functional `keras.Model`.

    Raises:
        ValueError: If an argument is out of its range, or the weights do not exist or do not fit.
        keras_preact.weights.DownloadError: If published weights cannot be had.
"""

_OPTIONS = """
        **options: Fields of `keras_preact.Architecture` to change, such as `drop_path=0.1`,
            `zero_init_residual=True` or `stem="cifar"` (the stem for small images)."""


def PreActResNet(
    architecture: Architecture,
    include_top: bool = True,
    weights: str | os.PathLike | None = None,
    input_tensor: Any = None,
    input_shape: tuple[int | None, ...] | None = None,
    pooling: str | None = None,
    classes: int = 1000,
    classifier_activation: Any = "softmax",
    name: str = "preact_resnet",
    *,
    data_format: str | None = None,
    dtype: Any = None,
) -> keras.Model:
    """Builds the pre-activation residual net that an `Architecture` describes."""
    return build(
        architecture,
        include_top,
        resolve_weights(weights, None, include_top, classes),
        input_tensor,
        input_shape,
        pooling,
        classes,
        classifier_activation,
        name,
        data_format,
        dtype,
    )


PreActResNet.__doc__ += "\n" + _ARGUMENTS.format(
    architecture="\n        architecture: Says everything about the net.",
    size="224 pixels, or 32 with the CIFAR stem",
    default_weights="",
    options="",
)


class Builder(Protocol):
    """A function that builds one of the published nets."""

    __name__: str
    architecture: Architecture

    def __call__(
        self,
        include_top: bool = True,
        weights: str | os.PathLike | None = ...,
        input_tensor: Any = None,
        input_shape: tuple[int | None, ...] | None = None,
        pooling: str | None = None,
        classes: int = ...,
        classifier_activation: Any = "softmax",
        name: str = ...,
        *,
        data_format: str | None = None,
        dtype: Any = None,
        **options: Any,
    ) -> keras.Model:
        """Build the net; see the builders' own documentation."""


BUILDERS: dict[str, Builder] = {}


def _net(name: str, summary: str, architecture: Architecture, classes: int) -> Builder:
    """Make the builder of a published net, and enter it in the table."""

    def builder(*args: Any, **kwargs: Any) -> keras.Model:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        values = bound.arguments
        values["weights"] = resolve_weights(
            values["weights"], name, values["include_top"], values["classes"]
        )
        return build(architecture=architecture.replace(**values.pop("options")), **values)

    weights = IMAGENET if imagenet_weights(name) else None
    signature = _signature({"weights": weights, "classes": classes, "name": _snake_case(name)})
    builder.__name__ = builder.__qualname__ = name
    builder.__module__ = __name__
    builder.__signature__ = signature
    builder.__doc__ = summary + _ARGUMENTS.format(
        architecture="",
        size=f"{architecture.input_size} pixels",
        default_weights=f" By default {weights!r}.",
        options=_OPTIONS,
    )
    builder.architecture = architecture
    BUILDERS[name] = builder
    return builder


def _signature(defaults: dict[str, Any]) -> inspect.Signature:
    """`PreActResNet`'s signature less its architecture, with a net's defaults and `**options`."""
    parameters = [
        parameter.replace(default=defaults.get(parameter.name, parameter.default))
        for parameter in inspect.signature(PreActResNet).parameters.values()
        if parameter.name != "architecture"
    ]
    options = inspect.Parameter("options", inspect.Parameter.VAR_KEYWORD, annotation=Any)
    return inspect.Signature([*parameters, options], return_annotation=keras.Model)


def _snake_case(name: str) -> str:
    """`PreActResNet50` -> `preact_resnet50`, `WideResNet28_10` -> `wide_resnet28_10`."""
    return re.sub(r"(?<!^)(?=ResNet)", "_", name).lower()


def list_architectures(pattern: str = "*") -> list[str]:
    """Names of the published nets.

    Args:
        pattern: Shell-style pattern, whatever the case: `"*resnet1*"`.

    Returns:
        The names that match, in the order of their table.
    """
    return [name for name in BUILDERS if fnmatch.fnmatch(name.lower(), pattern.lower())]


_IMAGENET_UNITS = {
    18: ("basic", (2, 2, 2, 2)),
    34: ("basic", (3, 4, 6, 3)),
    50: ("bottleneck", (3, 4, 6, 3)),
    101: ("bottleneck", (3, 4, 23, 3)),
    152: ("bottleneck", (3, 8, 36, 3)),
    200: ("bottleneck", (3, 24, 36, 3)),
}


def _imagenet_architecture(depth: int, widen_factor: int = 1, **changes: Any) -> Architecture:
    unit, units = _IMAGENET_UNITS[depth]
    expansion = {"basic": 1, "bottleneck": 4}[unit] * widen_factor
    fields = {
        "unit": unit,
        "units": units,
        "channels": tuple(expansion * channels for channels in (64, 128, 256, 512)),
        "strides": (1, 2, 2, 2),
        "stem_channels": 64 * widen_factor,
    }
    return Architecture(**{**fields, **changes})


def _imagenet(depth: int) -> Builder:
    architecture = _imagenet_architecture(depth)
    summary = f"""Builds the {depth}-layer pre-activation net for ImageNet (arXiv:1603.05027).

    Topology of timm's `resnetv2` nets: {architecture.unit} units, stride in the 3x3 convolution.
"""
    return _net(f"PreActResNet{depth}", summary, architecture, classes=1000)


def _imagenet_frn(depth: int) -> Builder:
    architecture = _imagenet_architecture(depth, norm="frn", activation="linear", norm_epsilon=1e-6)
    summary = f"""Builds the {depth}-layer net of filter response normalisation (arXiv:1911.09737).

    That paper's ResNetV2-{depth}: no statistic of a batch, and learned thresholds for ReLUs. Maps
    have to be larger than one pixel: images of 64 pixels or more.
"""
    return _net(f"PreActResNet{depth}_FRN", summary, architecture, classes=1000)


def _imagenet_norm_free(depth: int) -> Builder:
    architecture = _imagenet_architecture(
        depth,
        norm="none",
        weight_standardization="scaled",
        residual_scaling="norm_free",
        downsample="avg_pool",
        use_bias=True,
        zero_init_residual=True,
    )
    summary = f"""Builds the {depth}-layer net without normalisation (NF-ResNet, arXiv:2101.08692).

    Scaled weight standardisation, `x + 0.2 * f(x / beta)`, average pooling in the shortcuts: timm's
    `nf_resnet{depth}`.
"""
    return _net(f"NFPreActResNet{depth}", summary, architecture, classes=1000)


def _imagenet_d(depth: int, suffix: str = "", **changes: Any) -> Builder:
    architecture = _imagenet_architecture(depth, stem="deep", downsample="avg_pool", **changes)
    norm = {"batch": "batch normalisation", "group": "group normalisation"}
    summary = f"""Builds the {depth}-layer pre-activation net with ResNet-D's stem and shortcuts.

    Three 3x3 convolutions in the stem, average pooling in the shortcuts (arXiv:1812.01187),
    {norm.get(architecture.norm, "EvoNorm-S0")}: timm's `resnetv2_{depth}d{suffix.lower()}`.
"""
    return _net(f"PreActResNet{depth}d{suffix}", summary, architecture, classes=1000)


def _slim(depth: int) -> Builder:
    architecture = _imagenet_architecture(
        depth,
        strides=(2, 2, 2, 1),
        stride_unit="last",
        downsample="subsample",
        zero_pad_pool=True,
        use_bias="unnormalized",
        norm_momentum=0.99,
        norm_epsilon=1.001e-5,
    )
    summary = f"""Builds `keras.applications.ResNet{depth}V2`, the {depth}-layer net of TF-slim.

    Stages end in their stride, and so does `feature_extractor`'s map of a stage; where a shortcut
    only shrinks, it leaves pixels out; convolutions that no normalisation follows have a bias.
"""
    return _net(f"ResNet{depth}V2", summary, architecture, classes=1000)


def _bit(depth: int, widen_factor: int) -> Builder:
    architecture = _imagenet_architecture(
        depth, widen_factor, norm="group", weight_standardization=True, zero_pad_pool=True
    )
    summary = f"""Builds Big Transfer's R{depth}x{widen_factor} (arXiv:1912.11370).

    The {depth}-layer net for ImageNet, {widen_factor} times as wide, with group normalisation and
    weight-standardised convolutions.
"""
    return _net(f"BiTResNet{depth}x{widen_factor}", summary, architecture, classes=1000)


def _cifar(depth: int, unit: str) -> Builder:
    convolutions, expansion = {"basic": (2, 1), "bottleneck": (3, 4)}[unit]
    architecture = Architecture(
        unit=unit,
        units=((depth - 2) // (3 * convolutions),) * 3,
        channels=tuple(expansion * channels for channels in (16, 32, 64)),
        strides=(1, 2, 2),
        stride_in="first_conv",
        stem="cifar",
        stem_channels=16,
    )
    summary = f"""Builds the {depth}-layer pre-activation net for CIFAR (arXiv:1603.05027).

    Three stages of {unit} units, stride in the first convolution, as in the authors' code.
"""
    return _net(f"PreActResNet{depth}", summary, architecture, classes=10)


def _wide(depth: int, widen_factor: int) -> Builder:
    architecture = Architecture(
        unit="basic",
        units=((depth - 4) // 6,) * 3,
        channels=tuple(widen_factor * channels for channels in (16, 32, 64)),
        strides=(1, 2, 2),
        stem="cifar",
        stem_channels=16,
    )
    summary = f"""Builds WRN-{depth}-{widen_factor} for CIFAR (arXiv:1605.07146).

    Three stages of basic units, {widen_factor} times as wide as the {depth - 2}-layer CIFAR net's.
"""
    return _net(f"WideResNet{depth}_{widen_factor}", summary, architecture, classes=10)


PreActResNet18 = _imagenet(18)
PreActResNet34 = _imagenet(34)
PreActResNet50 = _imagenet(50)
PreActResNet101 = _imagenet(101)
PreActResNet152 = _imagenet(152)
PreActResNet200 = _imagenet(200)

PreActResNet50_FRN = _imagenet_frn(50)
NFPreActResNet50 = _imagenet_norm_free(50)

PreActResNet18d = _imagenet_d(18)
PreActResNet34d = _imagenet_d(34)
PreActResNet50d = _imagenet_d(50)
PreActResNet50d_GN = _imagenet_d(50, "_GN", norm="group")
PreActResNet50d_EvoS = _imagenet_d(50, "_EvoS", norm="evonorm_s0", activation="linear")

ResNet50V2 = _slim(50)
ResNet101V2 = _slim(101)
ResNet152V2 = _slim(152)

BiTResNet50x1 = _bit(50, 1)
BiTResNet50x3 = _bit(50, 3)
BiTResNet101x1 = _bit(101, 1)
BiTResNet101x3 = _bit(101, 3)
BiTResNet152x2 = _bit(152, 2)
BiTResNet152x4 = _bit(152, 4)

PreActResNet20 = _cifar(20, "basic")
PreActResNet56 = _cifar(56, "basic")
PreActResNet110 = _cifar(110, "basic")
PreActResNet164 = _cifar(164, "bottleneck")
PreActResNet1001 = _cifar(1001, "bottleneck")

WideResNet16_8 = _wide(16, 8)
WideResNet28_10 = _wide(28, 10)
WideResNet40_4 = _wide(40, 4)
