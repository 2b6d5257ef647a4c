"""RegNet's rule against the nets of its paper."""

import pytest

import keras_preact
from keras_preact.tuning import SearchSpace, regnet_stages
from keras_preact.tuning.candidates import Candidates


# arXiv:2003.13678, tables of RegNetX and RegNetY: depth, w_0, w_a, w_m, units and widths. Widths
# there are multiples of 8, and those left out here multiples of their groups' widths.
@pytest.mark.parametrize(
    ("depth", "initial", "growth", "multiplier", "units", "widths"),
    [
        (13, 24, 36.44, 2.49, (1, 1, 4, 7), (24, 56, 152, 368)),
        (22, 24, 24.48, 2.54, (1, 2, 7, 12), None),
        (16, 48, 27.89, 2.09, (1, 3, 6, 6), (48, 104, 208, 440)),
        (25, 88, 26.31, 2.25, (2, 6, 15, 2), None),
        (23, 320, 69.86, 2.0, (2, 7, 13, 1), (320, 640, 1280, 2560)),
    ],
)
def test_published_nets(depth, initial, growth, multiplier, units, widths):
    received, channels = regnet_stages(depth, growth / initial, initial, multiplier=multiplier)
    assert received == units
    if widths:
        assert tuple(8 * round(width / 8) for width in channels) == widths


def test_the_multiplier_follows_from_the_number_of_stages():
    for depth in range(3, 30):
        for slope in (0.1, 0.3, 1.0):
            units, channels = regnet_stages(depth, slope, 16, stages=3)
            assert len(units) == 3 and sum(units) == depth
            assert channels[0] == 16 and channels[-1] == pytest.approx(
                16 * (1 + slope * (depth - 1))
            )


def test_another_number_of_stages_is_refused():
    with pytest.raises(ValueError, match="depth of 13 .* gives 4 stages, and the net has 3"):
        regnet_stages(13, 36.44 / 24, 24, multiplier=2.49, stages=3)
    with pytest.raises(ValueError, match="depth of 2 with slope 0.5 .* gives 2 stages"):
        regnet_stages(2, 0.5, 16, stages=3)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"depth": 0}, "`depth` must be a positive integer. Received: 0"),
        ({"slope": -1}, "`slope` must be a number from 0. Received: -1"),
        ({"width": -16}, "`width` must be a number above 0. Received: -16"),
        ({"multiplier": 1}, "`multiplier` must be None or a number above 1. Received: 1"),
        ({"stages": 0}, "`stages` must be None or a positive integer. Received: 0"),
    ],
)
def test_numbers_out_of_range_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        regnet_stages(**{"depth": 3, "slope": 0.5, "width": 16, **wrong})


def test_a_space_of_such_nets():
    space = SearchSpace(regnet={"depth": (4, 9), "slope": (0.2, 0.5)})
    candidates = Candidates(keras_preact.PreActResNet20.architecture, space, (32, 32, 3), 10)
    values = candidates.hyperparameters().values
    assert values == {"depth": 4, "slope": 0.2}
    net = candidates.architecture({"depth": 9, "slope": 0.5})
    assert sum(net.units) == 9 and net.channels == (16, 36, 80)
    assert net.strides == (1, 2, 2)


@pytest.mark.parametrize(
    ("regnet", "message"),
    [
        ({"depth": (4,)}, "`regnet` needs 'slope'"),
        ({"depth": (0,), "slope": (1,)}, "`regnet.depth` must be a positive integer. Received: 0"),
        ({"depth": (4,), "slop": (1,)}, "Unknown name 'slop'. Did you mean 'slope'"),
        ({"depth": (4,), "slope": (1,), "multiplier": (1,)}, "must be a number above 1"),
        ([4], "`regnet` must be a table of lists"),
    ],
)
def test_wrong_numbers_are_refused(regnet, message):
    with pytest.raises(ValueError, match=message):
        SearchSpace(regnet=regnet)


def test_a_rule_decides_all_sizes():
    regnet = {"depth": (4,), "slope": (1,)}
    with pytest.raises(ValueError, match="give it without `units`, `widen`"):
        SearchSpace(regnet=regnet, units=(1, 2), widen=(1, 2))
