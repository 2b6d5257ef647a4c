"""`Architecture`: one frozen dataclass that says everything about a net."""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import keras

# Input size, in pixels, that a net with this stem was designed for.
STEM_INPUT_SIZES = {"imagenet": 224, "deep": 224, "cifar": 32}
# Factor by which each stem shrinks height and width.
STEM_STRIDES = {"imagenet": 4, "deep": 4, "cifar": 1}
UNITS = ("basic", "bottleneck")
STRIDE_UNITS = ("first", "last")
STRIDE_PLACES = ("first_conv", "spatial_conv")
DOWNSAMPLINGS = ("conv", "avg_pool", "subsample")
NORMS = ("batch", "group", "evonorm_s0")
PADDINGS = ("fixed", "same")
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
        unit: `"basic"` (two 3x3 convolutions) or `"bottleneck"` (1x1, 3x3, 1x1).
        bottleneck_ratio: Channels inside a bottleneck as a share of its output channels.
        stride_in: Which convolution of a unit carries its stride: `"first_conv"` (the paper's
            code) or `"spatial_conv"`, the first 3x3 (PyTorch, timm). The same for basic units.
        downsample: How a shortcut shrinks the maps: `"conv"` (by the stride of its 1x1
            convolution), `"avg_pool"` (2x2 average pooling, then the convolution: ResNet-D,
            arXiv:1812.01187) or `"subsample"` (as `"conv"` where the channels change too, else by
            leaving pixels out, without weights: TF-slim, keras.applications).
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
    unit: str = "bottleneck"
    bottleneck_ratio: float = 0.25
    stride_unit: str = "first"
    stride_in: str = "spatial_conv"
    downsample: str = "conv"
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
        for name in ("units", "channels", "strides"):
            object.__setattr__(self, name, self._positive_integers(name))
        if not len(self.units) == len(self.channels) == len(self.strides):
            raise ValueError(
                "`units`, `channels` and `strides` must have one value for each stage. "
                f"Received: units={self.units}, channels={self.channels}, strides={self.strides}"
            )
        for name, allowed in (
            ("unit", UNITS),
            ("stride_unit", STRIDE_UNITS),
            ("stride_in", STRIDE_PLACES),
            ("downsample", DOWNSAMPLINGS),
            ("stem", STEM_INPUT_SIZES),
            ("norm", NORMS),
            ("padding", PADDINGS),
        ):
            self._check_choice(name, tuple(allowed))
        self._check_activation()
        for name in ("stem_channels", "norm_groups"):
            value = getattr(self, name)
            self._check(name, isinstance(value, int) and value > 0, "a positive integer")
        self._check_number("bottleneck_ratio", lambda value: value > 0, "above 0")
        self._check_number("norm_momentum", lambda value: 0 <= value < 1, "in [0, 1)")
        self._check_number("norm_epsilon", lambda value: value > 0, "above 0")
        self._check_number("dropout", lambda value: 0 <= value < 1, "in [0, 1)")
        self._check_number("drop_path", lambda value: 0 <= value < 1, "in [0, 1)")
        for name in (
            "zero_pad_pool",
            "weight_standardization",
            "zero_init_residual",
            "rematerialize",
        ):
            self._check(name, isinstance(getattr(self, name), bool), "True or False")
        bias_ok = isinstance(self.use_bias, bool) or self.use_bias == "unnormalized"
        self._check("use_bias", bias_ok, 'True, False or "unnormalized"')
        scan_ok = isinstance(self.scan_units, bool) or self.scan_units == "auto"
        self._check("scan_units", scan_ok, 'True, False or "auto"')
        if self.unit == "bottleneck":
            self._check(
                "bottleneck_ratio",
                all(self.bottleneck_channels(channels) >= 1 for channels in self.channels),
                f"large enough to leave a channel of {self.channels}",
            )
        self._check_groups()
        self._check_output_stride()

    def _positive_integers(self, name: str) -> tuple[int, ...]:
        values = getattr(self, name)
        ok = (
            isinstance(values, Iterable)
            and not isinstance(values, str | dict)
            and len(tuple(values)) > 0
            and all(isinstance(value, int) and value > 0 for value in values)
        )
        self._check(name, ok, "a sequence of positive integers, one for each stage")
        return tuple(values)

    def _check(self, name: str, ok: bool, expected: str) -> None:
        if not ok:
            raise ValueError(f"`{name}` must be {expected}. Received: {getattr(self, name)!r}")

    def _check_choice(self, name: str, allowed: tuple[str, ...]) -> None:
        self._check(name, getattr(self, name) in allowed, f"one of {allowed}")

    def _check_number(self, name: str, in_range: Any, expected: str) -> None:
        value = getattr(self, name)
        is_number = isinstance(value, int | float) and math.isfinite(value)
        self._check(name, is_number and in_range(value), f"a number {expected}")

    def _check_activation(self) -> None:
        try:
            known = isinstance(self.activation, str) and keras.activations.get(self.activation)
        except ValueError:
            known = False
        self._check("activation", bool(known), "the name of a Keras activation")

        own_activation = self.norm == "evonorm_s0"
        self._check(
            "activation",
            not own_activation or self.activation == "linear",
            '"linear" with `norm="evonorm_s0"`, which contains an activation',
        )

    def _check_groups(self) -> None:
        if self.norm == "batch":
            return
        normalized = {*self.channels, self.stem_channels}
        if self.unit == "bottleneck":
            normalized |= {self.bottleneck_channels(channels) for channels in self.channels}
        if self.stem == "deep":
            normalized.add(self.stem_channels // 2)
        self._check(
            "norm_groups",
            all(channels % self.norm_groups == 0 for channels in normalized),
            f"a divisor of every number of channels that is normalised: {sorted(normalized)}",
        )

    def _check_output_stride(self) -> None:
        reached = [STEM_STRIDES[self.stem]]
        for stride in self.strides:
            reached.append(reached[-1] * stride)
        self._check(
            "output_stride",
            self.output_stride is None or self.output_stride in reached,
            f"None or a stride that the net reaches: {sorted(set(reached))}",
        )

    def bottleneck_channels(self, channels: int) -> int:
        """Channels inside a bottleneck whose output has `channels`."""
        return int(channels * self.bottleneck_ratio)

    @property
    def input_size(self) -> int:
        """Default height and width of the input, in pixels."""
        return STEM_INPUT_SIZES[self.stem]

    @property
    def stages(self) -> dict[int, tuple[Unit, ...]]:
        """The units of each stage. The stem is stage 1, so stages count from 2, as in the paper."""
        numbers = itertools.count(1)
        stages, in_channels = {}, self.stem_channels
        reached, dilation = STEM_STRIDES[self.stem], 1
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


def _check_names(names: Iterable[str]) -> None:
    fields = [field.name for field in dataclasses.fields(Architecture)]
    for name in names:
        if name not in fields:
            close = difflib.get_close_matches(name, fields, n=1)
            hint = f" Did you mean `{close[0]}`?" if close else ""
            raise ValueError(f"`{name}` is no field of `Architecture`.{hint} Fields: {fields}")
