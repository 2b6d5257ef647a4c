"""Published nets, each one row."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from keras_preact.architecture import Architecture
from keras_preact.blocks.channels import line
from keras_preact.blocks.units import UNITS
from keras_preact.dense import dense_channels
from keras_preact.messages import did_you_mean


@dataclass(frozen=True)
class Net:
    """One published net.

    Attributes:
        name: Name of its builder.
        summary: First lines of the builder's docstring.
        architecture: What it is.
        classes: Number of classes of its data set.
    """

    name: str
    summary: str
    architecture: Architecture
    classes: int

    @property
    def model_name(self) -> str:
        """Name of the model: `preact_resnet50` of `PreActResNet50`."""
        return re.sub(
            r"(?<!^)(?=PreAct|Res(?:Net|NeXt|2Net)|DenseNet|Mobile|BoTNet|ViT)", "_", self.name
        ).lower()


_IMAGENET_UNITS = {
    18: ("basic", (2, 2, 2, 2)),
    34: ("basic", (3, 4, 6, 3)),
    50: ("bottleneck", (3, 4, 6, 3)),
    101: ("bottleneck", (3, 4, 23, 3)),
    152: ("bottleneck", (3, 8, 36, 3)),
    200: ("bottleneck", (3, 24, 36, 3)),
}


def _expansion(unit: str) -> int:
    """Return the output channels of a unit as a multiple of those inside."""
    return 4 if UNITS[unit].inside else 1


def _units_per_stage(depth: int, unit: str) -> int:
    """Return the units of each of three stages of a net with `depth` layers, for CIFAR."""
    return (depth - 2) // (3 * len(UNITS[unit].kernels))


def _imagenet_architecture(depth: int, widen_factor: int = 1, **changes: Any) -> Architecture:
    unit, units = _IMAGENET_UNITS[depth]
    expansion = _expansion(unit) * widen_factor
    fields = {
        "unit": unit,
        "units": units,
        "channels": tuple(expansion * channels for channels in (64, 128, 256, 512)),
        "strides": (1, 2, 2, 2),
        "stem_channels": 64 * widen_factor,
    }
    return Architecture(**{**fields, **changes})


def _imagenet(depth: int) -> Net:
    architecture = _imagenet_architecture(depth)
    summary = f"""Build the {depth}-layer pre-activation net for ImageNet (arXiv:1603.05027).

    The topology is that of timm's `resnetv2` nets: {architecture.unit} units, with the stride in
    the 3x3 convolution.
"""
    return Net(f"PreActResNet{depth}", summary, architecture, classes=1000)


def _imagenet_frn(depth: int) -> Net:
    architecture = _imagenet_architecture(depth, norm="frn", activation="linear", norm_epsilon=1e-6)
    summary = f"""Build the {depth}-layer net of filter response normalization (arXiv:1911.09737).

    This is the paper's ResNetV2-{depth}, without statistics of a batch, and with learned thresholds
    for ReLUs. Maps have to be larger than one pixel, so images need 64 pixels or more.
"""
    return Net(f"PreActResNet{depth}_FRN", summary, architecture, classes=1000)


def _imagenet_norm_free(depth: int) -> Net:
    architecture = _imagenet_architecture(
        depth,
        norm="none",
        weight_standardization="scaled",
        residual_scaling="norm_free",
        downsample="avg_pool",
        use_bias=True,
        zero_init_residual=True,
    )
    summary = f"""Build the {depth}-layer net without normalization (NF-ResNet, arXiv:2101.08692).

    Scaled weight standardization, `x + 0.2 * f(x / beta)`, average pooling in the shortcuts: timm's
    `nf_resnet{depth}`.
"""
    return Net(f"NFPreActResNet{depth}", summary, architecture, classes=1000)


def _imagenet_d(depth: int, suffix: str = "", **changes: Any) -> Net:
    architecture = _imagenet_architecture(depth, stem="deep", downsample="avg_pool", **changes)
    norm = {"batch": "batch normalization", "group": "group normalization"}
    summary = f"""Build the {depth}-layer pre-activation net with ResNet-D's stem and shortcuts.

    Three 3x3 convolutions in the stem, average pooling in the shortcuts (arXiv:1812.01187),
    {norm.get(architecture.norm, "EvoNorm-S0")}: timm's `resnetv2_{depth}d{suffix.lower()}`.
"""
    return Net(f"PreActResNet{depth}d{suffix}", summary, architecture, classes=1000)


def _imagenet_t(depth: int) -> Net:
    architecture = _imagenet_architecture(depth, stem="tiered", downsample="avg_pool")
    summary = f"""Build the {depth}-layer pre-activation net with a stem of rising widths.

    As `PreActResNet{depth}d`, with 24 and 32 channels in place of twice 32 within the stem: timm's
    `resnetv2_{depth}t`.
"""
    return Net(f"PreActResNet{depth}t", summary, architecture, classes=1000)


def _attention(depth: int, prefix: str, attention: str, source: str) -> Net:
    architecture = _imagenet_architecture(depth, attention=attention)
    summary = f"""Build the {depth}-layer pre-activation net with {source} in every unit.

    `PreActResNet{depth}` with the attention on each branch's result, before the addition.
"""
    return Net(f"{prefix}PreActResNet{depth}", summary, architecture, classes=1000)


def _resnext(depth: int, cardinality: int, width: int) -> Net:
    architecture = _imagenet_architecture(
        depth, cardinality=cardinality, bottleneck_ratio=cardinality * width / 256
    )
    summary = f"""Build the {depth}-layer pre-activation ResNeXt {cardinality}x{width}d.

    The 3x3 convolutions are in {cardinality} groups, of {width} channels in the first stage
    (arXiv:1611.05431).
"""
    return Net(f"PreActResNeXt{depth}_{cardinality}x{width}d", summary, architecture, classes=1000)


def _res2net(depth: int, width: int, scale: int) -> Net:
    architecture = _imagenet_architecture(
        depth, spatial="res2", res2_scale=scale, bottleneck_ratio=width * scale / 256
    )
    summary = f"""Build the {depth}-layer pre-activation Res2Net {width}w x {scale}s.

    In place of each 3x3 convolution a hierarchy of them on {scale} splits of the channels, of
    {width} each in the first stage (arXiv:1904.01169).
"""
    return Net(f"PreActRes2Net{depth}_{width}w_{scale}s", summary, architecture, classes=1000)


def _resnet_rs(depth: int, **changes: Any) -> Net:
    architecture = _imagenet_architecture(
        depth, stem="deep_unpooled", downsample="avg_pool", **changes
    )
    summary = f"""Build ResNet-RS's {depth}-layer net in pre-activation (arXiv:2103.07579).

    ResNet-D's stem and shortcuts, a strided convolution in place of the stem's pooling, and
    Squeeze-and-Excitation of ratio 0.25.
"""
    return Net(f"PreActResNetRS{depth}", summary, architecture, classes=1000)


def _slim(depth: int) -> Net:
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
    summary = f"""Build `keras.applications.ResNet{depth}V2`, the {depth}-layer net of TF-slim.

    Stages end in their stride, and so does `feature_extractor`'s map of a stage; where a shortcut
    only shrinks, it leaves pixels out; convolutions that no normalization follows have a bias.
"""
    return Net(f"ResNet{depth}V2", summary, architecture, classes=1000)


def _bit(depth: int, widen_factor: int) -> Net:
    architecture = _imagenet_architecture(
        depth, widen_factor, norm="group", weight_standardization=True, zero_pad_pool=True
    )
    summary = f"""Build Big Transfer's R{depth}x{widen_factor} (arXiv:1912.11370).

    The {depth}-layer net for ImageNet, {widen_factor} times as wide, with group normalization and
    weight-standardized convolutions.
"""
    return Net(f"BiTResNet{depth}x{widen_factor}", summary, architecture, classes=1000)


def _mobile(name: str, **changes: Any) -> Net:
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
    summary = """Build a pre-activation net with the stages of MobileNetV2 (arXiv:1801.04381).

    Its table of expansions, channels, units and strides, with normalization and activation before
    each convolution. Unlike there, a unit that changes the shape has a shortcut too, a 1x1
    convolution, and the last maps are classified without another convolution to 1280 channels.
"""
    return Net(name, summary, architecture, classes=1000)


def _cifar(depth: int, unit: str) -> Net:
    architecture = Architecture(
        unit=unit,
        units=(_units_per_stage(depth, unit),) * 3,
        channels=tuple(_expansion(unit) * channels for channels in (16, 32, 64)),
        strides=(1, 2, 2),
        stride_in="first_conv",
        stem="cifar",
        stem_channels=16,
        # Where the first unit projects, its two paths begin with the activation anyway.
        activated_stem=unit == "basic",
    )
    summary = f"""Build the {depth}-layer pre-activation net for CIFAR (arXiv:1603.05027).

    Three stages of {unit} units, stride in the first convolution, as in the authors' code. Both
    paths of the first unit begin with the activated maps of the stem.
"""
    return Net(f"PreActResNet{depth}", summary, architecture, classes=10)


def _wide(depth: int, widen_factor: int) -> Net:
    architecture = Architecture(
        unit="basic",
        units=((depth - 4) // 6,) * 3,
        channels=tuple(widen_factor * channels for channels in (16, 32, 64)),
        strides=(1, 2, 2),
        stem="cifar",
        stem_channels=16,
    )
    summary = f"""Build WRN-{depth}-{widen_factor} for CIFAR (arXiv:1605.07146).

    Three stages of basic units, {widen_factor} times as wide as the {depth - 2}-layer CIFAR net's.
"""
    return Net(f"WideResNet{depth}_{widen_factor}", summary, architecture, classes=10)


def _pyramid(depth: int, alpha: int, unit: str = "basic") -> Net:
    count = _units_per_stage(depth, unit)
    channels = line(3 * count, 16, 16 + alpha)
    architecture = Architecture(
        unit=unit,
        units=(count,) * 3,
        channels=tuple(_expansion(unit) * each for each in channels[count - 1 :: count]),
        strides=(1, 2, 2),
        order="pyramid",
        downsample="zero_pad",
        widening="linear",
        stem="cifar",
        stem_channels=16,
    )
    summary = f"""Build PyramidNet-{depth} with alpha = {alpha} for CIFAR (arXiv:1610.02915).

    {3 * count} {unit} units, each wider than the one before by the same number of channels, and
    shortcuts without weights: zeros for the new channels, average pooling where maps shrink.
"""
    return Net(f"PyramidNet{depth}_a{alpha}", summary, architecture, classes=10)


_DENSE_UNITS = {121: (6, 12, 24, 16), 169: (6, 12, 32, 32), 201: (6, 12, 48, 32)}


def _dense(depth: int) -> Net:
    architecture = Architecture(
        unit="dense",
        units=_DENSE_UNITS[depth],
        channels=dense_channels(_DENSE_UNITS[depth], growth_rate=32, stem_channels=64),
        strides=(1, 2, 2, 2),
        stem="imagenet_activated",
    )
    summary = f"""Build DenseNet-{depth} for ImageNet (arXiv:1608.06993).

    Pre-activation dense units that each add 32 channels, transitions that halve them: the topology
    of `keras.applications.DenseNet{depth}` and torchvision's `densenet{depth}`.
"""
    return Net(f"PreActDenseNet{depth}", summary, architecture, classes=1000)


def _dense_cifar(depth: int, growth_rate: int) -> Net:
    units = ((depth - 4) // 6,) * 3
    architecture = Architecture(
        unit="dense",
        units=units,
        channels=dense_channels(units, growth_rate, stem_channels=2 * growth_rate),
        strides=(1, 2, 2),
        stem="cifar",
        stem_channels=2 * growth_rate,
    )
    summary = f"""Build DenseNet-BC-{depth}-{growth_rate} for CIFAR (arXiv:1608.06993).

    Three stages of pre-activation dense units that each add {growth_rate} channels, and
    transitions that halve them.
"""
    return Net(f"DenseNetBC{depth}_{growth_rate}", summary, architecture, classes=10)


def _botnet(depth: int) -> Net:
    architecture = _imagenet_architecture(depth, spatial="self_attention", spatial_stages=1)
    summary = f"""Build the {depth}-layer pre-activation net with BoTNet's last stage.

    Self-attention with relative positions in the place of its 3x3 convolutions (arXiv:2101.11605).
"""
    return Net(f"PreActBoTNet{depth}", summary, architecture, classes=1000)


def _vit_hybrid(
    units: tuple[int, ...], size: str, patch: int, width: int, heads: int, peer: str
) -> Net:
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
    summary = f"""Build R{depth}+ViT-{size}/{patch} (arXiv:2010.11929, arXiv:2106.10270).

    A {depth}-layer net with group normalization and weight-standardized convolutions, in the
    original order of activation, whose maps of stride {patch} a transformer encoder of 12 blocks
    takes: timm's `{peer}`. Without the top, `pooling` may also be `"token"`, the class token.
"""
    return Net(f"PreActViTHybrid_R{depth}_{size}{patch}", summary, architecture, classes=1000)


NETS: dict[str, Net] = {
    net.name: net
    for net in (
        _imagenet(18),
        _imagenet(34),
        _imagenet(50),
        _imagenet(101),
        _imagenet(152),
        _imagenet(200),
        _imagenet_frn(50),
        _imagenet_norm_free(50),
        _imagenet_d(18),
        _imagenet_d(34),
        _imagenet_d(50),
        _imagenet_d(50, "_GN", norm="group"),
        _imagenet_d(50, "_EvoS", norm="evonorm_s0", activation="linear"),
        _imagenet_t(50),
        _attention(50, "SE", "se", "Squeeze-and-Excitation (arXiv:1709.01507)"),
        _attention(50, "ECA", "eca", "efficient channel attention (arXiv:1910.03151)"),
        _attention(50, "CBAM", "cbam", "CBAM (arXiv:1807.06521)"),
        _mobile("PreActMobileNetV2"),
        _resnext(50, 32, 4),
        _resnext(101, 32, 8),
        _res2net(50, 26, 4),
        _resnet_rs(50, attention="se", attention_ratio=0.25),
        _slim(50),
        _slim(101),
        _slim(152),
        _bit(50, 1),
        _bit(50, 3),
        _bit(101, 1),
        _bit(101, 3),
        _bit(152, 2),
        _bit(152, 4),
        _vit_hybrid((2, 2, 2, 2), "S", 32, 384, 6, "vit_small_r26_s32_224"),
        _vit_hybrid((3, 4, 9), "B", 16, 768, 12, "vit_base_r50_s16_224"),
        _botnet(50),
        _cifar(20, "basic"),
        _cifar(56, "basic"),
        _cifar(110, "basic"),
        _cifar(164, "bottleneck"),
        _cifar(1001, "bottleneck"),
        _wide(16, 8),
        _wide(28, 10),
        _wide(40, 4),
        _pyramid(110, 48),
        _pyramid(110, 84),
        _pyramid(110, 270),
        _pyramid(164, 270, "bottleneck"),
        _dense(121),
        _dense(169),
        _dense(201),
        _dense_cifar(100, 12),
    )
}


def find_net(builder: str) -> Net:
    """Return the published net of a builder.

    Raises:
        ValueError: If there is no builder of that name.
    """
    if builder not in NETS:
        hint = did_you_mean(builder, NETS, quote="'")
        raise ValueError(f"There is no builder {builder!r}.{hint}")
    return NETS[builder]
