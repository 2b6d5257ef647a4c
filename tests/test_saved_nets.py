"""Nets that were saved before modules moved load, and give the scores that they gave then."""

from __future__ import annotations

import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_preact

# Saved when `Conv2D` was in `keras_preact.layers.fixed_padding`.
SAVED = Path(__file__).parents[1] / "benchmarks" / "results" / "cifar_one_cycle" / "model.keras"
X = np.random.default_rng(0).standard_normal((2, 32, 32, 3)).astype("float32")
# Probabilities of the saved net before the move, and logits of the shipped weights in float64.
PROBABILITIES = np.array(
    [
        [
            *(0.0000087, 0.0000092, 0.0020074, 0.0002160, 0.0011266),
            *(0.0000206, 0.9965684, 0.0000035, 0.0000100, 0.0000295),
        ],
        [
            *(0.0000028, 0.0000128, 0.0035991, 0.0004116, 0.0003713),
            *(0.0000415, 0.9955050, 0.0000237, 0.0000064, 0.0000257),
        ],
    ]
)
LOGITS = np.array(
    [
        [
            *(-5.6211897, -1.1421577, 9.271995, 3.0886506, 2.9244415),
            *(-6.1555364, 1.7389738, -3.0631334, 1.2641504, -2.3073057),
        ],
        [
            *(-5.5673622, -0.8004201, 9.926704, 1.6849821, 3.3457218),
            *(-6.3470421, 2.2074365, -2.8088175, 0.4613285, -2.103522),
        ],
    ]
)
# Twenty layers in float32, one after another.
TOLERANCE = 2e-5


def test_a_keras_file_loads_though_modules_moved():
    with zipfile.ZipFile(SAVED) as archive:
        assert b"keras_preact.layers.fixed_padding" in archive.read("config.json")
    model = keras.saving.load_model(SAVED, compile=False)
    assert model.count_params() == 273_658
    received = keras.ops.convert_to_numpy(model(X))
    np.testing.assert_allclose(received, PROBABILITIES, rtol=0, atol=TOLERANCE)


def test_shipped_weights_give_the_same_scores():
    model = keras_preact.PreActResNet20(weights="cifar10", classifier_activation=None)
    received = keras.ops.convert_to_numpy(model(X))
    assert np.abs(received - LOGITS).max() <= TOLERANCE * np.abs(LOGITS).max()


@pytest.mark.parametrize("name", ["Conv2D", "BatchNormalization", "MaxPooling2D", "StackedUnits"])
def test_registered_names_stay(name):
    layer = getattr(keras_preact.layers, name)
    assert keras.saving.get_registered_name(layer) == f"keras_preact>{name}"
