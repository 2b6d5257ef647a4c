"""`Architecture`: one frozen dataclass that says everything about a net."""

from __future__ import annotations

import dataclasses
import difflib
import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from keras_preact.norms import NORMS
from keras_preact.orders import ORDERS
from keras_preact.rules import (
    A_VALUE_EACH_STAGE,
    ACTIVATION,
    BOOLEAN,
    NUMBER,
    POSITIVE,
    POSITIVE_INTEGER,
    RATE,
    Rule,
    one_of,
    or_none,
)
from keras_preact.shortcuts import PROJECTIONS, SHORTCUTS
from keras_preact.stem import STEMS
from keras_preact.units import UNITS

# `scan_units="auto"` runs a stage as a loop from this number of units on.
AUTO_SCAN_UNITS = 24


@dataclass(frozen=True)
class Unit:
    """One residual unit of a net, as `Architecture.stages` works it out.

    Attributes:
        name: Prefix of its layers' names, such as `"stage3_unit1"`.
        in_channels: Channels that come in.
        channels: Channels that go out.
        stride: Factor by which the height and width shrink.
        projects: Whether the shortcut has a convolution, rather than being an identity.
        dilation: Spacing of the kernels' pixels before the unit's stride, and where that stands.
        dilation_after: The same after it: more, where dilation replaces the stride.
        drop_path: Probability that training drops the residual branch of an example.
    """

    name: str
    in_channels: int
    channels: int
    stride: int
    projects: bool
    dilation: int
    dilation_after: int
    drop_path: float


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Everything that decides a net's topology and initial weights, but its input and its classes.

    Args:
        units: Residual units of each stage.
        channels: Output channels of each stage.
        strides: Stride of each stage.
        stride_unit: Which unit of a stage carries its stride: `"first"` or `"last"` (TF-slim,
            keras.applications).
        order: Where normalisation and activation stand (arXiv:1603.05027, figure 4):
            `"full_preactivation"`, `"original"`, `"bn_after_addition"`, `"relu_before_addition"`,
            `"relu_only_preactivation"`; or `"pyramid"` (a norm before and after each convolution,
            no activation before the first: arXiv:1610.02915).
        unit: `"basic"` (two 3x3 convolutions) or `"bottleneck"` (1x1, 3x3, 1x1).
        bottleneck_ratio: Channels inside a bottleneck as a share of its output channels.
        stride_in: Which convolution of a unit carries its stride: `"first_conv"` (the paper's
            code) or `"spatial_conv"`, the first 3x3 (PyTorch, timm). The same for basic units.
        downsample: How a shortcut shrinks the maps: `"conv"` (by the stride of its 1x1
            convolution), `"avg_pool"` (2x2 average pooling, then the convolution: ResNet-D,
            arXiv:1812.01187) or `"subsample"` (as `"conv"` where the channels change too, else by
            leaving pixels out, without weights: TF-slim, keras.applications).
        shortcut: What becomes of a shortcut where the shape stays (arXiv:1603.05027, section 3):
            `"identity"`, `"scaling"` (times `shortcut_scale`), `"scaling_both"` (the branch by one
            less that, too), `"exclusive_gating"`, `"shortcut_gating"`, `"conv"` (1x1) or
            `"dropout"`. Only the identity leaves gradients as they are.
        shortcut_scale: The factor of a scaled shortcut.
        gate_bias: What the gates' biases start at: below 0, the shortcut is nearly an identity.
        shortcut_dropout: The rate of a shortcut's dropout.
        output_stride: Pixels of the input to one of the last maps: from where a stage's stride
            would go beyond it, dilation replaces the strides (arXiv:1706.05587). The weights stay
            the same. None for the product of the strides.
        stem: `"imagenet"` (7x7 convolution of stride 2, 3x3 max pooling of stride 2), `"deep"`
            (three 3x3 convolutions instead of one 7x7: ResNet-D) or `"cifar"` (3x3 convolution).
        stem_channels: Output channels of the stem.
        zero_pad_pool: Whether the stem's pooling counts its padding as zeros (TF-slim, BiT)
            instead of leaving it out.
        norm: Normalisation: `"batch"`, `"group"` (arXiv:1803.08494) or `"evonorm_s0"`
            (arXiv:2004.02967), which contains an activation: its `activation` is `"linear"`.
        norm_groups: Groups of channels of group normalisation and EvoNorm-S0.
        norm_momentum: Momentum of the moving statistics of batch normalisation.
        norm_epsilon: Added to the variance.
        weight_standardization: Whether the convolutions' kernels are used with mean 0 and variance
            1 over each output channel (arXiv:1903.10520).
        activation: Name of a Keras activation.
        padding: `"fixed"`: half the kernel on every side, whatever the stride (Torch, PyTorch);
            `"same"`: TensorFlow's rule, which pads bottom and right more where a stride is even.
        use_bias: Whether convolutions have a bias; `"unnormalized"`: those that no normalisation
            follows, which are the stem's, the shortcuts' and the last of each unit.
        dropout: Dropout rate before a unit's last convolution (Wide ResNet, arXiv:1605.07146).
        drop_path: Stochastic depth (arXiv:1603.09382): the rate of the last unit; the rate of
            unit l of L is `drop_path * l / L`.
        zero_init_residual: Start with residual branches that give zero, so that every unit is an
            identity (arXiv:1706.02677). The last convolution's kernel is what starts at zero: a
            zero scale in the norm before it would feed zeros to a ReLU, whose gradient there
            is zero, and the branch would never learn.
        scan_units: Whether the units of a stage after its first, which are identical, run as one
            loop over stacked weights (`keras_preact.layers.StackedUnits`), so that building and
            tracing take the same time at any depth; `"auto"`: in stages of 24 units or more.
        rematerialize: Recompute the inside of those units in the backward pass instead of keeping
            it, so that memory grows with the units' inputs alone (arXiv:1604.06174).

    Raises:
        ValueError: If a value is of the wrong kind or out of its range.
    """

    units: tuple[int, ...]
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    order: str = "full_preactivation"
    unit: str = "bottleneck"
    bottleneck_ratio: float = 0.25
    stride_unit: str = "first"
    stride_in: str = "spatial_conv"
    downsample: str = "conv"
    shortcut: str = "identity"
    shortcut_scale: float = 0.5
    gate_bias: float = -6.0
    shortcut_dropout: float = 0.5
    output_stride: int | None = None
    stem: str = "imagenet"
    stem_channels: int = 64
    zero_pad_pool: bool = False
    norm: str = "batch"
    norm_groups: int = 32
    norm_momentum: float = 0.9
    norm_epsilon: float = 1e-5
    weight_standardization: bool = False
    activation: str = "relu"
    padding: str = "fixed"
    use_bias: bool | str = False
    dropout: float = 0.0
    drop_path: float = 0.0
    zero_init_residual: bool = False
    scan_units: bool | str = "auto"
    rematerialize: bool = False

    def __post_init__(self) -> None:
        for name, rule in RULES.items():
            value = getattr(self, name)
            _check(name, value, rule.holds(value), rule.expected)
            if rule is A_VALUE_EACH_STAGE:
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

    @property
    def input_size(self) -> int:
        """Default height and width of the input, in pixels."""
        return STEMS[self.stem].input_size

    @property
    def normalized_channels(self) -> set[int]:
        """The numbers of channels that a normalisation meets."""
        channels = {*self.channels, self.stem_channels}
        if self.unit == "bottleneck":
            channels |= {self.bottleneck_channels(each) for each in self.channels}
        if STEMS[self.stem].inner:
            channels.add(int(self.stem_channels * STEMS[self.stem].inner))
        return channels

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
        for stage, (count, channels, stage_stride) in enumerate(
            zip(self.units, self.channels, self.strides, strict=True), 2
        ):
            units = []
            for index in range(1, count + 1):
                strided = index == (1 if self.stride_unit == "first" else count)
                nominal = stage_stride if strided else 1
                dilated = self.output_stride is not None and reached * nominal > self.output_stride
                stride, after = (1, dilation * nominal) if dilated else (nominal, dilation)
                units.append(
                    Unit(
                        name=f"stage{stage}_unit{index}",
                        in_channels=in_channels,
                        channels=channels,
                        stride=stride,
                        projects=in_channels != channels
                        or (nominal != 1 and self.downsample != "subsample"),
                        dilation=dilation,
                        dilation_after=after,
                        drop_path=self.drop_path * next(numbers) / sum(self.units),
                    )
                )
                in_channels, reached, dilation = channels, reached * stride, after
            stages[stage] = tuple(units)
        return stages

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
    "stride_unit": one_of(("first", "last")),
    "stride_in": one_of(("first_conv", "spatial_conv")),
    "downsample": one_of(PROJECTIONS),
    "shortcut": one_of(SHORTCUTS),
    "shortcut_scale": NUMBER,
    "gate_bias": NUMBER,
    "shortcut_dropout": RATE,
    "output_stride": or_none(POSITIVE_INTEGER),
    "stem": one_of(STEMS),
    "stem_channels": POSITIVE_INTEGER,
    "zero_pad_pool": BOOLEAN,
    "norm": one_of(NORMS),
    "norm_groups": POSITIVE_INTEGER,
    "norm_momentum": RATE,
    "norm_epsilon": POSITIVE,
    "weight_standardization": BOOLEAN,
    "activation": ACTIVATION,
    "padding": one_of(("fixed", "same")),
    "use_bias": one_of((True, False, "unnormalized")),
    "dropout": RATE,
    "drop_path": RATE,
    "zero_init_residual": BOOLEAN,
    "scan_units": one_of((True, False, "auto")),
    "rematerialize": BOOLEAN,
}

CONSTRAINTS = (
    Constraint(
        "activation",
        lambda net: net.activation == "linear" or not NORMS[net.norm].activates,
        lambda net: f'"linear" with `norm="{net.norm}"`, which contains an activation',
    ),
    Constraint(
        "bottleneck_ratio",
        lambda net: (
            net.unit != "bottleneck" or min(map(net.bottleneck_channels, net.channels)) >= 1
        ),
        lambda net: f"large enough to leave a channel of {net.channels}",
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
        "zero_init_residual",
        lambda net: not net.zero_init_residual or ORDERS[net.order].zero_residual is not None,
        lambda net: f'False with `order="{net.order}"`, whose branches end in an activation',
    ),
)


def _check_names(names: Iterable[str]) -> None:
    fields = [field.name for field in dataclasses.fields(Architecture)]
    for name in names:
        if name not in fields:
            close = difflib.get_close_matches(name, fields, n=1)
            hint = f" Did you mean `{close[0]}`?" if close else ""
            raise ValueError(f"`{name}` is no field of `Architecture`.{hint} Fields: {fields}")
