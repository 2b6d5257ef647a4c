"""Calibration against problems whose answer is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.special import softmax

from keras_preact.analysis import draw_reliability, fit_temperature, reliability

# Three of four are right where the odds are three to one.
LOGITS = np.tile([np.log(3), 0.0], (4, 1))
LABELS = np.array([0, 0, 0, 1])


@pytest.mark.parametrize("factor", [0.3, 1.0, 2.5, 40.0])
def test_the_temperature_undoes_a_scale(factor):
    assert fit_temperature(factor * LOGITS, LABELS) == pytest.approx(factor, rel=1e-6)
    # Scores of one image may all be larger; logarithms of probabilities are such scores.
    assert fit_temperature(factor * LOGITS + 7, LABELS) == pytest.approx(factor, rel=1e-6)
    log_probabilities = np.log(softmax(factor * LOGITS, axis=1))
    assert fit_temperature(log_probabilities, LABELS) == pytest.approx(factor, rel=1e-6)


def test_a_calibrated_net_has_no_error():
    assert reliability(softmax(LOGITS, axis=1), LABELS).expected_error == pytest.approx(0)


def test_gaps_are_weighted_by_images():
    # Two images at 0.9, one of them right: a gap of 0.4. Two at 0.6, both right: one of -0.4.
    # And four at 0.7, three right: -0.05.
    first = np.array([0.9, 0.9, 0.6, 0.6, 0.7, 0.7, 0.7, 0.7])
    labels = np.array([0, 1, 0, 0, 0, 0, 0, 1])
    measured = reliability(np.stack([first, 1 - first], 1), labels, bins=10)
    assert measured.counts.tolist() == [0, 0, 0, 0, 0, 2, 4, 0, 2, 0]
    np.testing.assert_allclose(measured.gaps[[5, 6, 8]], [-0.4, -0.05, 0.4])
    assert measured.expected_error == pytest.approx((2 * 0.4 + 4 * 0.05 + 2 * 0.4) / 8)
    assert measured.maximum_error == pytest.approx(0.4)


@pytest.mark.parametrize(("bins", "expected"), [(10, 0.0552811), (15, 0.0512329)])
def test_errors_that_torchmetrics_finds(bins, expected):
    """The sample holds logits of `PreActResNet20` for every twentieth test image of CIFAR-10.

    The figures are those of `multiclass_calibration_error` in torchmetrics 1.9.0, with the norms
    `l1` and `max`. It adds up in float32: 500 confidences, each within the unit roundoff of 6e-8.
    """
    with np.load(Path(__file__).with_name("cifar10_logits.npz")) as sample:
        probabilities = softmax(sample["logits"].astype("float64"), axis=1)
        measured = reliability(probabilities, sample["labels"], bins)
    assert measured.expected_error == pytest.approx(expected, abs=3e-6)
    if bins == 15:
        assert measured.maximum_error == pytest.approx(0.4385125, abs=3e-6)


def test_certainty_falls_into_the_last_bin_and_chance_into_its_own():
    measured = reliability([[1.0, 0.0], [0.5, 0.5]], [0, 0], bins=2)
    assert measured.counts.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        ([[0.5, 0.5]], [0, 1], r"`\(images, classes\)`.*Received: \(1, 2\) and \(2,\)"),
        ([[0.5, 0.5]], [2], "whole numbers from 0 to 1. Received: int64, 2"),
        ([[0.5, 0.5]], [0.0], "whole numbers from 0 to 1. Received: float64"),
        ([[0.5, 0.9]], [0], "sum to 1.4"),
        ([[1.5, -0.5]], [0], "least value -0.5"),
        ([[0.5, 0.5], [np.nan, 0.5]], [0, 0], "must be numbers. Received: NaN for 1 of 2 images"),
    ],
)
def test_what_is_no_probability_is_refused(scores, labels, message):
    with pytest.raises(ValueError, match=message):
        reliability(scores, labels)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_probabilities_of_16_bits(dtype):
    logits = np.random.default_rng(0).standard_normal((100, 10)).astype(dtype)
    # Of JAX, TensorFlow and torch, up to 0.006 from 1.
    rounded = (softmax(logits.astype("float32"), axis=1) * 1.005).astype(dtype)
    measured = reliability(rounded, np.zeros(100, int))
    assert measured.counts.sum() == 100
    with pytest.raises(ValueError, match="sum to 0.9"):
        reliability(rounded * np.array(0.95, dtype), np.zeros(100, int))


def test_no_temperature_fits_predictions_that_are_all_right():
    with pytest.raises(ValueError, match="all right"):
        fit_temperature([[1.0, 0.0], [0.0, 1.0]], [0, 1])
    with pytest.raises(ValueError, match="must be numbers. Received: NaN for 1 of 2 images"):
        fit_temperature([[1.0, 0.0], [0.0, np.nan]], [0, 1])


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_a_true_class_of_probability_zero_is_told():
    with np.errstate(divide="ignore"):
        logarithms = np.log([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [1.0, 0.0]])
    with pytest.raises(ValueError, match="infinite scores for 1 of 4 images"):
        fit_temperature(logarithms, np.array([0, 1, 1, 1]))
    # Another class may have it.
    assert fit_temperature(logarithms, np.array([0, 1, 1, 0])) > 0


def test_picture(tmp_path):
    measured = {"$5_to_$10": reliability(softmax(LOGITS, axis=1), LABELS)}
    draw_reliability(tmp_path / "reliability.svg", measured)
    assert "$5_to_$10: expected error 0.00%" in (tmp_path / "reliability.svg").read_text()
