"""Few-shot transfer: the draws, the schedule, the command."""

import json

import numpy as np
import pytest

from training.fewshot import in_one_epoch, main, table
from training.listing.few import few_images
from training.listing.find import find_listing
from training.net import build_net
from training.recipe import Recipe, load_recipe


@pytest.fixture(scope="module")
def digits():
    return find_listing("digits")


def test_a_draw_has_as_many_images_of_each_class(digits):
    few, again, other = (few_images(digits, 3, draw) for draw in (0, 0, 1))
    assert few.labels["train"] == [number for number in range(10) for _ in range(3)]
    assert few.names == again.names and few.names["train"] != other.names["train"]
    assert few.names["test"] == digits.names["test"]
    places = [digits.names["train"].index(name) for name in few.names["train"]]
    np.testing.assert_array_equal(few.images["train"], digits.images["train"][places])
    np.testing.assert_array_equal(np.array(digits.labels["train"])[places], few.labels["train"])
    with pytest.raises(ValueError, match="Class '0' must have at least 999 .* Received: 1"):
        few_images(digits, 999, 0)


def test_the_schedule_stays_whatever_the_number_of_images():
    recipe = Recipe(epochs=10, warmup_epochs=2, schedule="step", step_epochs=(5, 8), batch_size=32)
    few = in_one_epoch(recipe.replace(reference_batch_size=64), 500, 16)
    assert (few.epochs, few.epoch_steps, few.warmup_epochs) == (1, 500, 0.2)
    assert few.step_epochs == (0.5, 0.8)
    # Half the batch counts as much as the whole one did.
    assert few.batch_size / few.reference_batch_size == 32 / 64


def test_least_median_and_largest():
    text = table({"probe": {"1": [0.3, 0.1, 0.2], "5": [0.5]}})
    assert "| probe | 10.0 / 20.0 / 30.0 | 50.0 / 50.0 / 50.0 |" in text


def test_the_command(tiny_recipe, tmp_path, capsys):
    init = tmp_path / "init.weights.h5"
    build_net(load_recipe(tiny_recipe), classes=10).save_weights(init)
    output = tmp_path / "few"
    command = ["--recipe", str(tiny_recipe), "--init", str(init), "--data", "digits"]
    command += ["--output", str(output), "--shots", "1", "2", "--draws", "2", "--steps", "3"]
    assert main(command) == 0
    results = json.loads((output / "results.json").read_text())
    assert {method: list(map(len, each.values())) for method, each in results.items()} == {
        "probe": [2, 2],
        "finetune": [2, 2],
    }
    # Better than chance: even random features tell digits apart.
    assert min(results["probe"]["2"]) > 0.15
    assert (output / "fewshot.png").stat().st_size > 10_000
    assert "| probe |" in (output / "fewshot.md").read_text()
    # Done already: nothing is trained, and more draws are added.
    capsys.readouterr()
    assert main([*command[:-4], "--draws", "3", "--steps", "3", "--methods", "probe"]) == 0
    printed = capsys.readouterr().out
    assert "draw 2" in printed and "draw 1" not in printed
    assert main([*command, "--learning-rate", "0.5"]) == 2
    assert "results of other values" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--methods", "prob"], "Received: prob Did you mean 'probe'"),
        (["--shots", "0"], "--shots must be 1 or more"),
        ([], "--init must name the weights"),
    ],
)
def test_wrong_arguments_are_refused(options, message, tmp_path, capsys):
    assert main(["--data", "digits", "--output", str(tmp_path / "few"), *options]) == 2
    assert message in capsys.readouterr().err
