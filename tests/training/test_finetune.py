"""Runs that start from pretrained weights."""

import shutil
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_preact import PreActResNet20, to_config_folder
from keras_preact.layers import StackedUnits
from keras_preact.preprocessing import CIFAR10_CLASSES
from keras_preact.weights import find_entry, hugging_face, list_weights, named_weights
from keras_preact.weights.catalogue import best_weights
from training.net import build_net, find_pretrained, prepare_net
from training.recipe import Recipe, load_recipe, preprocessing_of
from training.run import read_run
from training.task import LABELS, ONE_CLASS
from training.train import main, parse_arguments

DIGITS = [str(digit) for digit in range(10)]
TINY = {"units": (1, 1), "channels": (8, 16), "strides": (1, 2)}


@pytest.fixture(scope="module")
def pretrained(finished) -> Path:
    """Return the folder of a finished run on the digits."""
    return finished.folder


@pytest.fixture(scope="module")
def three_classes(tmp_path_factory) -> Path:
    """Small images of three classes, bright on the left, on the right, or in the middle."""
    root = tmp_path_factory.mktemp("three")
    random = np.random.RandomState(0)
    for split, count in (("train", 12), ("test", 4)):
        for column, name in ((0, "left"), (6, "right"), (3, "middle")):
            (root / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = random.randint(0, 100, (8, 8, 1)).astype("uint8")
                pixels[:, column : column + 2] += 150
                encoded = tf.io.encode_png(pixels).numpy()
                (root / split / name / f"{index}.png").write_bytes(encoded)
    return root


@pytest.fixture
def finetune(pretrained, three_classes) -> Callable[..., int]:
    """Return a function that runs the training with the recipe `finetune` on the three classes."""

    def run(output: Path, *options: str) -> int:
        fixed = ["--recipe", "finetune", "--data", str(three_classes), "--output", str(output)]
        few = ["--epochs", "2", "--warmup-epochs", "1", "--batch-size", "12", "--crop", "none"]
        few += ["--save-every", "2"]
        return main([*fixed, "--init", str(pretrained), *few, *options])

    return run


def weights_of(path: Path) -> dict[str, dict[str, np.ndarray]]:
    return named_weights(keras.saving.load_model(path, compile=False))


def unchanged(old: dict, new: dict) -> set[str]:
    """Return the names of the layers whose arrays are the same in every bit."""
    return {
        name
        for name in old.keys() & new.keys()
        if all(np.array_equal(array, new[name][key]) for key, array in old[name].items())
    }


def test_a_frozen_body_stays_as_it_was(finetune, pretrained, tmp_path):
    output = tmp_path / "run"
    assert finetune(output, "--freeze", "body", "--ema-momentum", "0.5") == 0
    old, new = weights_of(pretrained / "model.keras"), weights_of(output / "model.keras")
    assert old.keys() == new.keys()
    assert old.keys() - unchanged(old, new) == {"predictions"}
    assert new["predictions"]["0"].shape == (16, 3)

    # The net, its input and its colors are the pretrained one's, and all of it is on record.
    recipe = read_run(output)["recipe"]
    there = read_run(pretrained)["recipe"]
    for name in ("model", "model_options", "channels", "input_size", "mean", "std"):
        assert recipe[name] == there[name], name
    assert recipe["init"] == str(pretrained)
    assert (recipe["freeze"], recipe["layer_decay"]) == (
        "body",
        load_recipe("finetune").layer_decay,
    )


def test_the_rest_is_trained(finetune, pretrained, tmp_path):
    output = tmp_path / "run"
    assert finetune(output, "--freeze", "stage2") == 0
    old, new = weights_of(pretrained / "model.keras"), weights_of(output / "model.keras")
    frozen = {name for name in old if name.startswith(("stem_", "stage2_"))}
    assert frozen and unchanged(old, new) == frozen


def recipe_of(*options: str):
    return parse_arguments(["--data", "-", "--output", "-", *options])[1]


@pytest.mark.parametrize("file", ["model.keras", "copy.weights.h5"])
def test_the_head_stays_where_its_classes_do(pretrained, tmp_path, file):
    expected = weights_of(pretrained / "model.keras")
    init, options = pretrained / file, []
    if file == "copy.weights.h5":
        # Away from its run nothing but the file is known.
        init = tmp_path / file
        keras.saving.load_model(pretrained / "model.keras", compile=False).save_weights(init)
        options = ["--model", "PreActResNet20", "--channels", "1", "--mean", "0.3", "--std", "0.4"]
        options += ["--input-size", "8", "--model-options"]
        options += ["units=[1, 1]", "channels=[8, 16]", "strides=[1, 2]"]
    recipe = recipe_of("--recipe", "finetune", "--init", str(init), *options)
    same = named_weights(prepare_net(recipe, DIGITS))
    assert unchanged(expected, same) == expected.keys()
    fewer = named_weights(prepare_net(recipe, DIGITS[:3]))
    assert unchanged(expected, fewer) == expected.keys() - {"predictions"}
    # As many classes, but others: known only in the folder of a run.
    others = named_weights(prepare_net(recipe, [f"another {name}" for name in DIGITS]))
    renewed = {"predictions"} if file == "model.keras" else set()
    assert unchanged(expected, others) == expected.keys() - renewed


def test_a_net_of_gray_images_learns_from_colored_ones(pretrained):
    recipe = recipe_of("--recipe", "finetune", "--init", str(pretrained))
    colors = ["--channels", "3", "--mean", *["0.3"] * 3, "--std", *["0.4"] * 3]
    colored = recipe_of("--recipe", "finetune", "--init", str(pretrained), *colors)
    gray = np.random.RandomState(0).normal(size=(2, 8, 8, 1)).astype("float32")
    expected = prepare_net(recipe, DIGITS)(gray)
    received = prepare_net(colored, DIGITS)(np.repeat(gray, 3, axis=-1))
    np.testing.assert_allclose(received, expected, atol=1e-5)


def test_a_recipe_s_own_values_come_before_the_pretrained_net_s(pretrained, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(f"init = '{pretrained}'\nfreeze = 'stem'\ninput_size = 16\nmean = [0.5]")
    recipe = recipe_of("--recipe", str(path), "--mean", "0.25")
    assert (recipe.input_size, recipe.mean, recipe.std) == (16, (0.25,), (0.376,))
    assert (recipe.model, recipe.freeze) == ("PreActResNet20", "stem")
    assert recipe.learning_rate == 0.1


def test_published_weights_bring_their_net_and_preprocessing():
    recipe = recipe_of("--recipe", "bit_hyperrule", "--init", "timm/resnetv2_50x1_bit.goog_in21k")
    assert recipe.model == "BiTResNet50x1"
    assert recipe.mean == recipe.std == (0.5, 0.5, 0.5)
    thousand = [str(number) for number in range(1000)]
    for entry in list_weights():
        found = find_pretrained(entry.name)
        assert found.values["model"] == entry.builder
        assert found.predicts(thousand) == (entry.classes == 1000), entry.name


@pytest.mark.parametrize(
    ("options", "builder", "weights"),
    [
        (["--init", "cifar10"], "PreActResNet164", "keras_preact/preactresnet164_cifar10"),
        (
            ["--init", "cifar10", "--model", "PreActResNet20"],
            "PreActResNet20",
            "keras_preact/preactresnet20_cifar10",
        ),
        (["--init", "imagenet"], "PreActResNet50", "timm/resnetv2_50.a1h_in1k"),
        (
            ["--init", "imagenet", "--model", "PreActResNet18"],
            "PreActResNet18",
            "timm/resnetv2_18.ra4_e3600_r224_in1k",
        ),
    ],
)
def test_a_data_set_means_what_it_means_to_a_builder(options, builder, weights):
    recipe = recipe_of("--recipe", "finetune", *options)
    assert recipe.model == builder
    entry = find_entry(weights)
    assert entry == best_weights(builder, options[1])
    assert preprocessing_of(recipe) == entry.preprocessing
    assert find_pretrained(recipe.init, recipe.model).weights == weights


def test_the_head_of_cifar_tells_its_own_ten_classes_apart(monkeypatch, tmp_path):
    # A folder of that name is not meant.
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cifar10").mkdir()
    recipe = recipe_of("--recipe", "finetune", "--init", "cifar10", "--model", "PreActResNet20")
    shipped = named_weights(PreActResNet20(weights="cifar10"))
    for names, kept in ((CIFAR10_CLASSES, True), (DIGITS, False)):
        weights = named_weights(prepare_net(recipe, names))
        assert ("predictions" in unchanged(shipped, weights)) == kept
        assert unchanged(shipped, weights) >= shipped.keys() - {"predictions"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--freeze", "stage9"], "has (1, 2, 3). Received: 9"),
        (["--freeze", "stage"], "`freeze` must be none, stem, stage2"),
        (["--init", "", "--freeze", "body"], "`init`, which is not given"),
        (["--init", "nowhere/run"], "no folder 'nowhere/run'"),
        (["--init", "nowhere/net.keras"], "no file 'nowhere/net.keras'"),
        (["--init", "cifar"], "Did you mean 'cifar10'?"),
        (
            ["--init", "cifar10", "--model", "PreActResNet50"],
            "There are some for: PreActResNet164, PreActResNet20",
        ),
        (["--init", "timm/resnetv2_50x1_bit.goog_in22k"], "Did you mean"),
        (["--model", "PreActResNet164"], "unit: 'basic' then, 'bottleneck' now"),
        (["--model-options", "strides=[2, 1]"], "strides: (1, 2) then, (2, 1) now"),
        (["--model-options", "units=[2, 1]"], "units: (1, 1) then, (2, 1) now"),
        (["--layer-decay", "0"], "`layer_decay` must be above 0"),
        (["--init", "", "--grow"], "`init`, which is not given"),
        (["--grow"], "has. Received the same: units=(1, 1), channels=(8, 16)"),
        (["--grow", "--model-options", "strides=[2, 1]"], "strides: (1, 2) then, (2, 1) now"),
        (["--grow", "--model-options", "channels=[8, 12]"], "channels: (8, 16) then, (8, 12) now"),
        (["--grow", "--model-options", "units=[1]", "channels=[8]", "strides=[1]"], "strides: (1,"),
        (["--grow", "--model-options", "units=[2, 1]", "shortcut='scaling'"], "shortcut: 'ident"),
        (["--crop", "random", "--resize-size", "7"], "`resize_size` must be at least `input_size`"),
    ],
)
def test_what_does_not_fit_is_refused_early(finetune, tmp_path, capsys, options, message):
    output = tmp_path / "run"
    assert finetune(output, *options) == 2
    assert message in capsys.readouterr().err
    assert not output.exists()


@pytest.mark.parametrize(
    ("classes", "sizes"),
    [
        (10, ["units=[3, 2]"]),
        (10, ["channels=[8, 24]"]),
        (3, ["units=[2, 4]", "channels=[12, 24]", "stem_channels=20", "scan_units=true"]),
    ],
    ids=str,
)
def test_a_grown_net_starts_with_the_function_of_the_small_one(pretrained, classes, sizes):
    options = ["--recipe", "finetune", "--init", str(pretrained)]
    # Where the classes are others, the head is new, but the same twice.
    keras.utils.set_random_seed(0)
    small = prepare_net(recipe_of(*options), DIGITS[:classes])
    keras.utils.set_random_seed(0)
    recipe = recipe_of(*options, "--grow", "--model-options", *sizes)
    grown = prepare_net(recipe, DIGITS[:classes])
    assert grown.count_params() > small.count_params()
    x = np.random.RandomState(0).normal(size=(4, 8, 8, 1)).astype("float32")
    np.testing.assert_allclose(grown(x), small(x), atol=1e-5)
    scanned = any(isinstance(layer, StackedUnits) for layer in grown.layers)
    assert scanned == ("scan_units=true" in sizes)


def test_a_grown_net_is_trained(finetune, pretrained, tmp_path):
    output = tmp_path / "run"
    sizes = ["--model-options", "units=[2, 1]", "channels=[12, 16]"]
    assert finetune(output, "--grow", *sizes) == 0
    recipe = read_run(output)["recipe"]
    assert recipe["grow"] and recipe["model_options"]["units"] == [2, 1]
    weights = weights_of(output / "model.keras")
    # The kernel that was zero has learned.
    assert weights["stage2_unit2_conv2"]["0"].any()


def test_what_cannot_grow_is_refused(pretrained, tmp_path):
    net = keras.saving.load_model(pretrained / "model.keras", compile=False)
    net.save_weights(tmp_path / "net.weights.h5")
    options = ["--recipe", str(tmp_path / "grow.toml"), "--init", str(tmp_path / "net.weights.h5")]
    (tmp_path / "grow.toml").write_text("grow = true")
    with pytest.raises(ValueError, match="`grow` must know how the net of `init` was built"):
        prepare_net(recipe_of(*options), DIGITS)


def test_a_file_of_another_net_is_refused(tmp_path):
    options = ["--recipe", "cifar_short", "--model-options", "units=[1, 1, 1]"]
    net = build_net(recipe_of(*options), 3)
    net.save_weights(tmp_path / "net.weights.h5")
    recipe = recipe_of("--recipe", "cifar_short", "--init", str(tmp_path / "net.weights.h5"))
    with pytest.raises(ValueError, match="does not hold the weights.*only in the net"):
        prepare_net(recipe, ["a", "b"])


def test_an_unfinished_run_offers_its_best_net(pretrained, tmp_path):
    shutil.copy(pretrained / "run.json", tmp_path)
    with pytest.raises(FileNotFoundError, match="best.keras"):
        find_pretrained(str(tmp_path))
    shutil.copy(pretrained / "best.keras", tmp_path)
    found = find_pretrained(str(tmp_path / "best.keras"))
    assert found.class_names == tuple(DIGITS)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(ValueError, match="run.json is not the record of a run"):
        find_pretrained(str(tmp_path / "best.keras"))


def test_a_net_outside_a_run_says_what_its_head_tells(tmp_path, monkeypatch):
    """Of the Hub, and in a `.keras` file."""
    monkeypatch.setattr(
        hugging_face, "fetch", lambda address, name: tmp_path / address.rpartition("/")[2] / name
    )
    recipe = Recipe(input_size=8, channels=1, mean=(0.5,), std=(0.5,), model_options=TINY)
    for activation, task, other in (
        ("sigmoid", LABELS, ONE_CLASS),
        ("softmax", ONE_CLASS, LABELS),
        # Logits, as before.
        (None, ONE_CLASS, LABELS),
    ):
        net = build_net(recipe, 10, classifier_activation=activation)
        name = str(activation)
        to_config_folder(net, tmp_path / name, preprocessing_of(recipe), class_names=DIGITS)
        net.save(tmp_path / f"{name}.keras")
        for init in (f"hf://me/{name}", str(tmp_path / f"{name}.keras")):
            found = find_pretrained(init)
            assert found.predicts(DIGITS, task), init
            assert not found.predicts(DIGITS, other), init
    (tmp_path / "net.keras").write_bytes(b"damaged")
    with pytest.raises(ValueError, match="cannot be read"):
        find_pretrained(str(tmp_path / "net.keras")).predicts(DIGITS)


def test_the_hyperrule_is_recorded_as_plain_values(pretrained, three_classes, tmp_path):
    output = tmp_path / "run"
    fixed = ["--recipe", "bit_hyperrule", "--init", str(pretrained), "--output", str(output)]
    small = ["--input-size", "8", "--resize-size", "10", "--batch-size", "48", "--epoch-steps", "1"]
    small += ["--save-every", "10"]
    assert main([*fixed, "--data", str(three_classes), *small]) == 0
    record = read_run(output)
    recipe = record["recipe"]
    assert recipe["rule"] == "bit_hyperrule"
    assert (recipe["epochs"], recipe["epoch_steps"], recipe["batch_size"]) == (10, 1, 48)
    assert (recipe["crop"], recipe["resize_size"]) == ("random", 10)
    assert (recipe["schedule"], recipe["step_epochs"]) == ("step", [3.0, 6.0, 9.0])
    # 36 images make batches of 48. The last rates of the epochs, at this batch:
    rates = [epoch["learning_rate"] * 512 / 48 for epoch in record["history"]]
    expected = [0.0, 0.0015, 0.003, *[3e-4] * 3, *[3e-5] * 3, 3e-6]
    np.testing.assert_allclose(rates, expected, rtol=1e-5)


def test_large_images_keep_the_inputs_of_norms_only():
    """Where the time is measured; the variables of a checkpoint are the same."""

    def keeps(**values) -> tuple[bool, list[str]]:
        keras.backend.clear_session(free_memory=False)
        options = TINY | values.pop("model_options", {})
        net = build_net(Recipe(model="PreActResNet20", model_options=options, **values), 3)
        norm = net.get_layer("stage3_unit1_norm1")
        return getattr(norm, "rematerialize", False), [each.path for each in net.variables]

    rematerialized, paths = keeps(input_size=128)
    assert rematerialized
    assert keeps(input_size=127) == (False, paths)
    assert keeps(input_size=128, model_options={"rematerialize": False}) == (False, paths)
    norm_free = {"norm": "none", "residual_scaling": "skip_init"}
    with pytest.raises(ValueError, match="stage3_unit1_norm1"):
        keeps(input_size=128, model_options=norm_free)
