import keras
import numpy as np
import pytest

from training.recipe import Recipe, load_recipe
from training.schedules import learning_rate_schedule


def rates(recipe: Recipe, steps_per_epoch: int) -> np.ndarray:
    schedule = learning_rate_schedule(recipe, steps_per_epoch)
    steps = range(recipe.epochs * steps_per_epoch + 1)
    return np.array([float(schedule(step)) for step in steps])


def test_paper_schedule_changes_at_its_steps():
    schedule = learning_rate_schedule(load_recipe("cifar_paper"), 390)
    at = {0: 0.01, 399: 0.01, 400: 0.1, 31999: 0.1, 32000: 0.01, 47999: 0.01, 48000: 0.001}
    assert {step: float(schedule(step)) for step in at} == pytest.approx(at)


def test_constant():
    recipe = Recipe(schedule="constant", learning_rate=0.3, epochs=2, reference_batch_size=0)
    np.testing.assert_allclose(rates(recipe, 5), 0.3, rtol=1e-6)


def test_warmup_is_a_ramp_to_the_peak():
    recipe = Recipe(
        schedule="constant",
        learning_rate=0.5,
        epochs=3,
        warmup_epochs=0.5,
        warmup_learning_rate=0.1,
        reference_batch_size=0,
    )
    np.testing.assert_allclose(rates(recipe, 8)[:6], [0.1, 0.2, 0.3, 0.4, 0.5, 0.5], rtol=1e-6)


@pytest.mark.parametrize("kind", ["cosine", "one_cycle"])
def test_a_warmup_leaves_a_step(kind):
    recipe = Recipe(schedule=kind, epochs=1, warmup_epochs=0.9, reference_batch_size=0)
    np.testing.assert_allclose(rates(recipe, 2)[:2], [0.0, recipe.learning_rate])
    np.testing.assert_allclose(rates(recipe, 1)[0], recipe.learning_rate)


def test_a_warmup_rises_to_the_peak_also_where_a_lower_rate_follows():
    recipe = Recipe(
        schedule="step",
        step_epochs=(0.6, 0.7),
        epochs=1,
        warmup_epochs=0.5,
        reference_batch_size=0,
    )
    peak = recipe.learning_rate
    np.testing.assert_allclose(rates(recipe, 3)[:3], [0, peak / 2, peak / 100], rtol=1e-6)


def test_cosine_follows_its_formula_after_the_warmup():
    recipe = Recipe(
        schedule="cosine",
        learning_rate=0.4,
        final_learning_rate=0.04,
        epochs=5,
        warmup_epochs=1,
        reference_batch_size=0,
    )
    done = np.arange(41) / 40
    expected = 0.04 + 0.36 * (1 + np.cos(np.pi * done)) / 2
    np.testing.assert_allclose(rates(recipe, 10)[10:], expected, rtol=1e-5)


def test_one_cycle_is_a_triangle():
    recipe = Recipe(
        schedule="one_cycle",
        learning_rate=0.4,
        final_learning_rate=0.1,
        epochs=4,
        warmup_epochs=1,
        reference_batch_size=0,
    )
    expected = np.concatenate([np.linspace(0, 0.4, 11)[:-1], np.linspace(0.4, 0.1, 31)])
    np.testing.assert_allclose(rates(recipe, 10), expected, rtol=1e-5, atol=1e-7)


def test_every_rate_scales_with_the_batch():
    options = {
        "schedule": "one_cycle",
        "epochs": 4,
        "warmup_epochs": 1,
        "warmup_learning_rate": 0.05,
        "final_learning_rate": 0.01,
        "reference_batch_size": 64,
    }
    one, four = (rates(Recipe(batch_size=size, **options), 5) for size in (64, 256))
    np.testing.assert_allclose(four, 4 * one, rtol=1e-5)


@pytest.mark.parametrize("kind", ["constant", "step", "cosine", "one_cycle"])
def test_schedules_are_serializable(kind):
    recipe = Recipe(schedule=kind, step_epochs=(2,), epochs=4, warmup_epochs=1)
    schedule = learning_rate_schedule(recipe, 5)
    config = keras.saving.serialize_keras_object(schedule)
    again = keras.saving.deserialize_keras_object(config)
    assert [float(again(step)) for step in range(20)] == [
        float(schedule(step)) for step in range(20)
    ]
