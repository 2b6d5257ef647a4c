"""Few-shot transfer: the draws, the schedule, the command."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from training.engines.devices import one_device
from training.fewshot import Task, in_one_epoch, main, parse_arguments, table
from training.hyperrule import bit_hyperrule
from training.listing.few import few_images
from training.listing.find import find_listing
from training.net import build_net
from training.recipe import Recipe, load_recipe
from training.run import read_run
from training.schedules import learning_rate_schedule


@pytest.fixture(scope="module")
def digits():
    return find_listing("digits")


def test_a_draw_has_as_many_images_of_each_class(digits):
    few, again, other = (few_images(digits, 3, draw) for draw in (0, 0, 1))
    assert few.labels["train"] == [number for number in range(10) for _ in range(3)]
    assert few.names == again.names and few.names["train"] != other.names["train"]
    # A second study has no draw of the first.
    second = [few_images(digits, 3, draw, seed=1).names["train"] for draw in range(3)]
    assert few.names["train"] not in second and other.names["train"] not in second
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
    assert few.learning_rate * few.learning_rate_scale == recipe.learning_rate * 32 / 64


def test_a_batch_divides_by_the_devices():
    recipe = Recipe(batch_size=32, gradient_accumulation_steps=4)
    few = in_one_epoch(recipe, 500, 30, devices=4)
    assert (few.batch_size, few.micro_batch_size) == (28, 4)


def test_the_learning_rates_stay_whatever_the_number_of_images():
    rates = {"learning_rate": 0.4, "warmup_learning_rate": 0.2, "final_learning_rate": 0.1}
    recipe = Recipe(batch_size=512, reference_batch_size=256, **rates)
    for reference, scale in ((0, 1), (100, 5.12), (256, 2), (512, 1)):
        few = in_one_epoch(recipe.replace(reference_batch_size=reference), 500, 5)
        for name, rate in rates.items():
            received = getattr(few, name) * few.learning_rate_scale
            assert received == pytest.approx(rate * scale), (reference, name)


def test_the_rule_of_a_recipe_is_applied_to_the_images_of_a_draw(digits, tmp_path):
    given = ["--init", "cifar10", "--data", "digits", "--output", str(tmp_path)]
    options, recipe = parse_arguments([*given, "--rule", "bit_hyperrule", "--momentum", "0.8"])
    task = Task("digits", digits, recipe, options, tmp_path, one_device())
    ruled = task.recipe_for(task.source(2, 0))
    assert ruled == recipe.replace(**bit_hyperrule(20, 8 * 8, recipe.model))
    few = in_one_epoch(ruled, 500, 20)
    assert (few.crop, few.input_size, few.momentum, few.batch_size) == ("random", 128, 0.8, 20)
    rate = learning_rate_schedule(few, 500)
    # The rate of a batch of 512, with a tenth of it at 30% of the steps.
    assert [float(rate(step)) for step in (50, 100, 200)] == pytest.approx([0.0015, 0.003, 0.0003])
    options, recipe = parse_arguments([*given, "--rule", "bit_hyperrule", "--batch-size", "16"])
    assert (
        replace(task, recipe=recipe, options=options).recipe_for(task.source(2, 0)).batch_size == 16
    )


def test_least_median_and_largest():
    text = table({"probe": {"1": [0.3, 0.1, 0.2], "5": [0.5]}})
    assert "| probe | 10.0 / 20.0 / 30.0 | 50.0 / 50.0 / 50.0 |" in text


@pytest.fixture(scope="module")
def init(tiny_recipe, tmp_path_factory):
    path = tmp_path_factory.mktemp("init") / "init.weights.h5"
    build_net(load_recipe(tiny_recipe), classes=10).save_weights(path)
    return path


def test_an_unreadable_image_is_named(tiny_recipe, init, tmp_path, capsys):
    for name in "xy":
        for split in ("train", "test"):
            (tmp_path / split / name).mkdir(parents=True)
            Image.new("L", (8, 8)).save(tmp_path / split / name / "1.png")
    (tmp_path / "test" / "x" / "2.png").write_bytes(b"no image")
    command = ["--recipe", str(tiny_recipe), "--init", str(init), "--shots", "1"]
    command += ["--output", str(tmp_path / "few"), "--methods", "probe"]
    # The second time the set is the same, by another path.
    for data in (tmp_path, tmp_path / "train" / ".."):
        assert main([*command, "--data", str(data), "--max-corrupt-images", "0"]) == 2
        said = capsys.readouterr().err.splitlines()[-1]
        assert said.startswith("training.fewshot: 1 unreadable images") and "test/x/2.png" in said


def test_the_command(tiny_recipe, init, tmp_path, capsys):
    output = tmp_path / "few"
    command = ["--recipe", str(tiny_recipe), "--init", str(init), "--data", "digits"]
    command += [
        "--seed",
        "7",
        "--output",
        str(output),
        "--shots",
        "1",
        "2",
        "--draws",
        "1",
        "--steps",
        "3",
    ]
    assert main(command) == 0
    results = json.loads((output / "results.json").read_text())
    assert {method: list(map(len, each.values())) for method, each in results.items()} == {
        "probe": [1, 1],
        "finetune": [1, 1],
    }
    # Better than chance: even random features tell digits apart.
    assert min(results["probe"]["2"]) > 0.15
    assert (output / "fewshot.png").stat().st_size > 10_000
    assert "| probe |" in (output / "fewshot.md").read_text()
    # Done already: nothing is trained, and more draws are added.
    capsys.readouterr()
    assert main([*command, "--shots", "1", "--draws", "2", "--max-corrupt-images", "40"]) == 0
    printed = capsys.readouterr().out
    assert "draw 1" in printed and "draw 0" not in printed
    assert read_run(output / "finetune" / "1-1")["seed"] == 7 + 1
    for changed, said in (
        (["--learning-rate", "0.5"], "learning_rate: 0.1 then, 0.5 now"),
        (["--validation-split", "0.5"], "validation_split: None then, 0.5 now"),
        (["--validation-split", "1"], "no 'train' split.*holds out all images"),
    ):
        assert main([*command, *changed]) == 2
        assert re.search(said, capsys.readouterr().err)
    # Of an earlier version.
    about = json.loads((output / "fewshot.json").read_text())
    assert about.pop("images") == {"train": 1437, "test": 360}
    (output / "fewshot.json").write_text(json.dumps(about))
    assert main(command) == 0
    assert "does not tell images of its results" in capsys.readouterr().err
    assert json.loads((output / "fewshot.json").read_text())["images"]
    diverging = [
        "--methods",
        "finetune",
        "--learning-rate",
        "1e30",
        "--output",
        str(tmp_path / "b"),
    ]
    assert main([*command, *diverging]) == 1
    assert "The last good checkpoint is" in capsys.readouterr().err


@pytest.mark.parametrize("record", ["{", "[]", "{}"])
def test_a_damaged_record_is_named(record, init, tmp_path, capsys):
    (tmp_path / "fewshot.json").write_text(record)
    assert main(["--init", str(init), "--data", "digits", "--output", str(tmp_path)]) == 2
    assert f"{tmp_path / 'fewshot.json'} is damaged" in capsys.readouterr().err


@pytest.mark.parametrize("file", ["validation-00000-of-00001", "dataset_info.json"])
def test_records_are_refused(file, init, tmp_path, capsys):
    (tmp_path / file).touch()
    command = ["--init", str(init), "--data", str(tmp_path), "--output", str(tmp_path / "few")]
    assert main(command) == 2
    assert "--data must be a set whose images are listed one by one" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--methods", "prob"], "Received: prob Did you mean 'probe'"),
        (["--shots", "0"], "--shots must be 1 or more"),
        (["--steps", "0"], "--steps must be 1 or more. Received: 0"),
        ([], "--init must name the weights"),
    ],
)
def test_wrong_arguments_are_refused(options, message, tmp_path, capsys):
    assert main(["--data", "digits", "--output", str(tmp_path / "few"), *options]) == 2
    assert message in capsys.readouterr().err
