"""Average precision against scikit-learn's, and its mean."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from training.average_precision import (
    average_precision,
    average_precisions,
    mean_average_precision,
)
from training.compiling import BinaryCrossentropy, binary_crossentropy
from training.label_evaluation import measured_labels


@pytest.mark.parametrize("levels", [0, 2, 5, 1], ids=lambda levels: f"{levels} levels")
def test_average_precision_is_scikit_learns(levels):
    rng = np.random.default_rng(0)
    for images in (1, 2, 17, 400):
        for share in (0.02, 0.5, 1.0):
            scores = rng.random(images).astype("float32")
            # Images of the same score count together.
            scores = np.floor(scores * levels) if levels else scores
            positive = rng.random(images) < share
            positive[rng.integers(images)] = True
            wanted = average_precision_score(positive, scores)
            assert average_precision(scores, positive) == pytest.approx(wanted, abs=1e-12)


def test_average_precision_by_hand():
    scores = np.array([0.9, 0.8, 0.7, 0.6])
    # The hits are the first and the third of four: (1/1 + 2/3) / 2.
    assert average_precision(scores, np.array([1, 0, 1, 0])) == pytest.approx(5 / 6)
    # In any order: one hit among four of the same score.
    assert average_precision(np.zeros(4), np.array([1, 0, 0, 0])) == 0.25
    assert average_precision(scores, np.zeros(4)) is None


def test_the_mean_is_over_labels_that_some_image_has():
    scores = np.array([[0.9, 0.1, 0.5], [0.8, 0.2, 0.5], [0.1, 0.3, 0.4]])
    targets = np.array([[0, 1, 0], [1, 0, 0], [0, 0, 0]])
    assert average_precisions(scores, targets) == [0.5, pytest.approx(1 / 3), None]
    assert mean_average_precision(scores, targets) == pytest.approx((0.5 + 1 / 3) / 2)
    with pytest.raises(ValueError, match="At least one image must have a label"):
        mean_average_precision(scores, np.zeros((3, 3)))
    with pytest.raises(ValueError, match="NaN among them"):
        mean_average_precision(scores * np.nan, targets)


def test_results_of_labels():
    scores = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.3]], "float32")
    targets = np.array([[1, 0], [1, 0], [0, 0]], "float32")
    measured = measured_labels(scores, targets, ["sun", "rain"])
    assert measured.results() == {
        "images": 3,
        "mAP": 1.0,
        "loss": pytest.approx(binary_crossentropy(scores, targets)),
        "per_label": {"sun": 1.0, "rain": None},
        "images_with_label": {"sun": 2, "rain": 0},
    }
    assert measured.lines()[-2:] == ["  sun   100.00%  2", "  rain  no images"]
    assert measured_labels(scores * 9, targets, ["sun", "rain"]).loss is None


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_is_the_mean_over_labels(smoothing):
    rng = np.random.default_rng(0)
    given, labels = rng.random((4, 3)), (rng.random((4, 3)) < 0.5).astype("float64")
    smooth = labels * (1 - smoothing) + smoothing / 2
    wanted = -np.mean(smooth * np.log(given) + (1 - smooth) * np.log1p(-given))
    assert binary_crossentropy(given, labels, smoothing) == pytest.approx(wanted, rel=1e-12)
    loss = BinaryCrossentropy(label_smoothing=smoothing)(labels, given)
    assert float(loss) == pytest.approx(wanted, rel=1e-6)
    # A certain answer that is wrong has a large loss, and a right one none.
    assert binary_crossentropy(np.array([[1.0, 0.0]]), np.array([[1, 0]])) == 0
    assert 80 < binary_crossentropy(np.array([[0.0]]), np.array([[1]])) < 90
