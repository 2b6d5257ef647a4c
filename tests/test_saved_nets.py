"""Nets that were saved before modules moved load, and give the scores that they gave then."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest

import keras_preact

# Its configuration names modules that are no more, such as `keras_preact.layers.fixed_padding`.
SAVED = Path(__file__).parents[1] / "benchmarks" / "results" / "cifar_one_cycle" / "model.keras"
X = np.random.default_rng(0).standard_normal((2, 32, 32, 3)).astype("float32")
# Scores of before the move: probabilities of the saved net, logits of the shipped weights.
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
            *(-0.2598827, -5.4824514, 4.5194306, 4.3670173, 2.8352752),
            *(-3.0230947, 8.702964, -6.2830396, -3.941834, -1.4325616),
        ],
        [
            *(-1.738805, -4.4995093, 5.4373765, 3.8411875, 2.7675996),
            *(-3.404605, 8.946097, -5.2408733, -3.5219502, -2.5847964),
        ],
    ]
)
# Twenty layers in float32, one after another.
TOLERANCE = 2e-5


def test_a_keras_file_loads_though_modules_moved():
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
