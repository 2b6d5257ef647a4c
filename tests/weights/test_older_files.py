"""Files that older versions of the package saved load, and give the scores that they gave."""

from __future__ import annotations

import zipfile
from pathlib import Path

import keras
import numpy as np

import keras_preact

# Saved when `Conv2D` was in `keras_preact.layers.fixed_padding`.
OLD_MODEL = Path(__file__).parents[2] / "benchmarks/results/cifar_one_cycle/model.keras"
IMAGES = np.random.default_rng(0).standard_normal((2, 32, 32, 3)).astype("float32")
# Scores of classes 2, 3, 4 and 6 for both images, of version 0.1.0.
MODEL_SCORES = [
    [2.0073883e-03, 2.1595064e-04, 1.1266326e-03, 9.9656844e-01],
    [3.5990949e-03, 4.1164341e-04, 3.7134945e-04, 9.9550492e-01],
]
WEIGHTS_SCORES = [
    [1.4781267e-02, 1.2691676e-02, 2.7434195e-03, 9.6960896e-01],
    [2.8836034e-02, 5.8441218e-03, 1.9974080e-03, 9.6328110e-01],
]


def _scores(model: keras.Model) -> np.ndarray:
    return keras.ops.convert_to_numpy(model(IMAGES))[:, [2, 3, 4, 6]]


def test_a_model_whose_modules_have_moved_gives_the_same_scores():
    with zipfile.ZipFile(OLD_MODEL) as archive:
        assert b"keras_preact.layers.fixed_padding" in archive.read("config.json")
    model = keras.saving.load_model(OLD_MODEL)
    np.testing.assert_allclose(_scores(model), MODEL_SCORES, rtol=1e-3)


def test_a_weights_file_gives_the_same_scores():
    model = keras_preact.PreActResNet20(weights="cifar10")
    np.testing.assert_allclose(_scores(model), WEIGHTS_SCORES, rtol=1e-3)
