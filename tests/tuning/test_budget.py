"""Budgets that every candidate uses up."""

import itertools
import random

import pytest

import keras_preact
from keras_preact.analysis import architecture_cost
from keras_preact.tuning import Constraints, SearchSpace
from keras_preact.tuning.budget import fill
from keras_preact.tuning.candidates import Candidates

SPACES = (
    SearchSpace(units=(1, 2, 3, 5), channels=(16, 24, 32, 64)),
    SearchSpace(units=(1, 2, 3), choices={"unit": ("basic", "bottleneck")}, widen=(1, 2)),
    SearchSpace(regnet={"depth": (4, 6, 9), "slope": (0.1, 0.3, 0.6), "width": (8, 16)}),
    SearchSpace(units=(1, 2), choices={"norm": ("group",), "attention": (None, "se")}),
)


@pytest.mark.parametrize("space", SPACES)
def test_every_candidate_fills_the_budget(space):
    base = keras_preact.PreActResNet20.architecture.replace(
        units=(3, 3), channels=(16, 32), strides=(1, 2)
    )
    limit, least = 41_000_000, 0.95
    if "norm" in space.choices:
        # Groups of 32 leave few widths.
        base, limit, least = base.replace(stem_channels=32), 10 * limit, 0.8
    candidates = Candidates(base, space, (32, 32, 3), 10, Constraints(max_flops=limit))
    draw = random.Random(0)
    for _ in range(3):
        values = {
            hp.name: hp.prob_to_value(draw.random()) for hp in candidates.hyperparameters().space
        }
        assert "widen" not in values and "width" not in values
        assert candidates.holds(values)
        completed = candidates.completed(values)
        cost = architecture_cost(candidates.architecture(completed), (32, 32, 3), 10)
        assert least * limit <= cost.flops <= limit
        # What is noted is what counts, whatever is measured later.
        assert candidates.fields(completed) == candidates.fields(values)


BOTTLENECK = keras_preact.PreActResNet20.architecture.replace(
    unit="bottleneck", channels=(32, 64), units=(1, 1), strides=(1, 2), stem_channels=32
)


@pytest.mark.parametrize(
    ("fields", "least"),
    [
        # As ResNeXt, ResNet-50 with group normalization, Res2Net and DenseNet.
        ({"cardinality": 3, "bottleneck_ratio": 0.5, "channels": (36, 72)}, 0.95),
        ({"norm": "group", "norm_groups": 4}, 0.85),
        ({"spatial": "res2", "bottleneck_ratio": 0.40625, "channels": (128, 256)}, 0.95),
        ({"unit": "dense", "channels": (44, 34), "activated_stem": False}, 0.95),
    ],
)
def test_grouped_and_dense_nets_fill_the_budget(fields, least):
    base, shape = BOTTLENECK.replace(**fields), (8, 8, 1)
    limit = architecture_cost(base, shape, 10).flops * 2
    space = SearchSpace(units=(1, 2))
    candidates = Candidates(base, space, shape, 10, Constraints(max_flops=limit))
    candidates.check()
    for units in (1, 2):
        values = dict.fromkeys(candidates.hyperparameters().values, units)
        cost = architecture_cost(candidates.architecture(values), shape, 10)
        assert cost == candidates.cost(values) and least * limit <= cost.flops <= limit


def test_the_smallest_net_says_what_is_too_much():
    base = keras_preact.PreActDenseNet121.architecture.replace(
        units=(1, 1), channels=(72, 44), strides=(1, 2)
    )
    limits, optimizer = Constraints(max_flops=20_000), SearchSpace(learning_rate=(0.1, 0.2))
    # Of a growth of 1: the stem stays as it is.
    smallest = architecture_cost(base.replace(channels=(65, 33)), (32, 32, 3), 10)
    with pytest.raises(ValueError, match=f"The smallest has.* {smallest.flops:,} FLOPs .limit 20"):
        Candidates(base, optimizer, (32, 32, 3), 10, limits).check()
    for space in (
        SearchSpace(channels=(72, 80)),
        SearchSpace(regnet={"depth": (2,), "slope": (1,)}),
    ):
        with pytest.raises(ValueError, match="no proportions of dense units .'dense'"):
            Candidates(base, space, (32, 32, 3), 10, limits)


@pytest.mark.parametrize(
    ("space", "left_out"),
    [
        ({"widen": (1, 2)}, "widen"),
        ({"regnet": {"depth": (3,), "slope": (1,), "width": (8, 16)}}, "regnet.width"),
    ],
)
def test_something_must_vary_beside_the_widths(space, left_out):
    base = keras_preact.PreActResNet20.architecture

    def made(limits, **more):
        return Candidates(base, SearchSpace(**space, **more), (32, 32, 3), 10, limits)

    limits = Constraints(max_flops=41_000_000)
    with pytest.raises(ValueError, match=f"`{left_out}` is left out, and nothing else.*fill=False"):
        made(limits)
    made(limits, learning_rate=(0.1, 0.2))
    made(Constraints(max_flops=41_000_000, fill=False))


def test_the_limit_that_is_reached_first_counts():
    base = keras_preact.PreActResNet20.architecture
    limits = Constraints(max_flops=41_000_000, max_parameters=10_000)
    candidates = Candidates(base, SearchSpace(units=(1, 3)), (32, 32, 3), 10, limits)
    cost = candidates.cost(candidates.hyperparameters().values)
    assert 9_500 <= cost.parameters <= 10_000 and cost.flops < 20_000_000


def test_latency_is_filled():
    """With a measure of time that is known: the channels of all stages."""
    base = keras_preact.PreActResNet20.architecture
    limits = Constraints(max_latency=1000.0)
    candidates = Candidates(base, SearchSpace(units=(1, 3)), (32, 32, 3), 10, limits)

    candidates._seconds = lambda values, *size: sum(map(int.__mul__, *size))
    values = candidates.hyperparameters().values
    assert 950 <= candidates.seconds(values) <= 1000
    assert candidates.share(values) == candidates.seconds(values) / 1000


def test_proportions_stay():
    for proportions in itertools.product((1, 1.5, 3), repeat=3):
        widths = fill(proportions, lambda wide: sum(width**2 for width in wide) / 40_000)
        assert 38_000 <= sum(width**2 for width in widths) <= 40_000
        scale = sum(widths) / sum(proportions)
        for width, proportion in zip(widths, proportions, strict=True):
            # One step of the coarsest multiple that fills it, 16 or finer here.
            assert abs(width - scale * proportion) <= 32


def test_a_budget_below_the_smallest_net_has_no_widths():
    assert fill((1, 2), lambda wide: 2.0) is None


@pytest.mark.parametrize(
    ("budget", "proportions", "widths"),
    [
        # 4, 4, 6 would use more.
        (68, (1, 1, 1), (4, 5, 5)),
        (66, (1, 1, 1), (4, 5, 5)),
    ],
)
def test_of_small_nets_the_best_proportions_count(budget, proportions, widths):
    filled = fill(proportions, lambda wide: sum(each**2 for each in wide) / budget)
    assert sorted(filled) == sorted(widths)


def test_only_widths_that_exist_are_tried():
    tried = []

    def share(widths):
        tried.extend(widths)
        return sum(widths) / 1000

    assert fill((1, 2), share, lambda width: width % 48 == 0) == (336, 624)
    assert all(width % 48 == 0 for width in tried)
    assert fill((1, 2), share, lambda width: False) is None


def test_widths_are_coarse_where_that_fills():
    for budget, widths in ((256, {128}), (250, {112, 128}), (30, {14, 16})):
        filled = fill((1, 1), lambda wide, budget=budget: sum(wide) / budget)
        assert set(filled) == widths and sum(filled) > 0.95 * budget
