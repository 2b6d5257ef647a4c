"""Weights and model card of a finished run."""

from __future__ import annotations

import hashlib
import re

import huggingface_hub
import keras
import numpy as np
import pytest
from PIL import Image

import keras_preact
from keras_preact.files import write_json
from keras_preact.preprocessing import Preprocessing
from training.evaluate import main as evaluate
from training.publish import _runs, _trained_on
from training.publish import main as publish
from training.run import read_run
from training.trained import Trained

NAMES = ("--data-name", "Digits", "--name", "tiny_digits")


def test_the_card_tells_what_the_file_does(finished, tmp_path, capsys):
    run, output = finished.copy(tmp_path / "run"), tmp_path / "published"
    assert evaluate(["--model", str(run)]) == 0
    accuracy = re.search(r"Top-1 +(\S+)%", capsys.readouterr().out)[1]
    assert publish(["--model", str(run), "--data", "digits", *NAMES, "--output", str(output)]) == 0
    card = (output / "tiny_digits.md").read_text()
    digest = hashlib.sha256((output / "tiny_digits.weights.h5").read_bytes()).hexdigest()
    assert digest in card
    published = float(re.search(r"(\S+)% of the \d+ test images", card)[1])
    # 16 bits may turn an image of the few.
    assert published == pytest.approx(float(accuracy), abs=0.5)
    assert "3 epochs" in card and "| `ema_momentum` | `0.9` |" in card
    assert len(list(output.iterdir())) == 2


def test_the_card_names_every_run_that_led_to_the_net(train, finished, tmp_path):
    first, second, output = tmp_path / "first", tmp_path / "second", tmp_path / "published"
    finished.copy(first)
    few = ["--epochs", "2", "--epoch-steps", "2", "--save-every", "2"]
    assert train(second, "--init", str(first / "best.keras"), *few) == 0
    command = ["--model", str(second), "--data", "digits", *NAMES]
    assert publish([*command, "--output", str(output)]) == 0
    card = (output / "tiny_digits.md").read_text()
    assert "3, then 2 epochs" in card
    lines = [read_run(run)["command"] for run in (first, second)]
    assert f"1. `{lines[0]}`" in card and f"2. `{lines[1]}`" in card
    (first / "run.json").unlink()
    assert publish([*command, "--output", str(output)]) == 0
    card = (output / "tiny_digits.md").read_text()
    assert f"1. `{lines[1]}`" in card and "2. `" not in card
    assert str(first / "best.keras") in card


def test_the_runs_that_led_to_a_net_end_at_published_weights_and_at_a_folder_seen(
    tmp_path, monkeypatch
):
    """As `training.train` takes `--init`: a name of weights is no path."""
    monkeypatch.chdir(tmp_path)
    inits = {
        ".": "cifar10",
        "a": "b/best.keras",
        "b": "c",
        "c": "a",
        "d": "imagenet",
        "e": "hf://a",
    }
    for name, init in inits.items():
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "best.keras").write_bytes(b"")
        write_json(tmp_path / name / "run.json", {"name": name, "recipe": {"init": init}})
    # Weights that were removed to save space; the record tells of them.
    (tmp_path / "b" / "best.keras").unlink()

    def led_to(name):
        record = read_run(tmp_path / name)
        trained = Trained(tmp_path / name / "model.keras", keras.Model(), Preprocessing(), record)
        return [each["name"] for each in _runs(trained)]

    assert led_to("a") == ["c", "b", "a"]
    assert [led_to(name) for name in "de."] == [["d"], ["e"], ["."]]


@pytest.mark.parametrize(
    ("file", "told"),
    [("model.keras", "3 epochs"), ("best.keras", "3 epochs; the weights are of epoch 2, the best")],
)
def test_the_card_tells_of_which_epoch_the_weights_are(tmp_path, file, told):
    history = [{"epoch": epoch} for epoch in (1, 2, 3)]
    record = {"status": "finished", "history": history, "best": history[1]}
    record |= {"recipe": {}, "images": {"train": 9}}
    trained = Trained(tmp_path / file, keras.Model(), Preprocessing(), record)
    assert _trained_on(trained, "Digits").endswith(f"training images of Digits, {told}")


def test_a_folder_for_the_hub_has_the_net_and_what_the_card_tells(finished, tmp_path, capsys):
    run, output = finished.copy(tmp_path / "run"), tmp_path / "published"
    command = ["--model", str(run), "--data", "digits", *NAMES, "--output", str(output), "--hub"]
    assert publish(command) == 0
    assert "# " in capsys.readouterr().out
    folder = output / "tiny_digits"
    record = read_run(run)
    net = keras.saving.load_model(run / "model.keras", compile=False)
    copy = keras_preact.from_config_folder(folder)
    x = np.random.default_rng(0).standard_normal((2, *net.input_shape[1:])).astype("float32")
    np.testing.assert_array_equal(copy(x), net(x))
    values = keras_preact.Preprocessor(folder).preprocessing
    assert values == keras_preact.preprocessing.Preprocessing(**record["preprocessing"])
    card = huggingface_hub.ModelCard.load(folder / "README.md")
    accuracy, _ = card.data.eval_results
    assert f"| accuracy | {accuracy.metric_value:.4g} |" in card.text
    assert record["command"] in card.text and "3 epochs" in card.text
    assert f"{len(record['class_names'])}: 0, 1" in card.text
    # A folder is never written over.
    assert publish(command) == 2
    assert f"no folder of that --name yet. Received: {folder}" in capsys.readouterr().err


def test_an_upload_that_failed_is_done_again_without_an_evaluation(
    finished, tmp_path, capsys, monkeypatch
):
    run, output = finished.copy(tmp_path / "run"), tmp_path / "published"
    command = ["--model", str(run), "--data", "digits", *NAMES, "--output", str(output)]
    # The address is wrong: nothing is done.
    assert publish([*command, "--push", "digits"]) == 2
    assert "named as 'hf://user/repo'" in capsys.readouterr().err and not output.exists()
    pushed = []

    def push(folder, repo):
        pushed.append((folder, repo))
        if len(pushed) == 1:
            raise OSError("no token")
        return f"hf://{repo}"

    monkeypatch.setattr("training.publish.push_to_hub", push)
    command += ["--push", "me/digits", "--licence", "cc-by-4.0"]
    assert publish(command) == 2
    assert "training.publish: no token" in capsys.readouterr().err
    folder = output / "tiny_digits"
    assert huggingface_hub.ModelCard.load(folder / "README.md").data.license == "cc-by-4.0"
    monkeypatch.setattr("training.publish.evaluate", None)
    assert publish(command) == 0
    assert capsys.readouterr().out.splitlines() == [f"Written before: {folder}", "hf://me/digits"]
    assert pushed == [(folder, "me/digits")] * 2
    # Nothing else is taken for what was written.
    assert publish([*command, "--licence", "mit", "--data-name", "numbers", "--mean", "0.3"]) == 2
    said = capsys.readouterr().err
    assert re.search(r"has other images, '.*', license, cc-by-4.0, preprocessing: remove it", said)
    net = keras.saving.load_model(run / "model.keras", compile=False)
    net.get_layer("predictions").bias.assign_add([1.0] * 10)
    net.save(run / "model.keras")
    assert publish(command) == 2
    assert f"{folder} has other weights than" in capsys.readouterr().err


def test_as_many_images_may_be_unreadable_as_in_the_run_or_as_is_said(finished, tmp_path, capsys):
    run, images, output = finished.copy(tmp_path / "run"), tmp_path / "images", tmp_path / "out"
    record = read_run(run)
    for name in record["class_names"]:
        (images / "test" / name).mkdir(parents=True)
        Image.new("L", (8, 8)).save(images / "test" / name / "1.png")
    (images / "test" / "0" / "2.png").write_bytes(b"no image")
    record["recipe"]["max_corrupt_images"] = 0
    write_json(run / "run.json", record)
    command = ["--model", str(run), "--data", str(images), "--output", str(output)]
    assert publish([*command, *NAMES]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("training.publish: 1 unreadable images, but only 0 may be skipped")
    assert evaluate([*command, "--max-corrupt-images", "1"]) == 0
    assert "Images  10" in capsys.readouterr().out


def test_what_cannot_be_published(finished, tmp_path, capsys):
    run, output = finished.copy(tmp_path / "run"), tmp_path / "published"
    record = read_run(run)
    write_json(run / "run.json", record | {"class_names": ["cat", "dog"]})
    command = ["--model", str(run), "--data", "digits", *NAMES, "--output", str(output)]
    assert publish(command) == 2
    assert "was trained on ['cat', 'dog']" in capsys.readouterr().err
    (run / "run.json").unlink()
    sizes = ["--input-size", "8", "--mean", "0.3", "--std", "0.4"]
    assert publish(["--model", str(run / "model.keras"), *command[2:], *sizes]) == 2
    assert "there is no run.json beside" in capsys.readouterr().err
    assert not output.exists()
