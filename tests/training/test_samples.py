"""`python -m training.samples`: the files hold the images of the test split."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from sklearn.datasets import load_digits

from training.samples import main


def test_digits_are_written_as_they_are(tmp_path, capsys):
    assert main(["--data", "digits", "--output", str(tmp_path / "new"), "--count", "4"]) == 0
    paths = sorted((tmp_path / "new").iterdir())
    assert capsys.readouterr().out.split() == [str(path) for path in paths]
    assert len(paths) == 4
    digits = load_digits()
    for path in paths:
        pixels = tf.io.decode_png(path.read_bytes()).numpy()[..., 0]
        (match,) = np.flatnonzero((np.round(digits.images * 255 / 16) == pixels).all((1, 2)))
        assert path.name.endswith(f"_class{digits.target[match]}.png")


def test_files_are_written_under_the_ending_of_their_kind(tmp_path):
    folder = tmp_path / "images" / "test" / "cat"
    folder.mkdir(parents=True)
    kinds = ["bmp", "gif", "jpeg", "png", "webp"]
    for kind in kinds:
        # Not all files have the name of their kind.
        Image.new("RGB", (8, 8)).save(folder / f"{kind}.jpg", kind)
    output = tmp_path / "new"
    assert main(["--data", str(tmp_path / "images"), "--output", str(output), "--count", "9"]) == 0
    paths = sorted(output.iterdir())
    assert [path.suffix for path in paths] == [".bmp", ".gif", ".jpg", ".png", ".webp"]
    contents = [(folder / f"{kind}.jpg").read_bytes() for kind in kinds]
    assert [path.read_bytes() for path in paths] == contents


@pytest.mark.parametrize("count", ["0", "-1"])
def test_no_images_are_refused(count, tmp_path, capsys):
    arguments = ["--data", "digits", "--output", str(tmp_path / "new"), "--count", count]
    assert main(arguments) == 2
    assert f"--count must be 1 or more. Received: {count}" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_source_that_is_not_there_is_named(tmp_path, capsys):
    arguments = ["--data", str(tmp_path / "none"), "--output", str(tmp_path / "new")]
    assert main(arguments) == 2
    assert str(tmp_path / "none") in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
