"""Weights of classes, against scikit-learn's and Keras's own."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight

from tests.training.shards import record, write_shard
from training.class_weight import class_weights
from training.engines.batches import DeviceBatches
from training.engines.devices import one_device
from training.engines.pipelines import PipelineBatches, labels_of
from training.loading.image_set import load_image_set
from training.recipe import Recipe, preprocessing_of
from training.sources import ImageSource, IndexedSplit, open_source

RECIPE = Recipe(
    input_size=8, channels=1, mean=(0.3,), std=(0.4,), crop="pad", batch_size=16, mixup_alpha=0.0
)


def test_balanced_is_as_in_scikit_learn():
    labels = np.repeat([0, 1, 2], [1, 10, 4])
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    received = class_weights("balanced", [labels[:3], labels[3:]], 3)
    np.testing.assert_allclose(received, expected, rtol=1e-6)
    assert class_weights("balanced", [np.array([0, 0])], 2).tolist() == [1, 0]
    assert class_weights("none", [], 3) is None


def test_labels_are_counted_without_reading_an_image():
    names = [f"nowhere/{number}.jpg" for number in range(5)]
    source = ImageSource("none", ("a", "b"), {"train": IndexedSplit(names, [0, 1, 1, 1, 0])})
    assert np.concatenate(list(labels_of(source))).tolist() == [0, 1, 1, 1, 0]


def test_labels_of_records_that_runs_leave_out_are_not_counted(tmp_path):
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    records = [record(b"", label) for label in (0, 2, 1, -1, 1, 10**9)]
    write_shard(tmp_path / "train-0.tfrecord", [*records, b"no example", record(b"", 1)])
    assert np.concatenate(list(labels_of(open_source(str(tmp_path))))).tolist() == [0, 1, 1, 1]


@pytest.mark.parametrize("on_device", [False, True])
def test_every_loader_weighs_the_loss_as_keras_does(on_device):
    weights = np.linspace(0.5, 2, 10, dtype="float32")
    if on_device:
        images = load_image_set("digits", preprocessing_of(RECIPE))
        batches = DeviceBatches(images, RECIPE, one_device(), weights)
    else:
        batches = PipelineBatches(open_source("digits"), RECIPE, one_device(), weights)
    maps = keras.Input((8, 8, 1))
    scores = keras.layers.Dense(10, activation="softmax")(keras.layers.Flatten()(maps))
    model = batches.model(keras.Model(maps, scores))
    model.compile(keras.optimizers.SGD(0.0), "categorical_crossentropy")
    images, labels, sample_weights = (np.asarray(part) for part in next(iter(batches.training(3))))
    np.testing.assert_allclose(sample_weights, weights[labels.argmax(-1)], rtol=1e-6)
    by_class = model.train_on_batch(images, labels, class_weight=dict(enumerate(weights)))
    by_image = model.test_on_batch(images, labels, sample_weights)
    assert by_image == pytest.approx(by_class, rel=1e-5)
    assert by_image != pytest.approx(model.test_on_batch(images, labels), rel=1e-3)
