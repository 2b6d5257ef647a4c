"""Nets that tell any number of labels: trained, evaluated and exported by the same commands."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import average_precision_score, log_loss

import keras_preact
from savedmodels.export import main as export
from savedmodels.predict import main as predict
from training.engines.prepare import prepare
from training.evaluate import main as evaluate
from training.fewshot import main as fewshot
from training.listing.labels_csv import find_labeled_files
from training.net import prepare_net, recipe_architecture
from training.prepare import main as prepare_shards
from training.publish import main as publish
from training.recipe import Recipe, load_recipe
from training.run import read_run
from training.samples import main as samples
from training.summary import main as summary
from training.task import LABELS
from training.train import main, parse_arguments
from training.tune import main as tune

NAMES = ["left", "middle", "right"]
COLUMNS = {"left": 0, "middle": 3, "right": 6}
IMAGES = 120


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """Small gray images, bright at none to three places, and the table of their labels."""
    root = tmp_path_factory.mktemp("images") / "bars"
    root.mkdir()
    random = np.random.default_rng(0)
    with open(root / "labels.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file", "labels"])
        for place in range(IMAGES):
            labels = [name for name in NAMES if random.random() < 0.4]
            pixels = random.integers(0, 100, (8, 8), dtype=np.uint8)
            for name in labels:
                pixels[:, COLUMNS[name] : COLUMNS[name] + 2] += 120
            Image.fromarray(pixels).save(root / f"{place}.png")
            table.writerow([f"{place}.png", "|".join(labels)])
    return root


@pytest.fixture(scope="module")
def arguments(tiny_recipe, images) -> list[str]:
    return ["--recipe", str(tiny_recipe), "--data", str(images), "--batch-size", "32"]


@pytest.fixture(scope="module")
def run(arguments, tmp_path_factory) -> Path:
    """Return a finished run, which was stopped after its first epoch and went on."""
    folder = tmp_path_factory.mktemp("labels") / "run"
    options = [*arguments, "--output", str(folder), "--mixup-alpha", "0.2", "--epochs", "4"]
    options += ["--model-options", "drop_path=0.0", "dropout=0.0", "--ema-momentum", "0.5"]
    for more in (["--stop-after", "1"], []):
        keras.backend.clear_session(free_memory=False)
        assert main([*options, *more]) == 0
    return folder


@pytest.fixture(scope="module")
def answers(run, images) -> tuple[np.ndarray, np.ndarray]:
    """Return the trained net's scores of the held-out images, and their labels, read by hand."""
    record = read_run(run)
    with open(images / "labels.csv", newline="") as file:
        rows = {row["file"]: row["labels"].split("|") for row in csv.DictReader(file)}
    tested = prepare(*parse_arguments([*recorded(run, images)])).images.split("test")
    files = [name.decode().rsplit("/", 1)[1] for name in tested._names.numpy()]
    pixels = np.stack([np.asarray(Image.open(images / file)) for file in files])[..., None]
    net = keras.saving.load_model(run / "model.keras", compile=False)
    mean, std = record["recipe"]["mean"], record["recipe"]["std"]
    scores = net.predict_on_batch((pixels.astype("float32") / 255 - mean) / std)
    return scores, np.array([[name in rows[file] for name in NAMES] for file in files])


def recorded(run: Path, images: Path) -> list[str]:
    recipe = run.parent / "again.toml"
    recipe.write_text('model = "PreActResNet20"\n')
    return ["--recipe", str(recipe), "--data", str(images), "--output", "x", "--batch-size", "8"]


def test_the_history_has_the_mean_average_precision(run, answers):
    record = read_run(run)
    scores, labels = answers
    history = record["history"]
    assert [*history[0]] == ["epoch", "loss", "val_loss", "val_mAP", "learning_rate", "seconds"]
    wanted = average_precision_score(labels, scores)
    assert history[-1]["val_mAP"] == pytest.approx(wanted, abs=1e-6)
    # The recipe smooths labels by a tenth.
    smooth = 0.9 * labels + 0.05
    losses = smooth * np.log(scores) + (1 - smooth) * np.log(1 - scores)
    assert history[-1]["val_loss"] == pytest.approx(-losses.mean(), abs=1e-4)
    # It learns: guesses have the share of the images with a label.
    assert history[-1]["val_mAP"] > labels.mean() + 0.2
    assert record["best"] == max(history, key=lambda epoch: epoch["val_mAP"])
    assert record["activation"] == "sigmoid" and record["class_names"] == NAMES
    assert (run / "curves.png").stat().st_size > 10_000
    assert "val_mAP" in (run / "history.csv").read_text().splitlines()[0]


def test_evaluation_is_scikit_learns(run, answers, capsys):
    assert evaluate(["--model", str(run)]) == 0
    printed = capsys.readouterr().out
    scores, labels = answers
    measured = json.loads((run / "evaluation.json").read_text())
    assert measured["mAP"] == pytest.approx(average_precision_score(labels, scores), abs=1e-6)
    for place, name in enumerate(NAMES):
        wanted = average_precision_score(labels[:, place], scores[:, place])
        assert measured["per_label"][name] == pytest.approx(wanted, abs=1e-6)
        assert measured["images_with_label"][name] == labels[:, place].sum()
    losses = [log_loss(labels[:, place], scores[:, place].astype(float)) for place in range(3)]
    assert measured["loss"] == pytest.approx(np.mean(losses), abs=1e-5)
    assert f"3 labels, images: {IMAGES - len(labels)} for training" in printed
    assert f"mAP     {measured['mAP']:.2%}" in printed
    assert not (run / "confusion.csv").exists()
    assert summary([str(run)]) == 0
    lines = capsys.readouterr().out
    assert (
        f"mAP       {measured['mAP']:.2%}, the mean over 3 labels, on {len(labels)} images" in lines
    )
    assert "confusion" not in lines


def test_an_export_gives_all_labels_above_its_threshold(run, answers, images, tmp_path, capsys):
    options = ["--output", str(tmp_path), "--name", "bars", "--threshold", "0.4", "--warm-up"]
    assert export(["--model", str(run), *options]) == 0
    files = [str(images / f"{place}.png") for place in range(6)]
    capsys.readouterr()
    assert predict([str(tmp_path / "bars"), *files, "--json"]) == 0
    net = keras.saving.load_model(run / "model.keras", compile=False)
    recipe = read_run(run)["recipe"]
    for file, answer in zip(files, json.loads(capsys.readouterr().out), strict=True):
        pixels = np.asarray(Image.open(file), "float32")[None, ..., None] / 255
        scores = net.predict_on_batch((pixels - recipe["mean"]) / recipe["std"])[0]
        wanted = [index for index in np.argsort(-scores) if scores[index] > 0.4]
        assert [row["index"] for row in answer["predictions"]] == wanted
        assert [row["class"] for row in answer["predictions"]] == [NAMES[i] for i in wanted]
    assert samples(["--data", str(images), "--output", str(tmp_path / "samples")]) == 0
    assert {path.name.partition("_")[2][:6] for path in (tmp_path / "samples").iterdir()} == {
        "labels"
    }


def test_images_on_the_device_have_the_same_labels(arguments, images, tmp_path):
    options = [*arguments, "--output", str(tmp_path / "run")]
    on_device = prepare(*parse_arguments([*options, "--data-on-device"])).batches
    piped = prepare(*parse_arguments(options)).batches
    theirs, ours = (
        np.concatenate([np.asarray(targets) for _, targets in batches.tested()])
        for batches in (piped, on_device)
    )
    np.testing.assert_array_equal(ours, theirs)
    assert ours.any() and not ours.all() and (ours.sum(axis=1) != 1).any()
    assert main([*options, "--data-on-device", "--epochs", "2", "--warmup-epochs", "0"]) == 0
    assert "val_mAP" in read_run(tmp_path / "run")["best"]


def heads(net):
    return net.get_layer("predictions").get_weights()[0], net.get_layer("predictions").activation


def test_a_head_is_kept_only_for_the_same_labels(run, finished, tiny_recipe):
    recipe = load_recipe(tiny_recipe)
    options = {"model_options": read_run(run)["recipe"]["model_options"]}
    trained = keras.saving.load_model(run / "model.keras", compile=False)
    kept = prepare_net(recipe.replace(init=str(run), **options), NAMES, LABELS)
    np.testing.assert_array_equal(heads(kept)[0], heads(trained)[0])
    other = prepare_net(recipe.replace(init=str(run), **options), NAMES)
    assert heads(other)[0].shape == heads(trained)[0].shape
    assert np.abs(heads(other)[0] - heads(trained)[0]).max() > 0
    digits = [str(digit) for digit in range(10)]
    from_classes = prepare_net(recipe.replace(init=str(finished.folder)), digits, LABELS)
    softmax = keras.saving.load_model(finished.folder / "model.keras", compile=False)
    assert np.abs(heads(from_classes)[0] - heads(softmax)[0]).max() > 0
    activations = [heads(net)[1].__name__ for net in (kept, other, from_classes)]
    assert activations == ["sigmoid", "softmax", "sigmoid"]


def test_values_that_make_no_sense_for_labels_are_refused(arguments, tmp_path, capsys):
    options = [*arguments, "--output", str(tmp_path / "run")]
    for more, said in (
        (["--class-weight", "balanced"], "must be none for images with several labels"),
        (
            ["--class-weight", "balanced", "--data-on-device"],
            "must be none for images with several",
        ),
        (["--model-options", 'classifier_activation="softmax"'], "must be 'sigmoid', or not be in"),
    ):
        assert main([*options, *more]) == 2
        assert said in capsys.readouterr().err
    digits = [*options, "--data", "digits", "--model-options", 'classifier_activation="sigmoid"']
    assert main(digits) == 2
    assert "must be 'softmax', or not be in `model_options`" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_options_of_a_net_may_be_arguments_of_its_builder():
    options = {"classifier_activation": "sigmoid", "name": "net", "attention": "se"}
    architecture = recipe_architecture(Recipe(model="PreActResNet20", model_options=options))
    assert architecture == keras_preact.PreActResNet20.architecture.replace(attention="se")


def test_commands_for_one_class_refuse_labels(run, finished, images, tiny_recipe, tmp_path, capsys):
    data = ["--data", str(images)]
    space = ["--space", "digits", "--max-trials", "1", "--output", str(tmp_path / "search")]
    assert tune(["--recipe", str(tiny_recipe), *data, *space]) == 2
    assert "A search is for nets that tell one class per image" in capsys.readouterr().err
    shots = ["--recipe", "finetune", "--init", str(run), *data, "--output", str(tmp_path / "few")]
    assert fewshot(shots) == 2
    assert "drawn only where an image has one class" in capsys.readouterr().err
    assert prepare_shards([*data, "--size", "8", "--output", str(tmp_path / "shards")]) == 2
    assert "Shards hold one class per image" in capsys.readouterr().err
    card = ["--data-name", "bars", "--name", "bars", "--output", str(tmp_path / "card")]
    assert publish(["--model", str(run), *data, *card]) == 2
    assert "a net that tells one class per image" in capsys.readouterr().err
    assert evaluate(["--model", str(finished.folder), *data]) == 2
    assert "The net tells one class of an image. Those of" in capsys.readouterr().err
    assert evaluate(["--model", str(run), "--data", "digits"]) == 2
    assert "The net tells labels of an image. Those of 'digits' have one class" in (
        capsys.readouterr().err
    )
    assert not [*tmp_path.iterdir()]


def test_a_run_is_of_one_kind_of_labels(run, arguments, images, capsys):
    record = read_run(run)
    assert find_labeled_files(images).class_names == tuple(NAMES)
    (run / "run.json").write_text(json.dumps({**record, "activation": "softmax"}))
    options = [*arguments, "--output", str(run), "--mixup-alpha", "0.2", "--epochs", "4"]
    options += ["--model-options", "drop_path=0.0", "dropout=0.0", "--ema-momentum", "0.5"]
    assert main(options) == 2
    assert "activation: 'softmax' then, 'sigmoid' now" in capsys.readouterr().err
    (run / "run.json").write_text(json.dumps(record))
    assert main(options) == 0
    assert "is finished" in capsys.readouterr().out
