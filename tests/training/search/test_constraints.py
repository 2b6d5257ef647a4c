import pytest

from training.search import Constraints, PreActHyperModel, SearchSpace


def test_limits_hold_up_to_themselves(hypermodel):
    values = hypermodel.hyperparameters().values
    cost = hypermodel.cost(values)
    assert Constraints().holds(hypermodel, values)
    assert Constraints(max_parameters=cost.parameters).holds(hypermodel, values)
    assert not Constraints(max_parameters=cost.parameters - 1).holds(hypermodel, values)
    assert Constraints(max_flops=cost.flops).holds(hypermodel, values)
    assert not Constraints(max_flops=cost.flops - 1).holds(hypermodel, values)
    both = Constraints(max_flops=cost.flops, max_parameters=cost.parameters - 1)
    assert not both.holds(hypermodel, values)


def test_latency_is_limited(recipe):
    """With limits so far off that no measurement reaches them."""
    hypermodel = PreActHyperModel(recipe, SearchSpace(units=(1, 2)), classes=10)
    values = hypermodel.hyperparameters().values
    assert Constraints(max_latency=600, latency_batch_size=2).holds(hypermodel, values)
    too_fast = Constraints(max_latency=1e-12, latency_batch_size=2)
    assert not too_fast.holds(hypermodel, values)
    with pytest.raises(ValueError, match="FLOPs, .* seconds .limit 1e-12"):
        too_fast.check(hypermodel)


def test_values_that_do_not_fit_one_another_are_refused(recipe):
    space = SearchSpace(channels=(8, 32), choices={"norm": ("batch", "group")})
    options = {**recipe.model_options, "stem_channels": 32}
    hypermodel = PreActHyperModel(recipe.replace(model_options=options), space, classes=10)
    values = {"channels_stage2": 8, "channels_stage3": 32, "norm": "group"}
    # Twice, since what is known of parts must not hide it.
    for _ in range(2):
        assert not Constraints().holds(hypermodel, values)
        assert Constraints().holds(hypermodel, {**values, "channels_stage2": 32})
        assert Constraints().holds(hypermodel, {**values, "norm": "batch"})


def test_limits_that_nothing_keeps_to_are_refused_early(hypermodel):
    smallest = min(hypermodel.cost(each).flops for each in hypermodel.smallest())
    Constraints(max_flops=smallest).check(hypermodel)
    with pytest.raises(ValueError, match=f"{smallest:,} FLOPs .limit {smallest - 1:,}.*stage2"):
        Constraints(max_flops=smallest - 1).check(hypermodel)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_flops": 0}, "`max_flops` must be a positive integer. Received: 0"),
        ({"max_parameters": 1e6}, "`max_parameters` must be a positive integer"),
        ({"max_latency": -1}, "`max_latency` must be a number above 0. Received: -1"),
        ({"latency_batch_size": None}, "`latency_batch_size` must be a positive integer"),
    ],
)
def test_wrong_limits_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        Constraints(**values)
