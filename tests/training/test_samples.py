"""`python -m training.samples`: the files hold the images of the test split."""

import numpy as np
import tensorflow as tf
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


def test_a_source_that_is_not_there_is_named(tmp_path, capsys):
    arguments = ["--data", str(tmp_path / "none"), "--output", str(tmp_path / "new")]
    assert main(arguments) == 2
    assert str(tmp_path / "none") in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
