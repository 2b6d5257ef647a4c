"""Compound scaling, against EfficientNet-B0 to B7."""

from __future__ import annotations

import pytest
import timm
import torch

from keras_preact import Architecture, compound_scale
from keras_preact.analysis import architecture_cost
from keras_preact.blocks.units import UNITS

# The table of arXiv:1905.11946; the stride of the fifth stage is 1 there.
B0 = Architecture(
    unit="inverted_bottleneck",
    units=(1, 2, 2, 3, 3, 4, 1),
    channels=(16, 24, 40, 80, 112, 192, 320),
    strides=(1, 2, 2, 2, 1, 2, 1),
    expansion=(1, 6, 6, 6, 6, 6, 6),
    stem="mobile",
    stem_channels=32,
)
# Width, depth and input size, as published in the authors' code.
PUBLISHED = {
    "b0": (1.0, 1.0, 224),
    "b1": (1.0, 1.1, 240),
    "b2": (1.1, 1.2, 260),
    "b3": (1.2, 1.4, 300),
    "b4": (1.4, 1.8, 380),
    "b5": (1.6, 2.2, 456),
    "b6": (1.8, 2.6, 528),
    "b7": (2.0, 3.1, 600),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_scales_are_timms(name):
    width, depth, size = PUBLISHED[name]
    scaled, received = compound_scale(B0, 1, depth, width, size / 224)
    with torch.device("meta"):
        theirs = timm.create_model(f"efficientnet_{name}", pretrained=False)
    assert scaled.units == tuple(len(stage) for stage in theirs.blocks)
    projections = [
        getattr(stage[0], "conv_pwl", None) or stage[0].conv_pw for stage in theirs.blocks
    ]
    assert scaled.channels == tuple(each.out_channels for each in projections)
    assert scaled.stem_channels == theirs.conv_stem.out_channels
    assert received == size
    strides = [stage[0].conv_dw.stride[0] for stage in theirs.blocks]
    assert list(scaled.strides) == strides
    expanded = [stage[-1].conv_dw.in_channels for stage in theirs.blocks]
    inside = UNITS[scaled.unit].inside
    assert expanded == [inside(scaled, units[-1]) for units in scaled.stages.values()]


def test_the_work_doubles():
    # Deep and wide enough that rounding counts for little.
    net = Architecture(
        unit="basic",
        units=(5, 5, 5),
        channels=(80, 160, 320),
        strides=(1, 2, 2),
        stem="cifar",
        stem_channels=80,
    )
    scaled, size = compound_scale(net, 1)
    assert (scaled.units, scaled.channels, size) == ((6, 6, 6), (88, 176, 352), 37)
    # 1.2 * 1.1**2 * 1.15**2 = 1.92 in the paper, whose constraint is "about 2".
    work = [
        architecture_cost(each, (side, side, 3)).flops for each, side in ((net, 32), (scaled, 36))
    ]
    assert work[1] / work[0] == pytest.approx(1.92, rel=0.08)


def test_nothing_changes_at_zero_and_below_it_shrinks():
    assert compound_scale(B0, 0) == (B0, 224)
    smaller, size = compound_scale(B0, -1)
    assert smaller.channels == (16, 24, 40, 72, 104, 176, 288)
    assert size == 195


def test_channels_never_lose_more_than_a_tenth():
    # 10 would round to 8: EfficientNet's rule takes the next multiple.
    net = B0.replace(channels=(10,) * 7)
    assert compound_scale(net, 1, width=1.0)[0].channels == (16,) * 7
    assert compound_scale(net, 1, width=1.0, divisor=2)[0].channels == (10,) * 7


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"phi": float("nan")}, "`phi` must be a finite number. Received: nan"),
        ({"phi": 1, "depth": 0}, "`depth` must be a number above 0. Received: 0"),
        ({"phi": 1, "divisor": 2.5}, "`divisor` must be a positive integer. Received: 2.5"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        compound_scale(B0, **arguments)
