"""`OracleTuner` on a few random images."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from keras_preact.tuning import OracleTuner, PreActHyperModel, SearchSpace, make_oracle
from tests.tuning.spaces import SHAPE, TINY

IMAGES = np.random.default_rng(0).random((24, *SHAPE), "float32")
LABELS = np.arange(24) % 10


class Epochs(keras.callbacks.Callback):
    """List of the epochs that each `fit` ran, with the weights that it began with."""

    def __init__(self):
        super().__init__()
        self.epochs = []
        self.begun = []

    def __deepcopy__(self, memo):
        # KerasTuner copies callbacks for each trial.
        return self

    def on_train_begin(self, logs=None):
        self.epochs.append([])
        self.begun.append(self.model.get_weights())

    def on_epoch_begin(self, epoch, logs=None):
        self.epochs[-1].append(epoch)


@pytest.mark.parametrize("name", ["hyperband", "bayesian_halving"])
def test_continued_trials_get_their_epochs_and_weights(name, tmp_path):
    space = SearchSpace(learning_rate=(0.01, 0.02, 0.03))
    hypermodel = PreActHyperModel(TINY, space, input_shape=SHAPE, classes=10)
    oracle = make_oracle(name, hypermodel, max_trials=4, max_epochs=3, promote_by="loss", factor=3)
    tuner = OracleTuner(oracle, hypermodel, directory=tmp_path)
    seen = Epochs()
    tuner.search(IMAGES, LABELS, validation_data=(IMAGES, LABELS), callbacks=[seen], verbose=0)
    assert seen.epochs == [[0], [0], [0], [1, 2]]
    trials = list(oracle.trials.values())
    best = min(trials[:3], key=lambda trial: trial.metrics.get_best_value("loss"))
    assert trials[3].hyperparameters.values["tuner/trial_id"] == best.trial_id
    parent = hypermodel.build(best.hyperparameters)
    parent.load_weights(tuner._get_checkpoint_fname(best.trial_id))
    for weight, begun in zip(parent.get_weights(), seen.begun[3], strict=True):
        np.testing.assert_array_equal(weight, begun)
