"""`Architecture`: one frozen dataclass that says everything about a net."""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from keras_preact.attention import ATTENTIONS, PLACES
from keras_preact.convolutions import CONVOLUTIONS
from keras_preact.dense import DENSE_UNITS, dense_stages
from keras_preact.gains import activation_gain
from keras_preact.head import MAPS, TOKENS
from keras_preact.norms import NORMS
from keras_preact.operations import SIZED, SPATIAL
from keras_preact.orders import ORDERS, Order
from keras_preact.parts import DROP_PATHS
from keras_preact.residual_scaling import RESIDUAL_SCALINGS, with_input_scales
from keras_preact.rules import (
    A_VALUE_EACH_STAGE,
    A_VALUE_EACH_UNIT,
    ACTIVATION,
    BOOLEAN,
    COUNT,
    NUMBER,
    POSITIVE,
    POSITIVE_INTEGER,
    RATE,
    SHARE,
    Rule,
    one_of,
    or_each,
    or_none,
)
from keras_preact.shortcuts import FOLLOW_UPS, PROJECTIONS, SHORTCUTS, projects
from keras_preact.stem import STEMS
from keras_preact.units import INSIDE, UNITS
from keras_preact.widths import WIDENINGS, widths

# `scan_units="auto"` runs a stage as a loop from this number of units on.
AUTO_SCAN_UNITS = 24
# Fields that are kept as tuples.
_SEQUENCES = ("units", "channels", "strides", "dilations", "multi_grid")


@dataclass(frozen=True)
class Unit:
    """One residual unit of a net, as `Architecture.stages` works it out.

    Attributes:
        name: Prefix of its layers' names, such as `"stage3_unit1"`.
        stage: Number of its stage, from 2.
        in_channels: Channels that come in.
        shortcut_channels: Channels of the shortcut: those that go out, or, in a dense unit, those
            that it adds to.
        channels: Channels that go out.
        stride: Factor by which the height and width shrink.
        projects: Whether the shortcut has a convolution: in a dense unit, whether a transition
            comes before it.
        dilation: Spacing of the kernels' pixels before the unit's stride, and where that stands.
        dilation_after: The same after it: more, where dilation replaces the stride.
        drop_path: Probability that training drops the residual branch of an example.
        rate: The part of the dilation that the architecture chose, rather than one in place of
            strides.
        spatial: What a bottleneck has in the place of its 3x3 convolution.
        input_scale: What the branch multiplies its input by.
    """

    name: str
    stage: int
    in_channels: int
    shortcut_channels: int
    channels: int
    stride: int
    projects: bool
    dilation: int
    dilation_after: int
    drop_path: float
    rate: int = 1
    spatial: str = "conv"
    input_scale: float = 1.0

    @property
    def nominal_stride(self) -> int:
        """The stride, were it not replaced by dilation."""
        return self.stride * self.dilation_after // self.dilation

    @property
    def growth(self) -> int:
        """Channels that a dense unit adds."""
        return self.channels - self.shortcut_channels

    @property
    def strided(self) -> bool:
        """Whether the unit has a stride, or dilation in its place."""
        return self.stride != 1 or self.dilation != self.dilation_after

    @property
    def reshapes(self) -> bool:
        """Whether the shortcut cannot be an identity."""
        return self.strided or self.in_channels != self.shortcut_channels


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Everything that decides a net's topology and initial weights, but its input and its classes.

    Args:
        units: Residual units of each stage.
        channels: Output channels of each stage.
        strides: Stride of each stage.
        order: Where normalisation and activation stand (arXiv:1603.05027, figure 4):
            `"full_preactivation"`, `"original"`, `"bn_after_addition"`, `"relu_before_addition"`,
            `"relu_only_preactivation"`; or `"pyramid"` (a norm before and after each convolution,
            no activation before the first: arXiv:1610.02915).
        unit: `"basic"` (two 3x3 convolutions), `"bottleneck"` (1x1, 3x3, 1x1),
            `"inverted_bottleneck"` (1x1, depthwise 3x3, 1x1: MobileNetV2, arXiv:1801.04381); or
            dense units, which add their maps to those that come in (arXiv:1608.06993): `"dense"`
            (1x1, 3x3: DenseNet-B) or `"dense_basic"` (3x3). Each of a dense stage adds as many
            channels, which follow from `channels`: `keras_preact.dense.dense_channels` gives those
            of a growth rate. Full pre-activation alone.
        bottleneck_ratio: Channels inside a bottleneck as a share of its output channels; of a dense
            unit, those that it adds as a share of those inside.
        expansion: Channels inside an inverted bottleneck as a multiple of its input channels; or a
            sequence, one for each stage. Where it is 1, the first convolution is left out.
        compression: With dense units: channels after the transition that opens every stage but the
            first (1x1 convolution, average pooling by the stage's stride) as a share of those
            before it.
        widening: How channels get to those of their stage: `"stage"`, at once, or `"linear"`, by
            equal steps from unit to unit, beginning at the stem's (PyramidNet, arXiv:1610.02915):
            over the whole net where `channels` lie on one line but for rounding, else in each
            stage. In bottlenecks it is the channels inside that are on the line and are rounded,
            and the stem's count as such.
        spatial: What stands between a bottleneck's 1x1 convolutions: `"conv"` (3x3), `"res2"` (a
            hierarchy of small 3x3 convolutions: Res2Net, arXiv:1904.01169) or `"self_attention"`
            between all pixels, with relative positions (BoTNet, arXiv:2101.11605), after which a
            stride is average pooling. The weights of the last fit one size of images alone.
        spatial_stages: How many stages, counted from the last, have `spatial`; the others have
            convolutions. None for all.
        attention_heads: Heads of self-attention.
        cardinality: Groups of channels in those 3x3 convolutions (ResNeXt, arXiv:1611.05431).
        res2_scale: Splits of the channels in Res2Net's hierarchy.
        stride_unit: Which unit of a stage carries its stride: `"first"` or `"last"` (TF-slim,
            keras.applications).
        stride_in: Which convolution of a unit carries its stride: `"first_conv"` (the paper's
            code) or `"spatial_conv"`, the first 3x3 (PyTorch, timm). The same for basic units.
        downsample: How a shortcut shrinks the maps: `"conv"` (by the stride of its 1x1
            convolution), `"avg_pool"` (2x2 average pooling, then the convolution: ResNet-D,
            arXiv:1812.01187), `"subsample"` (as `"conv"` where the channels change too, else by
            leaving pixels out, without weights: TF-slim, keras.applications) or `"zero_pad"` (2x2
            average pooling, zeros for new channels, no weights: PyramidNet).
        shortcut: What becomes of a shortcut where the shape stays (arXiv:1603.05027, section 3):
            `"identity"`, `"scaling"` (times `shortcut_scale`), `"scaling_both"` (the branch by one
            less that, too), `"exclusive_gating"`, `"shortcut_gating"`, `"conv"` (1x1) or
            `"dropout"`. Only the identity leaves gradients as they are.
        shortcut_scale: The factor of a scaled shortcut.
        gate_bias: What the gates' biases start at: below 0, the shortcut is nearly an identity.
        shortcut_dropout: The rate of a shortcut's dropout.
        residual_scaling: How branches are scaled, for nets with `norm="none"`: `"skip_init"` (by
            one learned number that starts at 0: arXiv:2002.10444), `"norm_free"` (the unit is
            `x + residual_scale * f(x / beta)`, beta being the standard deviation expected at its
            input: NF-ResNet, arXiv:2101.08692, which goes with `weight_standardization="scaled"`),
            `"norm_free_skip_init"` (both) or None.
        residual_scale: What a norm-free unit multiplies its branch by, the paper's alpha.
        output_stride: Pixels of the input to one of the last maps: from where a stage's stride
            would go beyond it, dilation replaces the strides (arXiv:1706.05587). The weights stay
            the same. None for the product of the strides.
        dilations: Spacing of the kernels' pixels in each stage, times what `output_stride` brings;
            None for 1 everywhere.
        multi_grid: Further factors of it in the last stage: one for each unit, and from the start
            again where it has more units (DeepLab v3, arXiv:1706.05587); None for 1.
        blur_pool: Whether strides are taken by a blur, which leaves nothing to alias
            (arXiv:1904.11486): those of the units after the activation that follows the strided
            convolution, those of shortcuts before it, those of max pooling after it. The stem's
            strided convolution stays, as in the authors' code, and so does average pooling.
        stem: `"imagenet"` (7x7 convolution of stride 2, 3x3 max pooling of stride 2),
            `"imagenet_activated"` (with normalisation and activation between them in every order:
            DenseNet), `"deep"` (three 3x3 convolutions instead of one 7x7: ResNet-D),
            `"deep_unpooled"` (and a fourth, of stride 2, instead of the pooling: ResNet-RS,
            arXiv:2103.07579), `"mobile"` (3x3 convolution of stride 2: MobileNetV2, EfficientNet)
            or `"cifar"` (3x3 convolution).
        stem_channels: Output channels of the stem.
        zero_pad_pool: Whether the stem's pooling counts its padding as zeros (TF-slim, BiT)
            instead of leaving it out.
        norm: Normalisation: `"batch"`; `"group"` (arXiv:1803.08494); `"layer"`, over the channels
            of each pixel (as in arXiv:2201.03545; over whole images it is `"group"` with one
            group); `"evonorm_s0"` (arXiv:2004.02967) or `"frn"` (filter response normalisation,
            arXiv:1911.09737), which contain an activation: their `activation` is `"linear"`; or
            `"none"`.
        norm_groups: Groups of channels of group normalisation and EvoNorm-S0.
        norm_momentum: Momentum of the moving statistics of batch normalisation.
        norm_epsilon: Added to the variance.
        weight_standardization: Whether the convolutions' kernels are used with mean 0 and variance
            1 over each output channel (arXiv:1903.10520); `"scaled"`: with variance
            `(gain * activation's gain)**2 / fan_in`, where the gain is learned, so that the
            variance of activations stays as it is (arXiv:2101.08692).
        activation: Name of a Keras activation.
        padding: `"fixed"`: half the kernel on every side, whatever the stride (Torch, PyTorch);
            `"same"`: TensorFlow's rule, which pads bottom and right more where a stride is even.
        use_bias: Whether convolutions have a bias; `"unnormalized"`: those that no normalisation
            follows, which are the stem's, the shortcuts' and the last of each unit.
        attention: None, or factors for a unit's channels: `"se"` (Squeeze-and-Excitation,
            arXiv:1709.01507), `"eca"` (arXiv:1910.03151); `"cbam"`, also for its pixels
            (arXiv:1807.06521).
        attention_ratio: Channels inside `"se"` and `"cbam"` as a share of those they act on. Their
            activation is the net's, or ReLU where that is `"linear"`. The kernel of `"eca"` follows
            from the number of channels.
        attention_place: What attention acts on: `"after_last_conv"`, the branch's result before the
            addition (SE-ResNet), or `"before_last_conv"`, what its last convolution takes
            (EfficientNet).
        dropout: Dropout rate before a unit's last convolution (Wide ResNet, arXiv:1605.07146);
            with dense units, after each of their and the transitions' convolutions.
        drop_path: Stochastic depth (arXiv:1603.09382): the rate of the last unit; the rate of
            unit l of L is `drop_path * l / L`.
        drop_path_form: What stochastic depth does to a branch: `"drop"` it, or `"shake"` it, which
            multiplies it by a number in [-1, 1] and its gradient by one in [0, 1] (ShakeDrop,
            arXiv:1802.02375, made for branches that end in a norm, as in `order="pyramid"`).
        drop_block: Share of the pixels that DropBlock (arXiv:1810.12890) drops, in squares, after
            each convolution of a branch and the norm and activation that follow it, in the last
            stage; a quarter of it in the stage before, none in the others, as in the authors' code.
            Unlike there the shortcut stays whole, and the rate is the same throughout training.
        drop_block_size: Height and width of DropBlock's squares, in pixels.
        zero_init_residual: Start with residual branches that give zero, so that every unit is an
            identity (arXiv:1706.02677). The last convolution's kernel is what starts at zero: a
            zero scale in the norm before it would feed zeros to a ReLU, whose gradient there
            is zero, and the branch would never learn.
        encoder_depth: Blocks of a transformer encoder on the last maps, as in hybrid ViTs
            (arXiv:2010.11929); 0 for none. `keras_preact.encoder` has its details. Its positions
            fit one size of images alone.
        encoder_width: Features of each of its tokens.
        encoder_heads: Heads of its attention.
        encoder_mlp_ratio: Features inside its perceptrons as a multiple of its width.
        encoder_dropout: Dropout rate after its positions and after every dense layer but those to
            queries, keys and values.
        encoder_drop_path: Stochastic depth of its last block; that of block l of L is
            `encoder_drop_path * (l - 1) / (L - 1)` (arXiv:2106.10270).
        scan_units: Whether the units of a stage after its first, which are identical, run as one
            loop over stacked weights (`keras_preact.layers.StackedUnits`), so that building and
            tracing take the same time at any depth; `"auto"`: in stages of 24 units or more. Not
            where channels change from unit to unit.
        rematerialize: Recompute the inside of those units, and of an encoder's blocks, in the
            backward pass instead of keeping it, so that memory grows with their inputs alone
            (arXiv:1604.06174).

    Raises:
        ValueError: If a value is of the wrong kind or out of its range.
    """

    units: tuple[int, ...]
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    order: str = "full_preactivation"
    unit: str = "bottleneck"
    bottleneck_ratio: float = 0.25
    expansion: float | tuple[float, ...] = 6.0
    compression: float = 0.5
    widening: str = "stage"
    spatial: str = "conv"
    spatial_stages: int | None = None
    attention_heads: int = 4
    cardinality: int = 1
    res2_scale: int = 4
    stride_unit: str = "first"
    stride_in: str = "spatial_conv"
    downsample: str = "conv"
    shortcut: str = "identity"
    shortcut_scale: float = 0.5
    gate_bias: float = -6.0
    shortcut_dropout: float = 0.5
    residual_scaling: str | None = None
    residual_scale: float = 0.2
    output_stride: int | None = None
    dilations: tuple[int, ...] | None = None
    multi_grid: tuple[int, ...] | None = None
    blur_pool: bool = False
    stem: str = "imagenet"
    stem_channels: int = 64
    zero_pad_pool: bool = False
    norm: str = "batch"
    norm_groups: int = 32
    norm_momentum: float = 0.9
    norm_epsilon: float = 1e-5
    weight_standardization: bool | str = False
    activation: str = "relu"
    padding: str = "fixed"
    use_bias: bool | str = False
    attention: str | None = None
    attention_ratio: float = 1 / 16
    attention_place: str = "after_last_conv"
    dropout: float = 0.0
    drop_path: float = 0.0
    drop_path_form: str = "drop"
    drop_block: float = 0.0
    drop_block_size: int = 7
    zero_init_residual: bool = False
    encoder_depth: int = 0
    encoder_width: int = 768
    encoder_heads: int = 12
    encoder_mlp_ratio: float = 4.0
    encoder_dropout: float = 0.0
    encoder_drop_path: float = 0.0
    scan_units: bool | str = "auto"
    rematerialize: bool = False

    def __post_init__(self) -> None:
        for name, rule in RULES.items():
            value = getattr(self, name)
            _check(name, value, rule.holds(value), rule.expected)
            if (name in _SEQUENCES and value is not None) or isinstance(value, list):
                object.__setattr__(self, name, tuple(value))
        if not len(self.units) == len(self.channels) == len(self.strides):
            raise ValueError(
                "`units`, `channels` and `strides` must have one value for each stage. "
                f"Received: units={self.units}, channels={self.channels}, strides={self.strides}"
            )
        for constraint in CONSTRAINTS:
            value = getattr(self, constraint.field)
            _check(constraint.field, value, constraint.holds(self), constraint.expected(self))

    def bottleneck_channels(self, channels: int) -> int:
        """Channels inside a bottleneck whose output has `channels`."""
        return int(channels * self.bottleneck_ratio)

    def expanded_channels(self, unit: Unit) -> int:
        """Channels inside an inverted bottleneck."""
        expansion = self.expansion
        if isinstance(expansion, tuple):
            expansion = expansion[unit.stage - 2]
        return max(1, round(unit.in_channels * expansion))

    def drop_block_rate(self, unit: Unit) -> float:
        """Share of the pixels that DropBlock drops in a unit."""
        stages_after = len(self.units) + 1 - unit.stage
        return self.drop_block / 4**stages_after if stages_after < 2 else 0.0

    def attention_channels(self, channels: int) -> int:
        """Channels inside an attention that acts on `channels`."""
        return max(1, round(channels * self.attention_ratio))

    @property
    def encoder_mlp_width(self) -> int:
        """Features inside the encoder's perceptrons."""
        return int(self.encoder_width * self.encoder_mlp_ratio)

    @property
    def input_size(self) -> int:
        """Default height and width of the input, in pixels."""
        return STEMS[self.stem].input_size

    @property
    def sized(self) -> bool:
        """Whether the weights fit images of one height and width alone."""
        return self.encoder_depth > 0 or self.spatial in SIZED

    @property
    def output_rank(self) -> int:
        """Rank of what the body gives: `keras_preact.head.MAPS` or `TOKENS`."""
        return TOKENS if self.encoder_depth else MAPS

    def stage_spatial(self, stage: int) -> str:
        """What the units of a stage, counted from 2, have for `spatial`."""
        count = len(self.units) if self.spatial_stages is None else self.spatial_stages
        return self.spatial if stage > len(self.units) + 1 - count else "conv"

    @property
    def normalized_channels(self) -> set[int]:
        """The numbers of channels that a normalisation meets."""
        channels = {self.stem_channels} | self.inside_channels
        for unit in itertools.chain(*self.stages.values()):
            channels |= {unit.shortcut_channels, unit.channels}
        channels |= {inside // self.res2_scale for inside in self.spatial_channels("res2")}
        if STEMS[self.stem].inner:
            channels.add(int(self.stem_channels * STEMS[self.stem].inner))
        return channels

    @property
    def inside_channels(self) -> set[int]:
        """The numbers of channels between the convolutions of units that have others there."""
        if self.unit not in INSIDE:
            return set()
        inside = INSIDE[self.unit]
        return {inside(self, unit) for unit in itertools.chain(*self.stages.values())}

    def spatial_channels(self, kind: str) -> set[int]:
        """The numbers of channels inside bottlenecks that have `kind` for `spatial`."""
        if self.unit != "bottleneck":
            return set()
        return {
            self.bottleneck_channels(unit.channels)
            for unit in itertools.chain(*self.stages.values())
            if unit.spatial == kind
        }

    @property
    def reached_strides(self) -> tuple[int, ...]:
        """Pixels of the input to one pixel after the stem and each stage, without dilation."""
        return tuple(
            itertools.accumulate(
                self.strides,
                lambda reached, stride: reached * stride,
                initial=STEMS[self.stem].stride,
            )
        )

    @property
    def stages(self) -> dict[int, tuple[Unit, ...]]:
        """The units of each stage. The stem is stage 1, so stages count from 2, as in the paper."""
        numbers = itertools.count(1)
        stages, in_channels = {}, self.stem_channels
        reached, dilation = STEMS[self.stem].stride, 1
        for stage, (stage_widths, stage_stride) in enumerate(
            zip(widths(self), self.strides, strict=True), 2
        ):
            units = []
            for index, width in enumerate(stage_widths, 1):
                strided = index == (1 if self.stride_unit == "first" else len(stage_widths))
                nominal = stage_stride if strided else 1
                dilated = self.output_stride is not None and reached * nominal > self.output_stride
                stride, after = (1, dilation * nominal) if dilated else (nominal, dilation)
                rate = self._rate(stage - 2, index - 1)
                units.append(
                    Unit(
                        name=f"stage{stage}_unit{index}",
                        stage=stage,
                        in_channels=in_channels,
                        shortcut_channels=width.shortcut,
                        channels=width.channels,
                        stride=stride,
                        projects=projects(
                            self.downsample, in_channels != width.shortcut, nominal != 1
                        ),
                        dilation=dilation * rate,
                        dilation_after=after * rate,
                        drop_path=self.drop_path * next(numbers) / sum(self.units),
                        rate=rate,
                        spatial=self.stage_spatial(stage),
                    )
                )
                in_channels, reached, dilation = width.channels, reached * stride, after
            stages[stage] = tuple(units)
        scaled = iter(with_input_scales(itertools.chain(*stages.values()), self))
        return {
            stage: tuple(itertools.islice(scaled, len(units))) for stage, units in stages.items()
        }

    def _rate(self, stage: int, unit: int) -> int:
        """The dilation that the architecture chose for a unit; both count from 0."""
        rate = self.dilations[stage] if self.dilations else 1
        if self.multi_grid and stage == len(self.units) - 1:
            rate *= self.multi_grid[unit % len(self.multi_grid)]
        return rate

    def scans(self, units: tuple[Unit, ...]) -> bool:
        """Whether the units of a stage, after its first, run as one loop."""
        if self.scan_units == "auto":
            return len(units) >= AUTO_SCAN_UNITS
        return self.scan_units and len(units) > 2

    def replace(self, **changes: Any) -> Architecture:
        """The same architecture with some fields changed, checked again.

        Args:
            **changes: New values by field name.

        Returns:
            Another `Architecture`.

        Raises:
            ValueError: If a name is no field, or a value is out of its range.
        """
        _check_names(changes)
        return dataclasses.replace(self, **changes)

    def get_config(self) -> dict[str, Any]:
        """The fields as plain values that JSON can hold."""
        return dataclasses.asdict(self)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Architecture:
        """The inverse of `get_config`.

        Raises:
            ValueError: If a name is no field, or a value is out of its range.
        """
        _check_names(config)
        return cls(**config)


def _check(name: str, value: Any, ok: bool, expected: str) -> None:
    if not ok:
        raise ValueError(f"`{name}` must be {expected}. Received: {value!r}")


@dataclass(frozen=True)
class Constraint:
    """What one field may be, given the others.

    Attributes:
        field: Its name.
        holds: Whether an architecture keeps to it.
        expected: What the field must be, to go on from "must be".
    """

    field: str
    holds: Callable[[Architecture], bool]
    expected: Callable[[Architecture], str]


RULES: dict[str, Rule] = {
    "units": A_VALUE_EACH_STAGE,
    "channels": A_VALUE_EACH_STAGE,
    "strides": A_VALUE_EACH_STAGE,
    "order": one_of(ORDERS),
    "unit": one_of(UNITS),
    "bottleneck_ratio": POSITIVE,
    "expansion": or_each(POSITIVE),
    "compression": SHARE,
    "widening": one_of(WIDENINGS),
    "spatial": one_of(SPATIAL),
    "spatial_stages": or_none(POSITIVE_INTEGER),
    "attention_heads": POSITIVE_INTEGER,
    "cardinality": POSITIVE_INTEGER,
    "res2_scale": POSITIVE_INTEGER,
    "stride_unit": one_of(("first", "last")),
    "stride_in": one_of(("first_conv", "spatial_conv")),
    "downsample": one_of(PROJECTIONS | FOLLOW_UPS),
    "shortcut": one_of(SHORTCUTS),
    "shortcut_scale": NUMBER,
    "gate_bias": NUMBER,
    "shortcut_dropout": RATE,
    "residual_scaling": one_of(RESIDUAL_SCALINGS),
    "residual_scale": POSITIVE,
    "output_stride": or_none(POSITIVE_INTEGER),
    "dilations": or_none(A_VALUE_EACH_STAGE),
    "multi_grid": or_none(A_VALUE_EACH_UNIT),
    "blur_pool": BOOLEAN,
    "stem": one_of(STEMS),
    "stem_channels": POSITIVE_INTEGER,
    "zero_pad_pool": BOOLEAN,
    "norm": one_of(NORMS),
    "norm_groups": POSITIVE_INTEGER,
    "norm_momentum": RATE,
    "norm_epsilon": POSITIVE,
    "weight_standardization": one_of(CONVOLUTIONS),
    "activation": ACTIVATION,
    "padding": one_of(("fixed", "same")),
    "use_bias": one_of((True, False, "unnormalized")),
    "attention": or_none(one_of(ATTENTIONS)),
    "attention_ratio": SHARE,
    "attention_place": one_of(PLACES),
    "dropout": RATE,
    "drop_path": RATE,
    "drop_path_form": one_of(DROP_PATHS),
    "drop_block": RATE,
    "drop_block_size": POSITIVE_INTEGER,
    "zero_init_residual": BOOLEAN,
    "encoder_depth": COUNT,
    "encoder_width": POSITIVE_INTEGER,
    "encoder_heads": POSITIVE_INTEGER,
    "encoder_mlp_ratio": POSITIVE,
    "encoder_dropout": RATE,
    "encoder_drop_path": RATE,
    "scan_units": one_of((True, False, "auto")),
    "rematerialize": BOOLEAN,
}

# With dense units, what could be nothing else.
DENSE_VALUES = {
    "order": "full_preactivation",
    "shortcut": "identity",
    "downsample": "conv",
    "stride_unit": "first",
    "widening": "stage",
    "zero_init_residual": False,
    "residual_scaling": None,
}


def _dense_constraint(field: str, value: Any) -> Constraint:
    return Constraint(
        field,
        lambda net: net.unit not in DENSE_UNITS or getattr(net, field) == value,
        lambda net: f'{value!r} with `unit="{net.unit}"`',
    )


def _dense_channels_expected(net: Architecture) -> str:
    terms = [
        f"{stage.entering} + {count} k"
        for count, stage in zip(net.units, dense_stages(net), strict=True)
    ]
    return (
        f'({", ".join(terms)}) with `unit="{net.unit}"`, for whole numbers k above 0, since each '
        "unit of a stage adds k channels"
    )


_ACTIVATION_FIRST = Order(first=("act",), between=("act",), head=("act",))

CONSTRAINTS = (
    # First what `Architecture.stages`, which the others ask, rests on.
    Constraint(
        "expansion",
        lambda net: not isinstance(net.expansion, tuple) or len(net.expansion) == len(net.units),
        lambda net: f"a number, or one for each of {len(net.units)} stages",
    ),
    Constraint(
        "dilations",
        lambda net: net.dilations is None or len(net.dilations) == len(net.units),
        lambda net: f"None or one positive integer for each of the {len(net.units)} stages",
    ),
    Constraint(
        "multi_grid",
        lambda net: net.multi_grid is None or len(net.multi_grid) <= net.units[-1],
        lambda net: f"no longer than the last stage, which has {net.units[-1]} units",
    ),
    Constraint(
        "spatial_stages",
        lambda net: net.spatial_stages is None or net.spatial_stages <= len(net.units),
        lambda net: f"None or at most {len(net.units)}, the number of stages",
    ),
    *(_dense_constraint(field, value) for field, value in DENSE_VALUES.items()),
    Constraint(
        "compression",
        lambda net: (
            net.unit not in DENSE_UNITS or all(stage.entering >= 1 for stage in dense_stages(net))
        ),
        lambda net: f"large enough to leave a channel of {net.channels}",
    ),
    Constraint(
        "channels",
        lambda net: (
            net.unit not in DENSE_UNITS
            or all(stage.growth >= 1 and stage.rest == 0 for stage in dense_stages(net))
        ),
        _dense_channels_expected,
    ),
    Constraint(
        "downsample",
        lambda net: (
            net.downsample in PROJECTIONS
            or all(
                unit.in_channels <= unit.channels for unit in itertools.chain(*net.stages.values())
            )
        ),
        lambda net: (
            f"one of {tuple(PROJECTIONS)} where channels become fewer: {net.stem_channels} of the "
            f"stem, then {net.channels}"
        ),
    ),
    Constraint(
        "scan_units",
        lambda net: (
            net.scan_units is not True or (net.unit not in DENSE_UNITS and net.widening == "stage")
        ),
        lambda net: (
            f'False or "auto" with `unit="{net.unit}"` and `widening="{net.widening}"`, where the '
            "units of a stage have different channels"
        ),
    ),
    Constraint(
        "activation",
        lambda net: net.activation == "linear" or not NORMS[net.norm].activates,
        lambda net: f'"linear" with `norm="{net.norm}"`, which contains an activation',
    ),
    Constraint(
        "activation",
        lambda net: (
            net.weight_standardization != "scaled" or math.isfinite(activation_gain(net.activation))
        ),
        lambda net: 'a function of each value by itself with `weight_standardization="scaled"`',
    ),
    Constraint(
        "bottleneck_ratio",
        lambda net: min(net.inside_channels, default=1) >= 1,
        lambda net: f"such that a channel is left inside the units, which give {net.channels}",
    ),
    Constraint(
        "cardinality",
        lambda net: net.unit == "bottleneck" or net.cardinality == 1,
        lambda net: f'1 with `unit="{net.unit}"`: the groups are those of a bottleneck\'s 3x3',
    ),
    Constraint(
        "res2_scale",
        lambda net: all(inside % net.res2_scale == 0 for inside in net.spatial_channels("res2")),
        lambda net: (
            'a divisor of the channels inside the bottlenecks with `spatial="res2"`, '
            "which follow from `channels`, `bottleneck_ratio` and `widening`: "
            f"{sorted(net.spatial_channels('res2'))}"
        ),
    ),
    Constraint(
        "cardinality",
        lambda net: all(width % net.cardinality == 0 for width in _convolved(net)),
        lambda net: (
            f"a divisor of the channels of every 3x3 convolution: {sorted(_convolved(net))}"
        ),
    ),
    Constraint(
        "spatial",
        lambda net: net.spatial == "conv" or net.unit == "bottleneck",
        lambda net: f'"conv" with `unit="{net.unit}"`: it stands inside a bottleneck',
    ),
    Constraint(
        "attention_heads",
        lambda net: all(
            inside % net.attention_heads == 0 for inside in net.spatial_channels("self_attention")
        ),
        lambda net: (
            'a divisor of the channels inside the bottlenecks with `spatial="self_attention"`, '
            "which follow from `channels`, `bottleneck_ratio` and `widening`: "
            f"{sorted(net.spatial_channels('self_attention'))}"
        ),
    ),
    Constraint(
        "encoder_heads",
        lambda net: not net.encoder_depth or net.encoder_width % net.encoder_heads == 0,
        lambda net: f"a divisor of `encoder_width`, {net.encoder_width}",
    ),
    Constraint(
        "encoder_mlp_ratio",
        lambda net: net.encoder_mlp_width >= 1,
        lambda net: f"large enough to leave a feature of {net.encoder_width}",
    ),
    Constraint(
        "norm_groups",
        lambda net: (
            not NORMS[net.norm].grouped
            or all(channels % net.norm_groups == 0 for channels in net.normalized_channels)
        ),
        lambda net: (
            f'a divisor of every number of channels that `norm="{net.norm}"` normalises: '
            f"{sorted(net.normalized_channels)}"
        ),
    ),
    Constraint(
        "output_stride",
        lambda net: net.output_stride is None or net.output_stride in net.reached_strides,
        lambda net: f"None or a stride that the net reaches: {sorted(set(net.reached_strides))}",
    ),
    Constraint(
        "order",
        lambda net: (
            not RESIDUAL_SCALINGS[net.residual_scaling].tracks_variance
            or ORDERS[net.order].without_norms() == _ACTIVATION_FIRST
        ),
        lambda net: (
            '"full_preactivation" or "relu_only_preactivation" with '
            f'`residual_scaling="{net.residual_scaling}"`, which expects an activation before '
            "every convolution and none after the last"
        ),
    ),
    Constraint(
        "shortcut",
        lambda net: (
            not RESIDUAL_SCALINGS[net.residual_scaling].tracks_variance
            or net.shortcut == "identity"
        ),
        lambda net: (
            f'"identity" with `residual_scaling="{net.residual_scaling}"`, which works out the '
            "variance that it hands on"
        ),
    ),
    Constraint(
        "weight_standardization",
        lambda net: net.weight_standardization != "scaled" or net.unit != "inverted_bottleneck",
        lambda net: 'True or False with `unit="inverted_bottleneck"`',
    ),
    Constraint(
        "zero_init_residual",
        lambda net: not net.zero_init_residual or ORDERS[net.order].zero_residual is not None,
        lambda net: f'False with `order="{net.order}"`, whose branches end in an activation',
    ),
)


def _convolved(net: Architecture) -> set[int]:
    """Channels of the 3x3 convolutions of bottlenecks."""
    split = {inside // net.res2_scale for inside in net.spatial_channels("res2")}
    return net.spatial_channels("conv") | split


def _check_names(names: Iterable[str]) -> None:
    fields = [field.name for field in dataclasses.fields(Architecture)]
    for name in names:
        if name not in fields:
            close = difflib.get_close_matches(name, fields, n=1)
            hint = f" Did you mean `{close[0]}`?" if close else ""
            raise ValueError(f"`{name}` is no field of `Architecture`.{hint} Fields: {fields}")
