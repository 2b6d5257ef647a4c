"""From the values of a trial to the recipe and the model of its training."""

import keras
import keras_tuner
import numpy as np
import pytest

import keras_preact
from keras_preact.tuning import Constraints, SearchSpace, make_oracle
from training.engines.callbacks.averaging import AveragedWeights, averaged_weights
from training.net import build_net, recipe_architecture
from training.recipe import Recipe, load_recipe
from training.search import RecipeHyperModel, load_space
from training.search.hypermodel import SPACES

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


def test_a_trials_recipe_differs_in_what_varies_only(hypermodel, recipe):
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
    architecture = hypermodel.candidates.architecture(VALUES)
    assert architecture == recipe_architecture(hypermodel.recipe(VALUES))
    assert "attention" not in hypermodel.recipe({**VALUES, "attention": "none"}).model_options


def test_what_the_recipe_chose_can_be_chosen_against(recipe, hypermodel):
    recipe = recipe.replace(model_options={**recipe.model_options, "attention": "se"})
    hypermodel = RecipeHyperModel(recipe, hypermodel.space, classes=10)
    assert hypermodel.hyperparameters().values["attention"] == "se"
    values = {**VALUES, "attention": "none"}
    assert recipe_architecture(hypermodel.recipe(values)).attention is None


def test_what_matters_in_training_only_costs_nothing(hypermodel):
    candidates = hypermodel.candidates
    regular = {**VALUES, "drop_path": 0.0, "learning_rate": 0.1}
    assert candidates.cost(VALUES) == candidates.cost(regular)
    nets = [build_net(hypermodel.recipe(values), classes=10) for values in (VALUES, regular)]
    costs = [keras_preact.analysis.model_cost(net).total for net in nets]
    assert costs[0] == costs[1] == candidates.cost(VALUES)


def test_a_filled_budget_is_in_the_recipe(recipe):
    space = SearchSpace(units=(1, 2), widen=(1, 2))
    limits = Constraints(max_flops=500_000)
    hypermodel = RecipeHyperModel(recipe, space, classes=10, constraints=limits)
    values = hypermodel.candidates.completed(hypermodel.hyperparameters().values)
    assert set(values) == {"units_stage2", "units_stage3", "channels"}
    written = hypermodel.recipe(values)
    assert "-".join(map(str, written.model_options["channels"])) == values["channels"]
    net = build_net(written, classes=10)
    assert 475_000 <= keras_preact.analysis.model_cost(net).total.flops <= 500_000


def test_models_need_to_know_the_length_of_an_epoch(recipe):
    hypermodel = RecipeHyperModel(recipe, SearchSpace(units=(1, 2)), classes=10)
    with pytest.raises(ValueError, match="`steps_per_epoch` must be a number"):
        hypermodel.build(keras_tuner.HyperParameters())


def test_models_begin_with_new_weights(recipe):
    tuned = recipe.replace(init="cifar10")
    hypermodel = RecipeHyperModel(tuned, SearchSpace(units=(1, 2)), 10, steps_per_epoch=2)
    with pytest.raises(ValueError, match="`init` .* must be empty .* Received: 'cifar10'"):
        hypermodel.build(keras_tuner.HyperParameters())


def test_a_tuner_takes_an_oracle_from_here(hypermodel, tmp_path):
    oracle = make_oracle("random", hypermodel, "val_loss", max_trials=1, max_epochs=1)
    tuner = keras_tuner.Tuner(oracle, hypermodel, directory=tmp_path)
    generator = np.random.default_rng(0)
    x, y = generator.random((64, 8, 8, 1), "float32"), np.eye(10)[np.arange(64) % 10]
    tuner.search(x, y, batch_size=32, epochs=1, validation_data=(x, y), verbose=0)
    (trial,) = oracle.trials.values()
    assert trial.status == "COMPLETED" and trial.score > 0
    assert trial.metrics.exists("val_top1")


def test_a_trial_is_judged_by_the_average_of_its_weights(recipe, tmp_path):
    """Whether or not its tuner is given the callback, too; its weights are those without it."""
    averaging = recipe.replace(ema_momentum=0.99, learning_rate=1.0)
    generator = np.random.default_rng(0)
    x, y = generator.random((64, 8, 8, 1), "float32"), np.eye(10)[np.arange(64) % 10]
    weights = []
    for callbacks in ([], [AveragedWeights()]):
        hypermodel = RecipeHyperModel(averaging, SearchSpace(units=(1,)), 10, steps_per_epoch=2)
        oracle = make_oracle("random", hypermodel, "val_loss", max_trials=1, max_epochs=2)
        tuner = keras_tuner.Tuner(oracle, hypermodel, directory=tmp_path, overwrite=True)
        keras.utils.set_random_seed(0)
        data = {"validation_data": (x, y), "callbacks": callbacks, "shuffle": False}
        tuner.search(x, y, batch_size=32, epochs=2, verbose=0, **data)
        (trial,) = oracle.trials.values()
        (model,) = tuner.get_best_models(1)
        raw = model.evaluate(x, y, verbose=0, return_dict=True)["loss"]
        with averaged_weights(model):
            average = model.evaluate(x, y, verbose=0, return_dict=True)["loss"]
        assert trial.score == pytest.approx(average, rel=1e-6)
        assert trial.score != pytest.approx(raw, rel=1e-5)
        weights.append(model.get_weights())
    for first, second in zip(*weights, strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("path", sorted(SPACES.glob("*.toml")), ids=lambda path: path.stem)
def test_every_space_fits_the_recipe_it_is_for(path):
    recipe = load_recipe("digits" if path.stem == "digits" else "cifar_short")
    hypermodel = RecipeHyperModel(recipe, load_space(path.stem), classes=10)
    assert hypermodel.recipe(hypermodel.hyperparameters().values).epochs == recipe.epochs


def test_wrong_names_are_told():
    with pytest.raises(FileNotFoundError, match="No search space 'cifr'. Did you mean 'cifar'"):
        load_space("cifr")


def test_a_space_must_fit_the_recipe():
    attention = SearchSpace(choices={"attention": (None, "eca")})
    with pytest.raises(ValueError, match="must not hold none.*SEPreActResNet50.*'se'"):
        RecipeHyperModel(Recipe(model="SEPreActResNet50"), attention, classes=10)
