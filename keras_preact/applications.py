"""The published nets, each one row, with the signature of `keras.applications`."""

from __future__ import annotations

import fnmatch
import inspect
import os
import re
from typing import Any, Protocol

import keras

from keras_preact import widths
from keras_preact.architecture import Architecture
from keras_preact.build import build
from keras_preact.dense import dense_channels
from keras_preact.weights.catalogue import best_weights
from keras_preact.weights.resolve import resolve_weights

_ARGUMENTS = """
    Args:{architecture}
        include_top: Whether to end in global average pooling and a dense layer of `classes`.
        weights: None for random weights; `"imagenet"` or `"cifar10"` for the net's best published
            ones that know the classes of ImageNet-1k or CIFAR-10; the name of an entry of
            `keras_preact.weights.list_weights()`; or the path of a file. Published
            weights are adapted to another number of channels than three.{default_weights}
        input_tensor: Symbolic Keras tensor to use as the input; a new `keras.Input` by default.
        input_shape: Shape of an image, `(height, width, channels)`, or with the channels first.
            Height and width may be None. By default three channels, and the size the net was
            designed for with the top ({size}), None without. A net whose weights fit one size
            alone, as positions do, has that size in either case.
        pooling: Without the top, what to return: None for the last maps, `"avg"` or `"max"` for a
            vector an image. A net with a transformer encoder returns its tokens, the class token
            first, their mean or maximum without that, or, with `"token"`, the class token.
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

    weights = "imagenet" if best_weights(name, "imagenet") else None
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
    """`PreActResNet50` -> `preact_resnet50`, `SEPreActResNet50` -> `se_preact_resnet50`."""
    return re.sub(
        r"(?<!^)(?=PreAct|Res(?:Net|NeXt|2Net)|DenseNet|Mobile|BoTNet|ViT)", "_", name
    ).lower()


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


def _attention(depth: int, prefix: str, attention: str, source: str) -> Builder:
    architecture = _imagenet_architecture(depth, attention=attention)
    summary = f"""Builds the {depth}-layer pre-activation net with {source} in every unit.

    `PreActResNet{depth}` with the attention on each branch's result, before the addition.
"""
    return _net(f"{prefix}PreActResNet{depth}", summary, architecture, classes=1000)


def _resnext(depth: int, cardinality: int, width: int) -> Builder:
    architecture = _imagenet_architecture(
        depth, cardinality=cardinality, bottleneck_ratio=cardinality * width / 256
    )
    summary = f"""Builds the {depth}-layer pre-activation ResNeXt {cardinality}x{width}d.

    The 3x3 convolutions are in {cardinality} groups, of {width} channels in the first stage
    (arXiv:1611.05431).
"""
    return _net(f"PreActResNeXt{depth}_{cardinality}x{width}d", summary, architecture, classes=1000)


def _res2net(depth: int, width: int, scale: int) -> Builder:
    architecture = _imagenet_architecture(
        depth, spatial="res2", res2_scale=scale, bottleneck_ratio=width * scale / 256
    )
    summary = f"""Builds the {depth}-layer pre-activation Res2Net {width}w x {scale}s.

    In place of each 3x3 convolution a hierarchy of them on {scale} splits of the channels, of
    {width} each in the first stage (arXiv:1904.01169).
"""
    return _net(f"PreActRes2Net{depth}_{width}w_{scale}s", summary, architecture, classes=1000)


def _resnet_rs(depth: int, **changes: Any) -> Builder:
    architecture = _imagenet_architecture(
        depth, stem="deep_unpooled", downsample="avg_pool", **changes
    )
    summary = f"""Builds ResNet-RS's {depth}-layer net in pre-activation (arXiv:2103.07579).

    ResNet-D's stem and shortcuts, a strided convolution in place of the stem's pooling, and
    Squeeze-and-Excitation of ratio 0.25.
"""
    return _net(f"PreActResNetRS{depth}", summary, architecture, classes=1000)


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


def _mobile(name: str, **changes: Any) -> Builder:
    architecture = Architecture(
        unit="inverted_bottleneck",
        units=(1, 2, 3, 4, 3, 3, 1),
        channels=(16, 24, 32, 64, 96, 160, 320),
        strides=(1, 2, 2, 2, 1, 2, 1),
        expansion=(1, 6, 6, 6, 6, 6, 6),
        stem="mobile",
        stem_channels=32,
        activation="relu6",
        **changes,
    )
    summary = """Builds a pre-activation net with the stages of MobileNetV2 (arXiv:1801.04381).

    Its table of expansions, channels, units and strides, with normalisation and activation before
    each convolution. Unlike there, a unit that changes the shape has a shortcut too, a 1x1
    convolution, and the last maps are classified without another convolution to 1280 channels.
"""
    return _net(name, summary, architecture, classes=1000)


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


def _pyramid(depth: int, alpha: int, unit: str = "basic") -> Builder:
    convolutions, expansion = {"basic": (2, 1), "bottleneck": (3, 4)}[unit]
    count = (depth - 2) // (3 * convolutions)
    line = widths.line(3 * count, 16, 16 + alpha)
    architecture = Architecture(
        unit=unit,
        units=(count,) * 3,
        channels=tuple(expansion * channels for channels in line[count - 1 :: count]),
        strides=(1, 2, 2),
        order="pyramid",
        downsample="zero_pad",
        widening="linear",
        stem="cifar",
        stem_channels=16,
    )
    summary = f"""Builds PyramidNet-{depth} with alpha = {alpha} for CIFAR (arXiv:1610.02915).

    {3 * count} {unit} units, each wider than the one before by the same number of channels, and
    shortcuts without weights: zeros for the new channels, average pooling where maps shrink.
"""
    return _net(f"PyramidNet{depth}_a{alpha}", summary, architecture, classes=10)


_DENSE_UNITS = {121: (6, 12, 24, 16), 169: (6, 12, 32, 32), 201: (6, 12, 48, 32)}


def _dense(depth: int) -> Builder:
    architecture = Architecture(
        unit="dense",
        units=_DENSE_UNITS[depth],
        channels=dense_channels(_DENSE_UNITS[depth], growth_rate=32, stem_channels=64),
        strides=(1, 2, 2, 2),
        stem="imagenet_activated",
    )
    summary = f"""Builds DenseNet-{depth} for ImageNet (arXiv:1608.06993).

    Pre-activation dense units that each add 32 channels, transitions that halve them: the topology
    of `keras.applications.DenseNet{depth}` and torchvision's `densenet{depth}`.
"""
    return _net(f"PreActDenseNet{depth}", summary, architecture, classes=1000)


def _dense_cifar(depth: int, growth_rate: int) -> Builder:
    units = ((depth - 4) // 6,) * 3
    architecture = Architecture(
        unit="dense",
        units=units,
        channels=dense_channels(units, growth_rate, stem_channels=2 * growth_rate),
        strides=(1, 2, 2),
        stem="cifar",
        stem_channels=2 * growth_rate,
    )
    summary = f"""Builds DenseNet-BC-{depth}-{growth_rate} for CIFAR (arXiv:1608.06993).

    Three stages of pre-activation dense units that each add {growth_rate} channels, and
    transitions that halve them.
"""
    return _net(f"DenseNetBC{depth}_{growth_rate}", summary, architecture, classes=10)


def _botnet(depth: int) -> Builder:
    architecture = _imagenet_architecture(depth, spatial="self_attention", spatial_stages=1)
    summary = f"""Builds the {depth}-layer pre-activation net with BoTNet's last stage.

    Self-attention with relative positions in the place of its 3x3 convolutions (arXiv:2101.11605).
"""
    return _net(f"PreActBoTNet{depth}", summary, architecture, classes=1000)


def _vit_hybrid(
    units: tuple[int, ...], size: str, patch: int, width: int, heads: int, peer: str
) -> Builder:
    depth = 3 * sum(units) + 2
    architecture = Architecture(
        units=units,
        channels=(256, 512, 1024, 2048)[: len(units)],
        strides=(1, 2, 2, 2)[: len(units)],
        order="original",
        norm="group",
        weight_standardization=True,
        padding="same",
        encoder_depth=12,
        encoder_width=width,
        encoder_heads=heads,
    )
    summary = f"""Builds R{depth}+ViT-{size}/{patch} (arXiv:2010.11929, arXiv:2106.10270).

    A {depth}-layer net with group normalisation and weight-standardised convolutions, in the
    original order of activation, whose maps of stride {patch} a transformer encoder of 12 blocks
    takes: timm's `{peer}`. Without the top, `pooling` may also be `"token"`, the class token.
"""
    return _net(f"PreActViTHybrid_R{depth}_{size}{patch}", summary, architecture, classes=1000)


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

SEPreActResNet50 = _attention(50, "SE", "se", "Squeeze-and-Excitation (arXiv:1709.01507)")
ECAPreActResNet50 = _attention(50, "ECA", "eca", "efficient channel attention (arXiv:1910.03151)")
CBAMPreActResNet50 = _attention(50, "CBAM", "cbam", "CBAM (arXiv:1807.06521)")

PreActMobileNetV2 = _mobile("PreActMobileNetV2")
PreActResNeXt50_32x4d = _resnext(50, 32, 4)
PreActResNeXt101_32x8d = _resnext(101, 32, 8)
PreActRes2Net50_26w_4s = _res2net(50, 26, 4)
PreActResNetRS50 = _resnet_rs(50, attention="se", attention_ratio=0.25)

ResNet50V2 = _slim(50)
ResNet101V2 = _slim(101)
ResNet152V2 = _slim(152)

BiTResNet50x1 = _bit(50, 1)
BiTResNet50x3 = _bit(50, 3)
BiTResNet101x1 = _bit(101, 1)
BiTResNet101x3 = _bit(101, 3)
BiTResNet152x2 = _bit(152, 2)
BiTResNet152x4 = _bit(152, 4)

PreActViTHybrid_R26_S32 = _vit_hybrid((2, 2, 2, 2), "S", 32, 384, 6, "vit_small_r26_s32_224")
PreActViTHybrid_R50_B16 = _vit_hybrid((3, 4, 9), "B", 16, 768, 12, "vit_base_r50_s16_224")

PreActBoTNet50 = _botnet(50)

PreActResNet20 = _cifar(20, "basic")
PreActResNet56 = _cifar(56, "basic")
PreActResNet110 = _cifar(110, "basic")
PreActResNet164 = _cifar(164, "bottleneck")
PreActResNet1001 = _cifar(1001, "bottleneck")

WideResNet16_8 = _wide(16, 8)
WideResNet28_10 = _wide(28, 10)
WideResNet40_4 = _wide(40, 4)

PyramidNet110_a48 = _pyramid(110, 48)
PyramidNet110_a84 = _pyramid(110, 84)
PyramidNet110_a270 = _pyramid(110, 270)
PyramidNet164_a270 = _pyramid(164, 270, "bottleneck")

PreActDenseNet121 = _dense(121)
PreActDenseNet169 = _dense(169)
PreActDenseNet201 = _dense(201)
DenseNetBC100_12 = _dense_cifar(100, 12)
