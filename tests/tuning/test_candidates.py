"""Candidates: their architectures, costs and limits, none of them built."""

import dataclasses
import random

import pytest

import keras_preact
from keras_preact.analysis import model_cost
from keras_preact.tuning import Constraints, SearchSpace
from keras_preact.tuning.candidates import Candidates
from tests.tuning.spaces import SHAPE


def made(architecture, space, constraints=None):
    return Candidates(architecture, space, SHAPE, 10, constraints)


def drawn(candidates, count):
    """Yield values of candidates drawn at random."""
    draw = random.Random(0)
    space = candidates.hyperparameters().space
    for _ in range(count):
        yield {hp.name: hp.prob_to_value(draw.random()) for hp in space}


def test_any_field_may_vary(architecture):
    choices = {
        "weight_standardization": (True, "scaled"),
        "multi_grid": (None, [1, 2]),
        "expansion": (1, 2.5),
    }
    candidates = made(architecture.replace(units=(2, 2)), SearchSpace(choices=choices))
    values = candidates.hyperparameters().values
    assert values == {"weight_standardization": "true", "multi_grid": "none", "expansion": 1.0}
    values = {"weight_standardization": "scaled", "multi_grid": "[1, 2]", "expansion": 2.5}
    net = candidates.architecture(values)
    assert (net.weight_standardization, net.multi_grid, net.expansion) == ("scaled", (1, 2), 2.5)


def test_widening_keeps_the_convolutions_of_both_kinds_of_unit_alike():
    space = SearchSpace(widen=(1, 1.5), choices={"unit": ("basic", "bottleneck")})
    wide = {"widen": 1.0, "unit": "bottleneck"}
    builders = (keras_preact.PreActResNet34, keras_preact.PreActResNet50)
    resnet34, resnet50 = (made(each.architecture, space) for each in builders)
    for candidates in (resnet34, resnet50):
        assert candidates.architecture(wide).channels == (256, 512, 1024, 2048)
        basic = candidates.architecture({"widen": 1.5, "unit": "basic"})
        assert basic.channels == (96, 192, 384, 768)
    assert resnet34.architecture(wide) == keras_preact.PreActResNet50.architecture


def test_the_first_width_of_regnets_rule_is_that_of_the_nets_own_units():
    rule = {"depth": (16,), "slope": (0.5,)}
    for builder, widths in (
        (keras_preact.PreActResNet50, {"bottleneck": 256, "basic": 64}),
        (keras_preact.PreActResNet34, {"bottleneck": 256, "basic": 64}),
    ):
        net = builder.architecture
        width = net.channels[0]
        by_default, given, half = (
            made(net, SearchSpace(regnet={**rule, **each}, choices={"unit": tuple(widths)}))
            for each in ({}, {"width": (width,)}, {"width": (width / 2,)})
        )
        for unit, expected in widths.items():
            values = {"depth": 16, "slope": 0.5, "unit": unit}
            channels = by_default.architecture(values).channels
            assert channels[0] == expected
            assert given.architecture({**values, "width": width}).channels == channels
            narrow = half.architecture({**values, "width": width / 2}).channels
            assert narrow[0] == expected / 2


def test_costs_are_those_of_the_built_nets(hypermodel):
    candidates = hypermodel.candidates
    for values in drawn(candidates, 4):
        net = keras_preact.PreActResNet(
            candidates.architecture(values), input_shape=SHAPE, classes=10
        )
        assert candidates.cost(values) == model_cost(net).total


def test_the_smallest_candidates_are_below_all_others(hypermodel):
    candidates = hypermodel.candidates
    least = {each["attention"]: candidates.cost(each) for each in candidates.smallest()}
    assert set(least) == {"none", "se"}
    for values in drawn(candidates, 50):
        cost, bound = candidates.cost(values), least[values["attention"]]
        assert cost.flops >= bound.flops and cost.parameters >= bound.parameters


def test_the_smallest_candidate_is_one_that_exists(architecture):
    space = SearchSpace(channels=(8, 32, 64), choices={"norm": ("batch", "group")})
    candidates = made(architecture.replace(stem_channels=32), space)
    smallest = {each["norm"]: each["channels_stage2"] for each in candidates.smallest()}
    assert smallest == {"batch": 8, "group": 32}
    space = dataclasses.replace(space, channels=(8, 16), choices={"norm": ("group",)})
    with pytest.raises(ValueError, match="No net of the search space exists.*`norm_groups` must"):
        list(made(architecture, space).smallest())


def test_limits_hold_up_to_themselves(architecture, hypermodel):
    values = hypermodel.hyperparameters().values
    cost = hypermodel.candidates.cost(values)
    for limits, holds in (
        ({}, True),
        ({"max_parameters": cost.parameters}, True),
        ({"max_parameters": cost.parameters - 1}, False),
        ({"max_flops": cost.flops}, True),
        ({"max_flops": cost.flops - 1}, False),
        ({"max_flops": cost.flops, "max_parameters": cost.parameters - 1}, False),
    ):
        constraints = Constraints(**limits, fill=False)
        assert made(architecture, hypermodel.space, constraints).holds(values) == holds


def test_latency_is_limited(architecture):
    """With limits so far off that no measurement reaches them."""
    limits = {"latency_batch_size": 2, "fill": False}
    space = SearchSpace(units=(1, 2))
    slow = made(architecture, space, Constraints(max_latency=600, **limits))
    values = slow.hyperparameters().values
    assert slow.holds(values)
    fast = made(architecture, space, Constraints(max_latency=1e-12, **limits))
    assert not fast.holds(values)
    with pytest.raises(ValueError, match="FLOPs, .* seconds .limit 1e-12"):
        fast.check()


def test_values_that_do_not_fit_one_another_are_refused(architecture):
    space = SearchSpace(channels=(8, 32), choices={"norm": ("batch", "group")})
    candidates = made(architecture.replace(stem_channels=32), space)
    values = {"channels_stage2": 8, "channels_stage3": 32, "norm": "group"}
    # Twice, since what is known of parts must not hide it.
    for _ in range(2):
        assert not candidates.holds(values)
        assert candidates.holds({**values, "channels_stage2": 32})
        assert candidates.holds({**values, "norm": "batch"})


def test_limits_that_nothing_keeps_to_are_refused_early(architecture, hypermodel):
    candidates = hypermodel.candidates
    smallest = min(candidates.cost(each).flops for each in candidates.smallest())

    def limited(flops, fill):
        return made(architecture, candidates.space, Constraints(max_flops=flops, fill=fill))

    limited(smallest, fill=False).check()
    with pytest.raises(ValueError, match=f"{smallest:,} FLOPs .limit {smallest - 1:,}.*stage2"):
        limited(smallest - 1, fill=False).check()
    # There are narrower nets.
    limited(smallest - 1, fill=True).check()
    with pytest.raises(ValueError, match="No candidate keeps to the limits.*FLOPs .limit 9.*stage"):
        limited(9, fill=True).check()


@pytest.mark.parametrize("widths", [(32, 8), (8, 32)])
@pytest.mark.parametrize("slopes", [(0.2,), (2, 0.2)])
def test_whatever_holds_is_found(widths, slopes):
    """The nets of RegNet's rule have no one smallest."""
    space = SearchSpace(regnet={"depth": (3,), "slope": slopes, "width": widths})
    limits = Constraints(max_parameters=10_000, fill=False)
    candidates = made(keras_preact.PreActResNet20.architecture, space, limits)
    candidates.check()
    assert candidates.hyperparameters().values == {"depth": 3, "slope": 0.2, "width": 8}


def test_choices_of_units_that_do_not_exist_are_passed_over(architecture):
    space = SearchSpace(units=(1, 2, 3))
    limits = Constraints(max_flops=2_000_000, fill=False)
    candidates = made(architecture.replace(units=(1, 2), multi_grid=(1, 2)), space, limits)
    smallest = [tuple(each.values()) for each in candidates.smallest()]
    assert smallest == [(1, 2)]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_flops": 0}, "`max_flops` must be a positive integer. Received: 0"),
        ({"max_parameters": 1e6}, "`max_parameters` must be a positive integer"),
        ({"max_latency": float("inf")}, "`max_latency` must be None for there to be no limit"),
        ({"max_latency": float("nan")}, "`max_latency` must be a number above 0. Received: nan"),
        ({"max_latency": -1}, "`max_latency` must be a number above 0. Received: -1"),
        ({"latency_batch_size": None}, "`latency_batch_size` must be a positive integer"),
        ({"fill": 1}, "`fill` must be one of"),
    ],
)
def test_wrong_limits_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        Constraints(**values)


def test_a_space_must_fit_the_net():
    stages = SearchSpace(units=((1,), (1,), (1,)))
    with pytest.raises(ValueError, match="one list for each of the net's 4 stages.*3 lists"):
        made(keras_preact.PreActResNet18.architecture, stages)
