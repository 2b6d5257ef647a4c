import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from training.augmentation import augment, rand_augment

SEED = tf.constant([3, 4], tf.int64)
MEAN_COLOR = (1, 2, 3)


def photographs(batch=6, height=10, width=12, channels=3):
    shape = (batch, height, width, channels)
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.float32)


def one_hot(batch=6, classes=6):
    return tf.one_hot(tf.range(batch) % classes, classes)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_pad_and_crop_takes_a_window_of_the_padded_image(dtype):
    images = photographs(32).astype(dtype)
    cropped = augment.pad_and_crop(tf.constant(images), SEED, pad=2, fill=MEAN_COLOR).numpy()
    assert cropped.dtype == dtype
    corners = set()
    for image, crop in zip(images, cropped, strict=True):
        padded = np.empty((14, 16, 3), dtype)
        padded[:] = MEAN_COLOR
        padded[2:-2, 2:-2] = image
        matches = [
            (row, column)
            for row in range(5)
            for column in range(5)
            if np.array_equal(padded[row : row + 10, column : column + 12], crop)
        ]
        assert len(matches) == 1
        corners.add(matches[0])
    assert {row for row, _ in corners} == {column for _, column in corners} == set(range(5))


def test_random_flip_mirrors_half_of_the_images():
    images = photographs(200)
    flipped = augment.random_flip(tf.constant(images), SEED).numpy()
    same = (flipped == images).all(axis=(1, 2, 3))
    mirrored = (flipped == images[:, :, ::-1]).all(axis=(1, 2, 3))
    assert (same | mirrored).all()
    assert 70 < mirrored.sum() < 130


def test_random_boxes():
    height, width = 300, 400
    boxes = np.array(
        [
            augment.random_box(tf.constant([height, width, 3]), [1, number], min_area=0.25)
            for number in range(300)
        ]
    )
    top, left, box_height, box_width = boxes.T
    assert (top >= 0).all() and (top + box_height <= height).all()
    assert (left >= 0).all() and (left + box_width <= width).all()
    area = box_height * box_width / (height * width)
    assert 0.24 < area.min() < 0.35 and 0.8 < area.max() <= 1
    ratio = box_width / box_height
    assert 0.73 < ratio.min() < 0.85 and 1.2 < ratio.max() < 1.36


def test_no_box_fits_in_a_line():
    box = augment.random_box(tf.constant([1, 50, 3]), SEED, min_area=0.5)
    assert box.numpy().tolist() == [0, 0, 1, 50]


def test_cutout_blanks_one_square_of_each_image():
    images = photographs(300) + 1
    cut = augment.cutout(tf.constant(images), SEED, size=4).numpy()
    blank = (cut == 0).all(axis=-1)
    np.testing.assert_array_equal(cut[~blank], images[~blank])
    rows, columns = blank.any(axis=2), blank.any(axis=1)
    np.testing.assert_array_equal(blank, rows[:, :, None] & columns[:, None, :])
    for lines in (rows, columns):
        assert (np.abs(np.diff(lines.astype(int))).sum(axis=1) <= 2).all()
        assert set(lines.sum(axis=1)) == {2, 3, 4}


def test_mixup_blends_images_and_labels_by_one_weight():
    images, labels = tf.constant(photographs()), one_hot()
    mixed_images, mixed_labels = augment.mixup(images, labels, SEED, alpha=1.0)
    weight = float(mixed_labels[0, 0])
    assert 0.01 < weight < 0.99
    np.testing.assert_allclose(mixed_labels, weight * labels + (1 - weight) * labels[::-1])
    np.testing.assert_allclose(
        mixed_images, weight * images + (1 - weight) * images[::-1], rtol=1e-5
    )


def test_cutmix_pastes_a_box_and_weighs_labels_by_its_area():
    labels = one_hot()
    images = tf.broadcast_to(tf.range(6.0)[:, None, None, None], [6, 10, 12, 3])
    areas = set()
    for number in range(20):
        mixed_images, mixed_labels = augment.cutmix(images, labels, [1, number], alpha=1.0)
        pasted = mixed_images.numpy()[0, :, :, 0] == 5
        rows, columns = pasted.any(axis=1), pasted.any(axis=0)
        np.testing.assert_array_equal(pasted, rows[:, None] & columns)
        for first, mixed in enumerate(mixed_images.numpy()):
            np.testing.assert_array_equal(mixed[..., 0], np.where(pasted, 5 - first, first))
        kept = 1 - pasted.mean()
        np.testing.assert_allclose(
            mixed_labels, kept * labels + (1 - kept) * labels[::-1], atol=1e-6
        )
        areas.add(pasted.sum())
    assert len(areas) > 5


@pytest.mark.parametrize("mixup_alpha, cutmix_alpha", [(0.2, 0), (0, 1.0), (0.2, 1.0), (0, 0)])
def test_mixed_labels_sum_to_one(mixup_alpha, cutmix_alpha):
    for number in range(5):
        _, labels = augment.mix(
            tf.constant(photographs()),
            one_hot(),
            [2, number],
            mixup_alpha=mixup_alpha,
            cutmix_alpha=cutmix_alpha,
        )
        np.testing.assert_allclose(tf.reduce_sum(labels, axis=1), 1, rtol=1e-6)


def test_mixup_and_cutmix_take_turns():
    images, labels = tf.constant(photographs()), one_hot()
    blended = 0
    for number in range(60):
        mixed, _ = augment.mix(images, labels, [2, number], mixup_alpha=1.0, cutmix_alpha=1.0)
        pasted = (mixed == images) | (mixed == images[::-1])
        blended += not bool(tf.reduce_all(pasted))
    assert 18 < blended < 42


@pytest.mark.parametrize("alpha", [0.01, 0.2, 1.0, 4.0])
def test_beta_has_the_right_moments(alpha):
    draw = tf.function(lambda number: augment._beta(tf.stack([5, number]), alpha))
    draws = np.array([draw(number) for number in tf.range(800)])
    assert np.isfinite(draws).all()
    np.testing.assert_allclose(draws.mean(), 0.5, atol=0.06)
    np.testing.assert_allclose(draws.var(), 1 / (4 * (2 * alpha + 1)), rtol=0.15)


@pytest.mark.parametrize(
    "function, dtype, options",
    [
        (augment.pad_and_crop, "float32", {"pad": 3, "fill": MEAN_COLOR}),
        (augment.random_crop, "float32", {"height": 5, "width": 9}),
        (augment.random_flip, "float32", {}),
        (augment.cutout, "float32", {"size": 4}),
        (rand_augment.rand_augment, "uint8", {"layers": 2, "magnitude": 9.0}),
    ],
)
def test_the_seed_decides(function, dtype, options):
    images = tf.constant(photographs(16), dtype)
    first = function(images, SEED, **options)
    np.testing.assert_array_equal(first, function(images, SEED, **options))
    assert np.any(first != function(images, SEED + 1, **options))


def test_rand_augment_at_no_magnitude_changes_contrast_alone():
    """Without strength only the two operations that have none change the image."""
    images = photographs(40).astype(np.uint8)
    images[..., 0] //= 2
    result = rand_augment.rand_augment(tf.constant(images), SEED, layers=1, magnitude=0)
    changed = np.any(np.abs(result - images.astype(float)) > 1, axis=(1, 2, 3))
    assert 0 < changed.sum() < 16


def test_rand_augment_stays_within_range():
    images = tf.constant(np.clip(photographs(64) * 1.2 - 20, 0, 255), tf.uint8)
    result = rand_augment.rand_augment(images, SEED, layers=3, magnitude=10.0).numpy()
    assert result.dtype == np.uint8 and result.shape == images.shape
    assert result.min() == 0 and result.max() == 255
    np.testing.assert_array_equal(result, np.round(result))


def test_rand_augment_clips_to_gray_levels(monkeypatch):
    image = tf.constant(photographs(1)[0], tf.uint8)
    monkeypatch.setattr(rand_augment, "OPERATIONS", (lambda image, level: 2 * image - 60.6,))
    result = rand_augment.rand_augment(image[tf.newaxis], SEED, layers=1, magnitude=10.0)
    expected = np.clip(np.round(2.0 * image.numpy() - 60.6), 0, 255)
    assert expected.min() == 0 and expected.max() == 255
    np.testing.assert_array_equal(result[0], expected)


def pillow(image):
    return Image.fromarray(image.astype(np.uint8))


@pytest.mark.parametrize(
    "operation, level, reference, tolerance",
    [
        (rand_augment._equalize, 0.5, ImageOps.equalize, 0),
        (rand_augment._autocontrast, 0.5, ImageOps.autocontrast, 1),
        (rand_augment._solarize, 0.5, lambda image: ImageOps.solarize(image, 128), 0),
        (rand_augment._posterize, -1.0, lambda image: ImageOps.posterize(image, 4), 0),
    ],
)
def test_operations_equal_pillow(operation, level, reference, tolerance):
    image = np.round(photographs(1)[0] * 0.7 + 30)
    result = tf.round(operation(tf.constant(image, tf.float32), tf.constant(level)))
    np.testing.assert_allclose(result, np.asarray(reference(pillow(image))), atol=tolerance)


@pytest.mark.parametrize("level", [-0.8, 0.8])
@pytest.mark.parametrize("name", ["Color", "Contrast", "Brightness", "Sharpness"])
def test_enhancements_equal_pillow(name, level):
    from PIL import ImageEnhance

    image = photographs(1)[0] * 0.3 + 90
    image = np.round(image)
    operation = getattr(rand_augment, f"_{name.lower()}")
    result = tf.clip_by_value(operation(tf.constant(image, tf.float32), tf.constant(level)), 0, 255)
    expected = getattr(ImageEnhance, name)(pillow(image)).enhance(1 + 0.9 * level)
    np.testing.assert_allclose(result, np.asarray(expected, np.float32), atol=2)


def test_rotation_by_a_right_angle(monkeypatch):
    monkeypatch.setattr(rand_augment, "MAX_ROTATION", np.pi / 2)
    image = photographs(1, 9, 9)[0]
    result = rand_augment._rotate(tf.constant(image), tf.constant(1.0))
    np.testing.assert_allclose(result, np.rot90(image), atol=0.1)


@pytest.mark.parametrize("level", [-0.7, 0.9])
@pytest.mark.parametrize(
    "name, transform",
    [
        ("rotate", lambda level, cos, sin: (cos, -sin, 0, sin, cos, 0)),
        ("shear_x", lambda level, cos, sin: (1, 0.3 * level, 0, 0, 1, 0)),
        ("shear_y", lambda level, cos, sin: (1, 0, 0, 0.3 * level, 1, 0)),
        ("translate_x", lambda level, cos, sin: (1, 0, 30 * 150 / 331 * level, 0, 1, 0)),
        ("translate_y", lambda level, cos, sin: (1, 0, 0, 0, 1, 20 * 150 / 331 * level)),
    ],
)
def test_movements_equal_keras(name, transform, level):
    image = photographs(1, 20, 30)[0]
    angle = np.radians(30 * level)
    a, b, shift_x, c, d, shift_y = transform(level, np.cos(angle), np.sin(angle))
    # Keras measures from the corner.
    shift_x += 14.5 - a * 14.5 - b * 9.5
    shift_y += 9.5 - c * 14.5 - d * 9.5
    matrix = np.array([a, b, shift_x, c, d, shift_y, 0, 0], np.float32)
    expected = keras.ops.image.affine_transform(
        image, matrix, fill_mode="constant", fill_value=rand_augment.FILL
    )
    result = getattr(rand_augment, f"_{name}")(tf.constant(image), tf.constant(level))
    np.testing.assert_allclose(result, expected, atol=0.01)


def test_translation():
    image = photographs(1, 10, 331)[0]
    result = rand_augment._translate_x(tf.constant(image), tf.constant(0.1)).numpy()
    np.testing.assert_allclose(result[:, :-15], image[:, 15:], atol=0.1)
    np.testing.assert_array_equal(result[:, -15:], rand_augment.FILL)
    image = photographs(1, 331, 10)[0]
    result = rand_augment._translate_y(tf.constant(image), tf.constant(-0.1)).numpy()
    np.testing.assert_allclose(result[15:], image[:-15], atol=0.1)


def test_shear_moves_rows_in_proportion_to_their_distance_from_the_center():
    image = np.tile(np.arange(41, dtype=np.float32)[None, :, None], [11, 1, 3])
    result = rand_augment._shear_x(tf.constant(image), tf.constant(1.0)).numpy()
    offsets = result[:, 20, 0] - 20
    np.testing.assert_allclose(offsets, 0.3 * (np.arange(11) - 5), atol=1e-3)
    upright = rand_augment._shear_y(tf.constant(image.transpose(1, 0, 2)), tf.constant(1.0))
    np.testing.assert_allclose(upright, result.transpose(1, 0, 2), atol=1e-3)
