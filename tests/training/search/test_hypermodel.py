import dataclasses
import random

import keras_tuner
import numpy as np
import pytest

import keras_preact
from training.net import build_net, recipe_architecture
from training.recipe import Recipe
from training.search import PreActHyperModel, SearchSpace, make_oracle

VALUES = {
    "units_stage2": 2,
    "units_stage3": 3,
    "channels_stage2": 16,
    "channels_stage3": 8,
    "attention": "se",
    "drop_path": 0.1,
    "learning_rate": 0.05,
    # Hyperband adds these.
    "tuner/epochs": 3,
}


def drawn(hypermodel, count):
    """Yield values of candidates drawn at random."""
    draw = random.Random(0)
    space = hypermodel.hyperparameters().space
    for _ in range(count):
        yield {hp.name: hp.prob_to_value(draw.random()) for hp in space}


def test_hyperparameters_start_from_the_recipe(hypermodel):
    assert hypermodel.hyperparameters().values == {
        "units_stage2": 1,
        "units_stage3": 1,
        "channels_stage2": 8,
        "channels_stage3": 16,
        "attention": "none",
        "drop_path": 0.0,
        "learning_rate": 0.1,
    }


def test_a_trials_recipe_differs_in_what_varies_alone(hypermodel, recipe):
    assert hypermodel.recipe(VALUES) == recipe.replace(
        learning_rate=0.05,
        model_options={
            **recipe.model_options,
            "units": [2, 3],
            "channels": [16, 8],
            "attention": "se",
            "drop_path": 0.1,
        },
    )
    assert hypermodel.architecture(VALUES) == recipe_architecture(hypermodel.recipe(VALUES))
    assert "attention" not in hypermodel.recipe({**VALUES, "attention": "none"}).model_options


def test_what_the_recipe_chose_can_be_chosen_against(recipe, hypermodel):
    recipe = recipe.replace(model_options={**recipe.model_options, "attention": "se"})
    hypermodel = PreActHyperModel(recipe, hypermodel.space, classes=10)
    assert hypermodel.hyperparameters().values["attention"] == "se"
    assert hypermodel.architecture({**VALUES, "attention": "none"}).attention is None


def test_any_field_may_vary(recipe):
    choices = {
        "weight_standardization": (True, "scaled"),
        "multi_grid": (None, [1, 2]),
        "expansion": (1, 2.5),
    }
    recipe = recipe.replace(model_options={**recipe.model_options, "units": [2, 2]})
    hypermodel = PreActHyperModel(recipe, SearchSpace(choices=choices), classes=10)
    values = hypermodel.hyperparameters().values
    assert values == {"weight_standardization": "true", "multi_grid": "none", "expansion": 1.0}
    values = {"weight_standardization": "scaled", "multi_grid": "[1, 2]", "expansion": 2.5}
    net = hypermodel.architecture(values)
    assert (net.weight_standardization, net.multi_grid, net.expansion) == ("scaled", (1, 2), 2.5)


def test_widening_keeps_the_convolutions_of_both_kinds_of_unit_alike():
    space = SearchSpace(widen=(1, 1.5), choices={"unit": ("basic", "bottleneck")})
    wide = {"widen": 1.0, "unit": "bottleneck"}
    resnet34 = PreActHyperModel(Recipe(model="PreActResNet34"), space, classes=1000)
    resnet50 = PreActHyperModel(Recipe(model="PreActResNet50"), space, classes=1000)
    for hypermodel in (resnet34, resnet50):
        assert hypermodel.architecture(wide).channels == (256, 512, 1024, 2048)
        basic = hypermodel.architecture({"widen": 1.5, "unit": "basic"})
        assert basic.channels == (96, 192, 384, 768)
    assert resnet34.architecture(wide) == keras_preact.PreActResNet50.architecture


def test_costs_are_those_of_the_built_nets(hypermodel):
    for values in drawn(hypermodel, 4):
        net = build_net(hypermodel.recipe(values), classes=10)
        assert hypermodel.cost(values) == keras_preact.analysis.model_cost(net).total


def test_what_matters_in_training_alone_costs_nothing(hypermodel):
    regular = {**VALUES, "drop_path": 0.0, "learning_rate": 0.1}
    assert hypermodel.cost(VALUES) == hypermodel.cost(regular)
    nets = [build_net(hypermodel.recipe(values), classes=10) for values in (VALUES, regular)]
    costs = [keras_preact.analysis.model_cost(net).total for net in nets]
    assert costs[0] == costs[1]


def test_the_smallest_candidates_are_below_all_others(hypermodel):
    least = {each["attention"]: hypermodel.cost(each) for each in hypermodel.smallest()}
    assert set(least) == {"none", "se"}
    for values in drawn(hypermodel, 50):
        cost, bound = hypermodel.cost(values), least[values["attention"]]
        assert cost.flops >= bound.flops and cost.parameters >= bound.parameters


def test_the_smallest_candidate_is_one_that_exists(recipe):
    space = SearchSpace(channels=(8, 32, 64), choices={"norm": ("batch", "group")})
    options = {**recipe.model_options, "stem_channels": 32}
    hypermodel = PreActHyperModel(recipe.replace(model_options=options), space, classes=10)
    smallest = {each["norm"]: each["channels_stage2"] for each in hypermodel.smallest()}
    assert smallest == {"batch": 8, "group": 32}
    space = dataclasses.replace(space, channels=(8, 16), choices={"norm": ("group",)})
    hypermodel = PreActHyperModel(recipe, space, classes=10)
    with pytest.raises(ValueError, match="No net of the search space exists.*`norm_groups` must"):
        list(hypermodel.smallest())


def test_models_need_to_know_the_length_of_an_epoch(recipe):
    hypermodel = PreActHyperModel(recipe, SearchSpace(units=(1, 2)), classes=10)
    with pytest.raises(ValueError, match="`steps_per_epoch` must be a number"):
        hypermodel.build(keras_tuner.HyperParameters())


def images(count=64):
    generator = np.random.default_rng(0)
    return generator.random((count, 8, 8, 1), "float32"), np.eye(10)[np.arange(count) % 10]


def test_a_tuner_of_kerastuner_searches(hypermodel, tmp_path):
    tuner = keras_tuner.RandomSearch(
        hypermodel,
        objective=keras_tuner.Objective("val_top1", "max"),
        max_trials=1,
        seed=1,
        directory=tmp_path,
    )
    x, y = images()
    tuner.search(x, y, batch_size=32, epochs=1, validation_data=(x, y), verbose=0)
    assert [trial.status for trial in tuner.oracle.trials.values()] == ["COMPLETED"]
    best = tuner.get_best_hyperparameters()[0].values
    assert hypermodel.architecture(best).units == (best["units_stage2"], best["units_stage3"])
    assert tuner.get_best_models()[0].count_params() > hypermodel.cost(best).parameters


def test_a_tuner_of_kerastuner_takes_an_oracle_from_here(hypermodel, tmp_path):
    oracle = make_oracle("random", hypermodel, objective="val_loss", max_trials=1, max_epochs=1)
    tuner = keras_tuner.Tuner(oracle, hypermodel, directory=tmp_path)
    x, y = images()
    tuner.search(x, y, batch_size=32, epochs=1, validation_data=(x, y), verbose=0)
    (trial,) = oracle.trials.values()
    assert trial.status == "COMPLETED" and trial.score > 0
