"""Plan of a net: its units, as they follow from the fields."""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass

from keras_preact.blocks.operations import stage_spatial
from keras_preact.blocks.residual_scaling import with_input_scales
from keras_preact.blocks.shortcuts import must_project
from keras_preact.blocks.stem import STEMS, inner_channels
from keras_preact.blocks.units import UNITS
from keras_preact.layer_names import unit_name
from keras_preact.spec.fields import Fields
from keras_preact.spec.unit import Unit


@dataclass(frozen=True)
class Plan:
    """Everything that follows from the fields of a net, computed once.

    Attributes:
        net: The fields.
    """

    net: Fields

    @functools.cached_property
    def stages(self) -> dict[int, tuple[Unit, ...]]:
        """The units of each stage. The stem is stage 1, so stages count from 2, as in the paper."""
        net = self.net
        count = itertools.count(1)
        stages, in_channels = {}, net.stem_channels
        reached, dilation = STEMS[net.stem].stride, 1
        widths = UNITS[net.unit].widths(net)
        for stage, (stage_widths, stage_stride) in enumerate(
            zip(widths, net.strides, strict=True), 2
        ):
            units = []
            for index, width in enumerate(stage_widths, 1):
                strided = index == (1 if net.stride_unit == "first" else len(stage_widths))
                nominal = stage_stride if strided else 1
                dilated = net.output_stride is not None and reached * nominal > net.output_stride
                stride, after = (1, dilation * nominal) if dilated else (nominal, dilation)
                rate = self._rate(stage - 2, index - 1)
                widens = in_channels != width.shortcut
                units.append(
                    Unit(
                        name=unit_name(stage, index),
                        stage=stage,
                        in_channels=in_channels,
                        shortcut_channels=width.shortcut,
                        channels=width.channels,
                        stride=stride,
                        projects=must_project(net.downsample, widens, nominal != 1),
                        dilation=dilation * rate,
                        dilation_after=after * rate,
                        drop_path=net.drop_path * next(count) / sum(net.units),
                        rate=rate,
                        spatial=stage_spatial(net, stage),
                        activated=net.activated_stem and not units and not stages,
                    )
                )
                in_channels, reached, dilation = width.channels, reached * stride, after
            stages[stage] = tuple(units)
        scaled = iter(with_input_scales(itertools.chain(*stages.values()), net))
        return {
            stage: tuple(itertools.islice(scaled, len(units))) for stage, units in stages.items()
        }

    def _rate(self, stage: int, unit: int) -> int:
        """Return the dilation that the fields choose for a unit. Both count from 0."""
        net = self.net
        rate = net.dilations[stage] if net.dilations else 1
        if net.multi_grid and stage == len(net.units) - 1:
            rate *= net.multi_grid[unit % len(net.multi_grid)]
        return rate

    @property
    def units(self) -> tuple[Unit, ...]:
        """The units of all stages."""
        return tuple(itertools.chain(*self.stages.values()))

    @property
    def reached_strides(self) -> tuple[int, ...]:
        """Pixels of the input per pixel after the stem and each stage, without dilation."""
        start = STEMS[self.net.stem].stride
        return tuple(itertools.accumulate(self.net.strides, lambda a, b: a * b, initial=start))

    @functools.cached_property
    def inside_channels(self) -> set[int]:
        """The numbers of channels between the convolutions of units that have others there."""
        inside = UNITS[self.net.unit].inside
        return {inside(self.net, unit) for unit in self.units} if inside else set()

    def spatial_channels(self, spatial: str) -> set[int]:
        """Return the numbers of channels of a kind of operation inside bottlenecks.

        Args:
            spatial: The kind, as in `Architecture`.
        """
        kind = UNITS[self.net.unit]
        inside = kind.inside
        if not (kind.spatial and inside):
            return set()
        return {inside(self.net, unit) for unit in self.units if unit.spatial == spatial}

    @property
    def res2_channels(self) -> set[int]:
        """The numbers of channels of the splits in Res2Net's hierarchies."""
        return {inside // self.net.res2_scale for inside in self.spatial_channels("res2")}

    @property
    def normalized_channels(self) -> set[int]:
        """The numbers of channels that a normalization meets."""
        channels = {self.net.stem_channels} | self.inside_channels | self.res2_channels
        for unit in self.units:
            channels |= {unit.shortcut_channels, unit.channels}
        return channels | set(inner_channels(self.net))
