"""Weights of classes, against scikit-learn's and Keras's own."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from sklearn.utils.class_weight import compute_class_weight

from tests.training.shards import record, write_shard
from training.class_weight import class_weights
from training.data import class_counts, training_pipeline
from training.engines.batches import DeviceBatches
from training.engines.devices import one_device
from training.engines.pipelines import PipelineBatches
from training.loading.image_set import load_image_set
from training.recipe import Recipe, preprocessing_of
from training.sources import ImageSource, IndexedSplit, open_source

RECIPE = Recipe(
    input_size=8,
    channels=1,
    mean=(0.3,),
    std=(0.4,),
    crop="pad",
    batch_size=16,
    mixup_alpha=0.0,
    class_weight="balanced",
)
COUNTS = np.array([20, 4, 8])
WEIGHTS = COUNTS.sum() / (3 * COUNTS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a set with `COUNTS` images of its classes."""
    folder = tmp_path_factory.mktemp("unequal")
    labels = np.repeat([0, 1, 2], COUNTS)
    pixels = np.random.default_rng(0).integers(0, 256, (len(labels), 8, 8), np.uint8)
    np.savez(folder / "few.npz", x_train=pixels, y_train=labels, x_test=pixels, y_test=labels)
    return str(folder)


def test_balanced_is_as_in_scikit_learn():
    labels = np.repeat([0, 1, 2], [1, 10, 4])
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    images = ImageSource("none", ("a", "b", "c"), {})
    received = class_weights("balanced", images, lambda: np.bincount(labels))
    np.testing.assert_allclose(received, expected, rtol=1e-6)
    assert class_weights("balanced", images, lambda: np.array([2, 0, 0])).tolist() == [1, 0, 0]
    assert class_weights("none", images, pytest.fail) is None


def test_labels_are_counted_without_reading_an_image():
    names = [f"nowhere/{number}.jpg" for number in range(5)]
    source = ImageSource("none", ("a", "b"), {"train": IndexedSplit(names, [0, 1, 1, 1, 0])})
    assert class_counts(source).tolist() == [2, 3]


def test_labels_of_records_that_runs_leave_out_are_not_counted(tmp_path):
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    records = [record(b"", label) for label in (0, 2, 1, -1, 1, 10**9)]
    write_shard(tmp_path / "train-0.tfrecord", [*records, b"no example", record(b"", 1)])
    assert class_counts(open_source(str(tmp_path))).tolist() == [1, 3]


@pytest.mark.parametrize("on_device", [False, True])
def test_every_loader_weighs_the_loss_as_keras_does(folder, on_device):
    if on_device:
        images = load_image_set(folder, preprocessing_of(RECIPE))
        batches = DeviceBatches(images, RECIPE, one_device())
    else:
        batches = PipelineBatches(open_source(folder), RECIPE, one_device())
    maps = keras.Input((8, 8, 1))
    scores = keras.layers.Dense(3, activation="softmax")(keras.layers.Flatten()(maps))
    model = batches.model(keras.Model(maps, scores))
    model.compile(keras.optimizers.SGD(0.0), "categorical_crossentropy")
    images, labels, sample_weights = (np.asarray(part) for part in next(iter(batches.training(3))))
    np.testing.assert_allclose(sample_weights, WEIGHTS[labels.argmax(-1)], rtol=1e-6)
    by_class = model.train_on_batch(images, labels, class_weight=dict(enumerate(WEIGHTS)))
    by_image = model.test_on_batch(images, labels, sample_weights)
    assert by_image == pytest.approx(by_class, rel=1e-5)
    assert by_image != pytest.approx(model.test_on_batch(images, labels), rel=1e-3)


@pytest.mark.parametrize("values", [{}, {"crop": "random_resized"}, {"cache_gib": 0}])
def test_pipelines_weigh_mixed_images_by_the_labels_of_all_workers(folder, values, monkeypatch):
    """In a part of a batch, from any step on, and with the labels counted once."""
    source, recipe = open_source(folder), RECIPE.replace(mixup_alpha=1.0, **values)
    assert training_pipeline(source, recipe).element_spec[2] == tf.TensorSpec([16], tf.float32)
    monkeypatch.setattr(source, "split", None)
    assert class_counts(source).tolist() == COUNTS.tolist()
    monkeypatch.undo()
    second = tf.distribute.InputContext(2, 1)
    part = training_pipeline(source, recipe, first_step=3, context=second)
    for _, labels, weights in part.take(3).as_numpy_iterator():
        assert len(weights) == 8 and np.any(labels.max(axis=-1) < 1)
        np.testing.assert_allclose(weights, labels @ WEIGHTS, rtol=1e-5)
