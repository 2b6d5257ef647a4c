import argparse
import dataclasses
from pathlib import Path

import pytest

from training.recipe import (
    AUTO,
    RECIPES,
    Recipe,
    add_recipe_arguments,
    differences,
    fewest_micro_batches,
    fixed_batch,
    load_recipe,
    override_recipe,
)

NAMES = sorted(path.stem for path in RECIPES.glob("*.toml"))


def parse(recipe: Recipe, *arguments: str) -> Recipe:
    parser = argparse.ArgumentParser()
    add_recipe_arguments(parser, recipe)
    return override_recipe(recipe, parser.parse_args(arguments))


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(text)
    return path


def test_a_batch_may_be_left_to_the_command(tmp_path):
    assert load_recipe(write(tmp_path, "batch_size = 'auto'")).batch_size == AUTO
    recipe = parse(Recipe(), "--batch-size", "auto", "--gradient-accumulation-steps", "3")
    assert recipe.batch_size == AUTO
    with pytest.raises(ValueError, match="only `python -m training.train` chooses it"):
        fixed_batch(recipe)
    assert fixed_batch(recipe.replace(batch_size=96)).micro_batch_size == 32


def test_a_batch_that_is_no_number_is_refused(capsys):
    with pytest.raises(SystemExit):
        parse(Recipe(), "--batch-size", "most")
    message = "--batch-size: must be a whole number or 'auto'. Received: 'most'"
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("batch_size", "most", "devices", "parts"),
    [
        (256, 256, 1, 1),
        (256, 100, 1, 4),
        (256, 1, 1, 256),
        (96, 50, 1, 2),
        (96, 50, 4, 2),
        (7, 6, 1, 7),
    ],
)
def test_the_fewest_micro_batches_divide_the_batch(batch_size, most, devices, parts):
    assert fewest_micro_batches(batch_size, most, devices) == parts


@pytest.mark.parametrize("name", NAMES)
def test_recipes_load_and_name_their_source(name):
    assert load_recipe(name) == load_recipe(RECIPES / f"{name}.toml")
    assert (RECIPES / f"{name}.toml").read_text().startswith("# ")


def test_values_from_a_file(tmp_path):
    path = write(tmp_path, "epochs = 20\nmean = [0, 0.5, 1]\n[model_options]\ndrop_path = 0.1\n")
    recipe = load_recipe(path)
    assert recipe.epochs == 20
    assert recipe.mean == (0.0, 0.5, 1.0)
    assert recipe.model_options == {"drop_path": 0.1}
    assert recipe.batch_size == Recipe().batch_size


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch = 3", "'epoch'. Did you mean 'epochs'"),
        ("epochs = 3.5", "`epochs` must be of type int. Received: 3.5"),
        ("nesterov = 1", "`nesterov` must be of type bool. Received: 1"),
        ("epochs = true", "`epochs` must be of type int. Received: True"),
        ("mean = 0.5", "`mean` must be a list of numbers. Received: 0.5"),
        ("mean = [0.5]", "`mean` must have one value for each of `channels` = 3"),
        ("std = [0.1, 0, 0.1]", "`std` must be above 0"),
        ("std = [58, 57, 57]", "divide that of pixels in 0..255 by 255. Received: (58.0, 57.0, "),
        ("mean = [124, 116, 104]", "`mean` must be in 0..1, of pixels in 0..1: divide that"),
        ("mean = [0.5, nan, 0.5]", "`mean` must be in 0..1"),
        (
            "model_options.classes = 5",
            "`classes` must not be in `model_options`: the set of images",
        ),
        ("model_options.input_shape = [32, 32, 3]", "`input_size` and `channels` decide it. Rec"),
        ("model_options.include_top = false", "`include_top` must not be in `model_options`"),
        ("weight_decay = inf", "`weight_decay` must be finite. Received: inf"),
        ("momentum = 1", "`momentum` must be below 1. Received: 1.0"),
        ("learning_rate = nan", "`learning_rate` must be above 0. Received: nan"),
        ("batch_size = 0", "`batch_size` must be at least 1. Received: 0"),
        ("batch_size = 'most'", "`batch_size` must be of type int. Received: 'most'"),
        ("epochs = 'auto'", "`epochs` must be of type int. Received: 'auto'"),
        (
            "batch_size = 96\ngradient_accumulation_steps = 5",
            "`gradient_accumulation_steps` must divide `batch_size` = 96. Received: 5",
        ),
        (
            "lighting = 0.1\nchannels = 1\nmean = [0.5]\nstd = [0.5]",
            "`lighting` is noise of RGB colors, and must be 0 for `channels` = 1. Received: 0.1",
        ),
        ("schedule = 'cosin'", "'one_cycle'. Received: 'cosin'"),
        ("schedule = 'step'", "`step_epochs` must name rising epochs"),
        ("schedule = 'step'\nstep_epochs = [60, 30]", "Received: (60.0, 30.0)"),
        ("epochs = 5\nwarmup_epochs = 5", "`warmup_epochs` must be below `epochs` = 5"),
        ("epochs =", "Invalid value"),
    ],
)
def test_wrong_values_are_refused(tmp_path, text, message):
    path = write(tmp_path, text)
    with pytest.raises(ValueError) as error:
        load_recipe(path)
    assert message in str(error.value)
    assert str(path) in str(error.value)


def test_unknown_recipe_suggests_one():
    with pytest.raises(FileNotFoundError, match="Did you mean 'cifar_short'"):
        load_recipe("cifar_shrt")


def test_every_value_has_an_option():
    parser = argparse.ArgumentParser()
    add_recipe_arguments(parser, Recipe())
    text = parser.format_help()
    for each in dataclasses.fields(Recipe):
        assert "--" + each.name.replace("_", "-") in text


def test_help_shows_the_values_of_the_recipe():
    parser = argparse.ArgumentParser()
    add_recipe_arguments(parser, Recipe(batch_size=96, model_options={"drop_path": 0.1}))
    text = " ".join(parser.format_help().split())
    assert "(default: 96)" in text
    assert "(default: drop_path=0.1)" in text


def test_options_override_the_recipe():
    recipe = Recipe(model_options={"drop_path": 0.1, "stem": "cifar"}, flip=True)
    changed = parse(
        recipe,
        *("--learning-rate", "1", "--no-flip", "--schedule", "step", "--step-epochs", "2", "4.5"),
        *("--channels", "1", "--mean", "0.5", "--std", "0.25"),
        *("--model-options", "drop_path=0.2", "zero_init_residual=true"),
    )
    assert changed == recipe.replace(
        learning_rate=1.0,
        flip=False,
        schedule="step",
        step_epochs=(2.0, 4.5),
        channels=1,
        mean=(0.5,),
        std=(0.25,),
        model_options={"drop_path": 0.2, "stem": "cifar", "zero_init_residual": True},
    )


def test_model_options_given_twice_are_added():
    recipe = Recipe(model_options={"stem_channels": 8, "stem": "cifar"})
    first = ("--model-options", "units=[3, 3]", "stem_channels=16")
    changed = parse(recipe, *first, "--model-options", "units=[1, 1]")
    assert changed.model_options == {"stem_channels": 16, "stem": "cifar", "units": [1, 1]}


def test_without_options_the_recipe_stays():
    recipe = Recipe(batch_size=96)
    assert parse(recipe) == recipe


def test_malformed_model_options_are_refused():
    with pytest.raises(ValueError, match="NAME=VALUE.*Received: stem=cifar"):
        parse(Recipe(), "--model-options", "stem=cifar")


def test_differences_are_named():
    assert differences({"a": 1, "b": 2}, {"a": 1, "b": 3}) == ["b: 2 then, 3 now"]
