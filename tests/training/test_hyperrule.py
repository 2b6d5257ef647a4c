import argparse

import pytest

from training.hyperrule import apply_rule, bit_hyperrule, typical_area
from training.recipe import Recipe, add_recipe_arguments, load_recipe, override_recipe
from training.schedules import learning_rate_schedule
from training.sources import open_source


@pytest.mark.parametrize(
    ("images", "steps", "warmup", "mixup"),
    [
        (1, 500, 100, 0.0),
        (19_999, 500, 100, 0.0),
        (20_000, 10_000, 500, 0.1),
        (499_999, 10_000, 500, 0.1),
        (500_000, 20_000, 500, 0.1),
        (14_000_000, 20_000, 500, 0.1),
    ],
)
def test_the_number_of_images_decides_the_schedule(images, steps, warmup, mixup):
    values = bit_hyperrule(images, 32 * 32, "BiTResNet50x1")
    assert values["epochs"] * values["epoch_steps"] == steps
    assert values["warmup_epochs"] * values["epoch_steps"] == warmup
    assert values["mixup_alpha"] == mixup
    # Through the schedule of a run: a tenth of the rate at 30, 60 and 90 % of the steps.
    rate = learning_rate_schedule(Recipe(**values), values["epoch_steps"])
    assert float(rate(0)) == 0.0
    assert float(rate(warmup // 2)) == pytest.approx(0.003 / 2)
    for share, expected in ((0.3, 3e-3), (0.6, 3e-4), (0.9, 3e-5), (1.0, 3e-6)):
        assert float(rate(round(share * steps) - 1)) == pytest.approx(expected)
        if share < 1:
            assert float(rate(round(share * steps))) == pytest.approx(expected / 10)


@pytest.mark.parametrize(
    ("area", "model", "resize_size", "input_size"),
    [
        (96 * 96 - 1, "BiTResNet50x1", 160, 128),
        (96 * 96, "BiTResNet50x1", 448, 384),
        (96 * 96, "BiTResNet152x4", 512, 480),
        (32 * 32, "BiTResNet152x4", 160, 128),
    ],
)
def test_the_size_of_the_images_decides_the_crop(area, model, resize_size, input_size):
    values = bit_hyperrule(1000, area, model)
    assert (values["resize_size"], values["input_size"]) == (resize_size, input_size)
    assert values["crop"] == "random"


def test_the_command_line_comes_before_the_rule():
    recipe = load_recipe("bit_hyperrule")
    parser = argparse.ArgumentParser()
    add_recipe_arguments(parser, recipe)
    options = parser.parse_args(["--batch-size", "64", "--input-size", "96"])
    digits = open_source("digits")
    assert typical_area(digits) == 64.0
    resolved = override_recipe(apply_rule(override_recipe(recipe, options), digits), options)
    assert resolved == recipe.replace(
        **{**bit_hyperrule(1437, 64.0, recipe.model), "batch_size": 64, "input_size": 96}
    )
    assert (resolved.epochs, resolved.weight_decay, resolved.momentum) == (10, 0.0, 0.9)
    # The rate is given for a batch of 512, and falls with the batch.
    assert resolved.learning_rate * resolved.learning_rate_scale == pytest.approx(0.003 / 8)


def test_without_a_rule_nothing_changes():
    recipe = load_recipe("cifar_short")
    assert apply_rule(recipe, open_source("digits")) is recipe


def test_images_of_which_none_can_be_read(tmp_path):
    for split in ("train", "test"):
        (tmp_path / split / "cat").mkdir(parents=True)
        (tmp_path / split / "cat" / "1.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match="None of .* can be read"):
        typical_area(open_source(str(tmp_path)))
