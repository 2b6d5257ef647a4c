import csv
import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from training.evaluate import Evaluation, describe, evaluate, main, write_evaluation
from training.run import read_run


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


def test_no_top5_among_five_classes():
    evaluation = Evaluation(tuple("abcde"), np.eye(5, dtype=int), 5)
    assert evaluation.top5 is None
    assert "Top-5" not in describe(evaluation)


def test_no_images_are_refused():
    with pytest.raises(ValueError, match="no images"):
        evaluate(identity(3), batches([0], 3, 1).take(0), list("abc"))


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
