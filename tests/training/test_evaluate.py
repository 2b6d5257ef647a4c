import csv
import json
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_preact import PreActResNet20
from keras_preact.preprocessing import CIFAR10_CLASSES, Preprocessor
from training.evaluate import Evaluation, describe, evaluate, main, open_for, write_evaluation
from training.run import read_run
from training.sources import open_source


def batches(labels: list[int], classes: int, size: int) -> tf.data.Dataset:
    """Return images that say which class the net answers: pixel k is the score of class k."""
    answers = [0, 1, 1, 5, 0, 6][: len(labels)]
    images = np.eye(classes, dtype="float32")[answers]
    images += np.linspace(0, 0.5, classes, dtype="float32")
    one_hot = np.eye(classes, dtype="float32")[labels]
    return tf.data.Dataset.from_tensor_slices((images, one_hot)).batch(size)


def identity(classes: int) -> keras.Model:
    inputs = keras.Input((classes,))
    return keras.Model(inputs, keras.layers.Identity()(inputs))


def test_counts_by_hand():
    result = evaluate(identity(7), batches([0, 1, 2, 5, 5, 0], 7, size=4), list("abcdefg"))
    expected = np.zeros((7, 7), int)
    for true, predicted in [(0, 0), (1, 1), (2, 1), (5, 5), (5, 0), (0, 6)]:
        expected[true, predicted] += 1
    np.testing.assert_array_equal(result.confusion, expected)
    assert result.images == 6
    assert result.top1 == 0.5
    # Behind its answer the net prefers the later classes: the third image's comes sixth, the last
    # one's seventh.
    assert result.top5 == 4 / 6
    assert result.per_class["a"] == 0.5
    assert result.per_class["c"] == 0.0
    assert result.per_class["g"] is None


def test_likelihood_and_calibration_by_hand():
    # Two images of 90%, one of them wrong, and one of 60%, right.
    scores = np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6]], "float32")
    labels = np.array([0, 1, 1])
    data = tf.data.Dataset.from_tensor_slices((scores, np.eye(2)[labels])).batch(2)
    result = evaluate(identity(2), data, ["a", "b"])
    assert result.nll == pytest.approx(-np.log([0.9, 0.1, 0.6]).mean(), rel=1e-6)
    # 15 bins: 90% confident of half of two; 60% confident of one of one.
    assert result.ece == pytest.approx((2 * 0.4 + 0.4) / 3, rel=1e-6)
    printed = describe(result)
    assert f"NLL     {result.nll:.4f}" in printed and "ECE     40.00%" in printed
    # What is no probability has neither.
    scores *= 2
    data = tf.data.Dataset.from_tensor_slices((scores, np.eye(2)[labels])).batch(2)
    result = evaluate(identity(2), data, ["a", "b"])
    assert (result.top1, result.nll, result.ece) == (2 / 3, None, None)
    assert "NLL" not in describe(result)


def test_published_weights_by_name(tmp_path, capsys):
    """The measured accuracy is the net's own, and the published one stands beside it."""
    images = np.random.default_rng(0).integers(256, size=(20, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(20) % 10
    data = tmp_path / "test.npz"
    np.savez(data, images=images, labels=labels, class_names=CIFAR10_CLASSES)
    named = ["--weights", "keras_preact/preactresnet20_cifar10", "--data", str(data)]

    assert main([*named, "--output", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    scores = PreActResNet20(weights="cifar10").predict(Preprocessor("cifar10")(images), verbose=0)
    top1 = np.mean(scores.argmax(-1) == labels)
    assert f"Top-1   {top1:.2%}   published 92.20%" in printed
    assert "Published at 32x32, crop fraction 1.0: top-1 92.20% (keras_preact/data" in printed
    values = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert values["nll"] == pytest.approx(-np.log(scores[np.arange(20), labels]).mean(), rel=1e-4)
    assert values["published"][0]["top1"] == 92.2
    assert values["model"] == named[1]

    # At another size, the figure is none to compare with. Nothing is written without a folder.
    np.savez(data, images=images[:10], labels=labels[:10])
    assert main([*named, "--input-size", "40"]) == 0
    printed = capsys.readouterr().out
    assert "%   published" not in printed and "Published at 32x32" in printed
    assert "Written" not in printed and "Note: the classes" not in printed

    for options, said in (
        (["--weights", "keras_preact/preactresnet20"], "Did you mean"),
        (["--weights", "keras_applications/resnet50v2_notop"], "holds no classifier"),
    ):
        assert main([*options, "--data", str(data)]) == 2
        assert said in capsys.readouterr().err


def test_the_held_out_images_of_a_run_are_found_again(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    for place in range(40):
        path = tmp_path / "set" / "ab"[place % 2] / f"{place}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(tf.io.encode_png(rng.integers(256, size=(4, 4, 3), dtype=np.uint8)))
    folder = str(tmp_path / "set")
    held_out = open_source(folder, None, 0.3).num_examples("test")
    record = {"source": folder, "validation_split": 0.3}
    assert open_for(record, folder).num_examples("test") == held_out
    # That of its own split is set aside, however the folder is written.
    shutil.copytree(folder, tmp_path / "split" / "train")
    shutil.copytree(folder, tmp_path / "split" / "test")
    monkeypatch.chdir(tmp_path)
    split = {"source": "split", "validation_split": 0.3}
    tested = {open_for(split, name).num_examples("test") for name in ("split", "./split/")}
    assert tested == {open_source("split", None, 0.3).num_examples("test")} != {40}
    moved = shutil.copytree(folder, tmp_path / "moved")
    assert open_for(record, str(moved)).num_examples("test") == held_out
    # To a net of other images, all of them are new.
    assert open_for({"source": "digits"}, folder).num_examples("test") == 40
    assert open_for({}, folder, None, 0.3).num_examples("test") == held_out


def test_the_folder_of_the_sets_of_a_run_is_found_again(finished, monkeypatch):
    monkeypatch.setattr("training.evaluate.open_source", lambda name, data_dir, *_, **__: data_dir)
    record = read_run(finished.folder)
    assert open_for(record, "digits") == "sets"
    assert open_for(record, "digits", "others") == "others"
    assert open_for(record, "cifar10") is None
    # Earlier versions recorded none.
    del record["data_dir"]
    assert open_for(record, "digits") is None


def test_classes_of_one_name_are_told_apart(tmp_path):
    evaluation = Evaluation(("crane", "crane", "cat"), np.diag([10, 0, 9]), 0)
    evaluation.confusion[1, 0] = 10
    assert evaluation.per_class == {"crane (0)": 1.0, "crane (1)": 0.0, "cat": 1.0}
    assert "crane (1)  0.00%" in describe(evaluation)


def test_no_top5_among_five_classes():
    evaluation = Evaluation(tuple("abcde"), np.eye(5, dtype=int), 5)
    assert evaluation.top5 is None
    assert "Top-5" not in describe(evaluation)


def test_no_images_are_refused():
    with pytest.raises(ValueError, match="no images"):
        evaluate(identity(3), batches([0], 3, 1).take(0), list("abc"))


def test_answers_that_are_not_numbers_are_refused():
    scores = np.full((5, 2), 0.5, "float32")
    scores[[1, 4], 0] = np.nan
    data = tf.data.Dataset.from_tensor_slices((scores, np.eye(2)[[0, 1, 0, 1, 0]])).batch(2)
    with pytest.raises(ValueError, match="must be numbers. Received: NaN for 2 of 5 images"):
        evaluate(identity(2), data, ["a", "b"])


@pytest.mark.parametrize("classes", [3, 30, 1000])
def test_files(tmp_path, classes):
    names = tuple(f"class {index}" for index in range(classes))
    confusion = np.random.RandomState(0).randint(0, 9, (classes, classes))
    write_evaluation(tmp_path, Evaluation(names, confusion, classes), {"model": "net"})
    with open(tmp_path / "confusion.csv") as file:
        header, *rows = csv.reader(file)
    assert header[1:] == list(names) == [row[0] for row in rows]
    np.testing.assert_array_equal([[int(cell) for cell in row[1:]] for row in rows], confusion)
    image = tf.io.decode_png((tmp_path / "confusion.png").read_bytes())
    # Every cell has at least a pixel, and the figure fits a screen or two.
    assert classes <= min(image.shape[:2]) <= max(image.shape[:2]) < 2500
    values = json.loads((tmp_path / "evaluation.json").read_text())
    assert values["top1"] == np.trace(confusion) / confusion.sum()
    assert list(values["per_class"]) == list(names)


def test_command(finished, tmp_path, capsys):
    run = finished.copy(tmp_path / "run")
    last = read_run(run)["history"][-1]

    assert main(["--model", str(run)]) == 0
    printed = capsys.readouterr().out
    assert f"Top-1   {last['val_top1']:.2%}" in printed
    assert f"Top-5   {last['val_top5']:.2%}" in printed
    assert (run / "confusion.png").exists()
    values = json.loads((run / "evaluation.json").read_text())
    assert values["top1"] == pytest.approx(last["val_top1"])
    assert values["images"] == 360

    # A file outside a run: preprocessing and images must be named, and give the same result.
    alone = tmp_path / "elsewhere" / "net.keras"
    alone.parent.mkdir()
    alone.write_bytes((run / "model.keras").read_bytes())
    assert main(["--model", str(alone), "--data", "digits"]) == 2
    assert "--input-size, --mean, --std" in capsys.readouterr().err
    options = ["--input-size", "8", "--mean", "0.305", "--std", "0.376", "--crop-fraction", "1"]
    assert main(["--model", str(alone), *options]) == 2
    assert "--data" in capsys.readouterr().err
    options += ["--data", "digits", "--output", str(tmp_path / "out"), "--batch-size", "100"]
    assert main(["--model", str(alone), *options]) == 0
    again = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert again["top1"] == values["top1"]

    options[1] = "16"
    assert main(["--model", str(alone), *options]) == 2
    assert "takes images of shape (8, 8, 1)" in capsys.readouterr().err


def test_missing_model_is_refused(tmp_path, capsys):
    assert main(["--model", str(tmp_path), "--data", "digits"]) == 2
    assert "best.keras" in capsys.readouterr().err
