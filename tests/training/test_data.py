import io
import json
import logging
import time
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_preact.preprocessing import decode_image
from tests.training.paths import DATA
from tests.training.shards import record, write_shard
from training import data
from training.loading import decoded, reading
from training.loading.decoded import DecodedImages
from training.loading.reading import untuned
from training.recipe import Recipe
from training.sources import open_source

PHOTOGRAPHS = DATA / "imagenet-samples.tar"
# Pixels come out of the pipeline as they went in.
PLAIN = {"mean": (0.0,) * 3, "std": (1 / 255,) * 3, "crop_fraction": 1.0, "flip": False}
# Values of the recipes of these tests, unless a test changes them.
DEFAULTS = {"batch_size": 4, "input_size": 8, "crop": "none", "epochs": 2, **PLAIN}
AUGMENTED = {
    "flip": True,
    "color_jitter": 0.4,
    "lighting": 0.1,
    "rand_augment_layers": 1,
    "cutout": 4,
    "mixup_alpha": 0.2,
    "cutmix_alpha": 1.0,
}


def recipe(**changes):
    return Recipe(**{**DEFAULTS, **changes})


def image_bytes(value, kind="PNG", mode="RGB", size=(8, 8), **options):
    file = io.BytesIO()
    Image.new("RGB", size, (value,) * 3).convert(mode).save(file, kind, **options)
    return file.getvalue()


def write_folder(root, train=10, test=3, size=(8, 8)):
    """Two classes of gray images, each of another shade: 10 times its number."""
    for split, count in (("train", train), ("test", test)):
        for index in range(count):
            path = root / split / ("cat", "dog")[index % 2] / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(image_bytes(10 * index, size=size))
    return root


def write_records(root, train=10):
    root.mkdir(exist_ok=True)
    (root / "classes.json").write_text(json.dumps(["cat", "dog"]))
    records = [record(image_bytes(10 * index), index % 2) for index in range(train)]
    for shard in range(3):
        write_shard(root / f"train-{shard}.tfrecord", records[shard::3])
    return root


def make_source(kind, root):
    return open_source(str({"files": write_folder, "records": write_records}[kind](root)))


def take(dataset, batches):
    return [
        (images.copy(), labels.copy())
        for images, labels in dataset.take(batches).as_numpy_iterator()
    ]


def shades(batches):
    """Number of each image, told by its shade."""
    return [int(round(float(image[0, 0, 0]) / 10)) for images, _ in batches for image in images]


def assert_equal_batches(first, second):
    assert len(first) == len(second)
    for (images, labels), (other_images, other_labels) in zip(first, second, strict=True):
        np.testing.assert_array_equal(images, other_images)
        np.testing.assert_array_equal(labels, other_labels)


@pytest.fixture(params=["memory", "files", "records"])
def pipeline(request, tmp_path, monkeypatch):
    """Return a source and a limit of memory that lead to each way of reading."""
    if request.param != "memory":
        monkeypatch.setitem(DEFAULTS, "cache_gib", 0)
    return make_source("records" if request.param == "records" else "files", tmp_path)


def test_batches_have_the_shape_of_the_contract(pipeline):
    values = recipe(batch_size=5, crop="random_resized", **AUGMENTED)
    dataset = data.training_pipeline(pipeline, values)
    assert dataset.element_spec == (
        tf.TensorSpec((5, 8, 8, 3), tf.float32),
        tf.TensorSpec((5, 2), tf.float32),
    )
    images, labels = next(iter(dataset))
    assert np.isfinite(images).all()
    np.testing.assert_allclose(tf.reduce_sum(labels, axis=1), 1, rtol=1e-6)


def test_each_epoch_shows_every_image_once_in_another_order(pipeline):
    """With its label; and another seed gives other batches."""
    values = recipe(batch_size=5)
    batches = take(data.training_pipeline(pipeline, values), 6)
    for batch in batches:
        expected = np.eye(2)[np.array(shades([batch])) % 2]
        np.testing.assert_array_equal(batch[1], expected)
    (other,) = take(data.training_pipeline(pipeline, values.replace(seed=1)), 1)
    assert np.any(other[0] != batches[0][0])
    epochs = [shades(batches[start : start + 2]) for start in (0, 2, 4)]
    for epoch in epochs:
        assert sorted(epoch) == list(range(10))
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]


def test_the_orders_of_epochs_are_as_many_as_they_can_be(tmp_path):
    """Each is a permutation of its own, and every image comes as often in every place."""
    source, epochs = make_source("files", tmp_path), 400
    values = recipe(batch_size=10)
    pipelines = [data.training_pipeline(source, values.replace(seed=seed)) for seed in (0, 1)]
    orders = np.array([shades(take(each, epochs)) for each in pipelines]).reshape(-1, 10)
    # Of 10! orders, drawn at random, 0.1 pairs are expected to be the same.
    assert len(np.unique(orders, axis=0)) >= 2 * epochs - 2
    counts = np.array([np.bincount(place, minlength=10) for place in orders.T])
    # A binomial distribution has this deviation; of 100 counts the largest is 2.6 of them away.
    deviation = np.sqrt(len(orders) * 0.1 * 0.9)
    assert np.abs(counts - len(orders) / 10).max() < 4.5 * deviation


@pytest.mark.parametrize("batch_size", [4, 25])
def test_an_epoch_may_be_several_passes(pipeline, batch_size):
    """Each pass has an order of its own, and ends within a batch or takes up several."""
    values = recipe(batch_size=batch_size, epoch_steps=5)
    batches = take(data.training_pipeline(pipeline, values), 10)
    shown = shades(batches)
    passes = [shown[start : start + 10] for start in range(0, len(shown), 10)]
    assert len(passes) == batch_size
    for each in passes[: batch_size // 2]:
        assert sorted(each) == list(range(10))
    assert len({tuple(each) for each in passes}) == len(passes)
    rest = take(data.training_pipeline(pipeline, values, first_step=5), 5)
    assert_equal_batches(batches[5:], rest)


def test_random_crops_of_the_whole_image(tmp_path):
    """A gradient from left to right says where a crop was taken, and that nothing is cut before."""
    root = write_folder(tmp_path)
    shade = np.linspace(0, 250, 32).astype(np.uint8)
    for path in root.glob("*/*/*.png"):
        Image.fromarray(np.tile(shade[None, :, None], (8, 1, 3))).save(path)
    values = recipe(crop="random", resize_size=16, batch_size=10, interpolation="bilinear")
    for cache_gib in (1, 0):
        dataset = data.training_pipeline(
            open_source(str(root)), values.replace(cache_gib=cache_gib)
        )
        images = np.concatenate([images for images, _ in take(dataset, 20)])
        assert images.shape == (200, 8, 8, 3)
        # Halved in width and doubled in height, the image has 16 steps of about 16 shades.
        first = np.round(images[:, 0, 0, 0] / (250 / 16) - 0.25).astype(int)
        assert set(first) == set(range(9))
        np.testing.assert_allclose(np.diff(images[:, 0, :, 0], axis=1), 16.1, atol=3)


# From the start of an epoch, and from within one.
@pytest.mark.parametrize(("crop", "step"), [("pad", 4), ("random_resized", 5)])
def test_a_resumed_run_sees_the_same_batches(pipeline, crop, step):
    values = recipe(crop=crop, pad=1, **AUGMENTED | {"rand_augment_layers": 0})
    steps = data.steps_per_epoch(pipeline, values)
    assert steps == 2
    tf.random.set_seed(1)
    whole = take(data.training_pipeline(pipeline, values), 4 * steps)
    tf.random.set_seed(2)
    rest = take(data.training_pipeline(pipeline, values, first_step=step), 4 * steps - step)
    assert_equal_batches(whole[step:], rest)


def take_parts(make, workers, batches):
    """Return batches that several workers share, put together again."""
    contexts = [tf.distribute.InputContext(workers, worker) for worker in range(workers)]
    parts = [take(make(context), batches) for context in contexts]
    return [
        tuple(np.concatenate(each) for each in zip(*batch, strict=True))
        for batch in zip(*parts, strict=True)
    ]


def test_workers_share_the_batches_of_a_single_process(pipeline):
    values = recipe(batch_size=6, crop="pad", pad=1, epoch_steps=3)

    def make(context):
        return data.training_pipeline(pipeline, values, first_step=1, context=context)

    assert_equal_batches(take(make(None), 7), take_parts(make, 3, 7))


def test_workers_share_augmented_images(pipeline, request):
    """Where each reads its own images, mixup and CutMix stay within a part of the batch."""
    values = recipe(batch_size=6, epoch_steps=3, **AUGMENTED)

    def make(context):
        return data.training_pipeline(pipeline, values, context=context)

    parts = take_parts(make, 2, 6)
    if "memory" in request.node.callspec.id:
        assert_equal_batches(take(make(None), 6), parts)
    for images, labels in parts:
        assert np.isfinite(images).all()
        np.testing.assert_allclose(labels.sum(axis=1), 1, rtol=1e-6)
        assert not np.array_equal(images[:3], images[3:])


def test_workers_take_turns_at_the_test_images(tmp_path):
    source = make_source("files", tmp_path)
    contexts = [tf.distribute.InputContext(2, worker) for worker in range(2)]
    parts = [
        take(data.evaluation_pipeline(source, recipe(batch_size=2), context=context), 5)
        for context in contexts
    ]
    assert [shades(part) for part in parts] == [[0, 1], [2]]
    assert all(len(images) == 1 for part in parts for images, _ in part)


def test_evaluation_keeps_the_order_and_the_remainder(tmp_path):
    source = make_source("files", tmp_path)
    dataset = data.evaluation_pipeline(source, recipe(batch_size=2))
    for _ in range(2):
        batches = take(dataset, 9)
        assert [len(images) for images, _ in batches] == [2, 1]
        # The folders of the classes come one after the other.
        assert shades(batches) == [0, 2, 1]
        np.testing.assert_array_equal(batches[1][1], [[0, 1]])


def test_evaluation_is_what_preprocessing_makes_of_the_image(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 31, 3), np.uint8)
    for split in ("train", "test"):
        (tmp_path / split / "cat").mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / split / "cat" / "0.png")
    values = recipe(batch_size=1, crop_fraction=0.8, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))
    ((images, _),) = take(data.evaluation_pipeline(open_source(str(tmp_path)), values), 2)
    preprocessing = data.preprocessing_of(values)
    expected = preprocessing.normalize(preprocessing.resize_and_crop(pixels))
    np.testing.assert_allclose(images[0], expected, atol=1e-5)


def test_digits_in_one_channel():
    values = recipe(channels=1, mean=(0.0,), std=(1 / 255,), batch_size=200, crop="pad", pad=1)
    source = open_source("digits")
    assert data.steps_per_epoch(source, values) == 1437 // 200
    images, labels = take(data.training_pipeline(source, values), 1)[0]
    assert images.shape == (200, 8, 8, 1)
    assert labels.shape == (200, 10)
    sizes = [len(images) for images, _ in data.evaluation_pipeline(source, values)]
    assert sizes == [200, 160]


def test_batch_larger_than_the_set(tmp_path):
    source = make_source("files", tmp_path)
    with pytest.raises(ValueError, match="A batch of 11 is larger than .* which has 10 images"):
        data.training_pipeline(source, recipe(batch_size=11))


def test_missing_test_split(tmp_path):
    source = open_source(str(write_folder(tmp_path, test=0)))
    with pytest.raises(ValueError, match="no 'test' split"):
        data.evaluation_pipeline(source, recipe())


@pytest.mark.parametrize("crop", ["none", "random_resized"])
def test_images_of_any_size(tmp_path, crop):
    sizes = [(1, 1), (3, 40), (8, 8), (200, 90), (9, 8)]
    for index, size in enumerate(sizes):
        path = tmp_path / "train" / "cat" / f"{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image_bytes(50, kind="JPEG", size=size))
    values = recipe(crop=crop, batch_size=5, max_corrupt_images=0)
    images, _ = take(data.training_pipeline(open_source(str(tmp_path)), values), 1)[0]
    np.testing.assert_allclose(images, 50, atol=1)


FORMATS = {
    "jpeg": {"kind": "JPEG"},
    "gray jpeg": {"kind": "JPEG", "mode": "L"},
    "cmyk jpeg": {"kind": "JPEG", "mode": "CMYK"},
    "progressive jpeg": {"kind": "JPEG", "progressive": True},
    "png": {},
    "gray png": {"mode": "L"},
    "gray png with alpha": {"mode": "LA"},
    "png with alpha": {"mode": "RGBA"},
    "palette png": {"mode": "P"},
    "gif": {"kind": "GIF"},
    "bmp": {"kind": "BMP"},
    "webp": {"kind": "WEBP", "lossless": True},
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("options", FORMATS.values(), ids=FORMATS)
def test_decodes_every_format_to_the_wanted_channels(options, channels):
    encoded = tf.constant(image_bytes(102, size=(20, 10), **options))
    whole = decode_image(encoded, channels)
    part = reading.part_of(encoded, lambda shape: tf.constant([1, 2, 6, 8]), 4, channels)
    assert whole.shape == (10, 20, channels)
    assert part.shape == (6, 8, channels)
    for image in (whole, part):
        np.testing.assert_allclose(image.numpy().astype(int), 102, atol=1)


def test_animated_gif_gives_its_first_frame():
    file = io.BytesIO()
    frames = [Image.new("L", (6, 4), shade) for shade in (80, 200)]
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(decode_image(file.getvalue(), 3), np.full((4, 6, 3), 80))


def test_gray_is_kept_exactly():
    shades = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    encoded = tf.io.encode_png(shades)
    np.testing.assert_array_equal(decode_image(encoded, 1), shades)
    np.testing.assert_array_equal(decode_image(encoded, 3), np.repeat(shades, 3, axis=-1))


@pytest.mark.parametrize("scale", [1, 2, 4, 8])
@pytest.mark.parametrize("form", ["jpeg", "png", "pixels"])
def test_part_of_an_image_comes_at_a_fitting_scale(scale, form):
    # A smooth picture, which survives JPEG.
    rows, columns = np.mgrid[:160, :200].astype(np.float32)
    pixels = np.stack([rows, columns, (rows + columns) / 2], axis=-1)
    image = tf.constant(pixels.astype(np.uint8))
    if form == "jpeg":
        image = tf.io.encode_jpeg(image, quality=100)
    if form == "png":
        image = tf.io.encode_png(image)
    size = 96 // scale
    part = reading.part_of(image, lambda shape: tf.constant([16, 32, 96, 128]), size, 3)
    assert part.shape == (size, 128 // scale, 3)
    expected = pixels[16:112, 32:160].reshape(size, scale, -1, scale, 3).mean(axis=(1, 3))
    error = np.abs(part.numpy() - expected)
    assert error.mean() < 1.5
    if form != "jpeg":
        assert error.max() <= 1


def test_crops_from_memory_are_those_of_images_decoded_anew(tmp_path):
    """Some crops are several times as large as needed, and others smaller."""
    random = np.random.default_rng(0)
    for index, size in enumerate([(8, 8), (5, 40), (100, 90), (30, 20), (17, 300)]):
        path = tmp_path / "train" / "cat" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (*size, 3), np.uint8)).save(path)
    values = recipe(crop="random_resized", flip=True)
    source = open_source(str(tmp_path))
    kept, anew = (
        take_parts(
            lambda context, cache_gib=cache_gib: data.training_pipeline(
                source, values.replace(cache_gib=cache_gib), first_step=2, context=context
            ),
            2,
            6,
        )
        for cache_gib in (1, 0)
    )
    assert_equal_batches(kept, anew)


def test_whether_images_of_any_size_fit_into_memory(tmp_path):
    source = make_source("files", tmp_path)
    images = reading.ImageReader(source, "train", 0)
    assert DecodedImages.of(images, 3, 10 * 8 * 8 * 3) is not None
    assert DecodedImages.of(images, 3, 10 * 8 * 8 * 3 - 1) is None
    assert DecodedImages.of(images, 1, 10 * 8 * 8) is not None


def test_reading_ends_where_too_large_images_show(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(reading, "WHOLE", 2)
    monkeypatch.setattr(reading, "REPORT_EVERY", 0)
    images = reading.ImageReader(make_source("files", tmp_path), "train", 0)
    read = "Decoded {} of 10 images."
    # Those that are in memory already are too large.
    assert DecodedImages.of(images, 3, 3 * 8 * 8 * 3) is None
    assert capsys.readouterr().out.splitlines() == [read.format(2)]
    # All of them will be.
    monkeypatch.setattr(decoded, "SAMPLE", 4)
    assert DecodedImages.of(images, 3, 9 * 8 * 8 * 3) is None
    assert capsys.readouterr().out.splitlines() == [read.format(2)]


def test_long_decoding_says_how_far_it_is(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(reading, "CHUNK", 4)
    monkeypatch.setattr(reading, "WHOLE", 4)
    source = make_source("files", tmp_path)
    data.training_pipeline(source, recipe())
    assert "Decoded" not in capsys.readouterr().out
    monkeypatch.setattr(reading, "REPORT_EVERY", 0)
    lines = [f"Decoded {count} of 10 images." for count in (4, 8, 10)]
    for crop in ("none", "random_resized"):
        data.training_pipeline(source, recipe(crop=crop))
        assert capsys.readouterr().out.splitlines() == lines


def test_files_are_read_once_where_they_fit_into_memory(tmp_path):
    source = make_source("files", tmp_path)
    values = recipe(batch_size=2, max_corrupt_images=2)
    training = [
        data.training_pipeline(source, values.replace(crop=crop))
        for crop in ("none", "random_resized")
    ]
    testing = data.evaluation_pipeline(source, values)
    first = take(testing, 2)
    for path in tmp_path.glob("*/*/*.png"):
        path.unlink()
    for batches in training:
        assert sorted(shades(take(batches, 5))) == list(range(10))
    assert_equal_batches(take(testing, 2), first)
    for make in (data.training_pipeline, data.evaluation_pipeline):
        with pytest.raises(tf.errors.OpError, match="unreadable images"):
            take(make(source, values.replace(cache_gib=0)), 2)


BROKEN = {
    "empty": b"",
    "text": b"this is not an image",
    "truncated jpeg": image_bytes(9, "JPEG", size=(64, 64), quality=95)[:400],
    "truncated png": image_bytes(9)[:40],
    "header alone": image_bytes(9, "JPEG")[:4],
}


@pytest.mark.parametrize("cache_gib", [0, 1])
@pytest.mark.parametrize("crop", ["pad", "random_resized"])
def test_corrupt_images_are_named_and_skipped(tmp_path, caplog, cache_gib, crop):
    write_folder(tmp_path, train=20)
    for index, content in enumerate(BROKEN.values()):
        (tmp_path / "train" / "cat" / f"broken{index}.jpg").write_bytes(content)
    values = recipe(
        batch_size=5, crop=crop, pad=0, max_corrupt_images=len(BROKEN), cache_gib=cache_gib
    )
    source = open_source(str(tmp_path))
    assert data.steps_per_epoch(source, values) == 5
    with caplog.at_level(logging.WARNING):
        whole = take(data.training_pipeline(source, values), 15)
    for epoch in range(3):
        shown = shades(whole[5 * epoch : 5 * epoch + 5])
        # All that can be read, and some of them once more in place of the rest.
        assert sorted(shown[:20]) == list(range(20))
        assert len(set(shown[20:])) == 5
    for index in range(len(BROKEN)):
        lines = [record for record in caplog.messages if f"broken{index}.jpg" in record]
        assert len(lines) == 1, lines
    resumed = take(data.training_pipeline(source, values, first_step=5), 10)
    assert_equal_batches(whole[5:], resumed)


@pytest.mark.parametrize("cache_gib", [0, 1])
@pytest.mark.parametrize("crop", ["pad", "random_resized"])
def test_too_many_corrupt_images_stop_the_run(tmp_path, cache_gib, crop):
    write_folder(tmp_path)
    for index in range(3):
        (tmp_path / "train" / "dog" / f"broken{index}.png").write_bytes(b"")
    values = recipe(batch_size=13, max_corrupt_images=2, crop=crop, cache_gib=cache_gib)
    with pytest.raises(tf.errors.OpError, match="3 unreadable images.*only 2") as raised:
        take(data.training_pipeline(open_source(str(tmp_path)), values), 1)
    for index in range(3):
        assert f"broken{index}.png" in str(raised.value)


def test_no_readable_image_at_all(tmp_path):
    for index in range(3):
        path = tmp_path / "train" / "cat" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    values = recipe(batch_size=2, max_corrupt_images=10)
    with pytest.raises(tf.errors.OpError, match="one image at least must be readable"):
        take(data.training_pipeline(open_source(str(tmp_path)), values), 1)


def test_file_removed_after_the_source_was_opened(tmp_path, caplog):
    source = make_source("files", tmp_path)
    (tmp_path / "test" / "dog" / "1.png").unlink()
    batches = take(data.evaluation_pipeline(source, recipe()), 5)
    assert shades(batches) == [0, 2]
    assert "1.png" in caplog.text


def test_corrupt_images_at_the_end_of_an_evaluation(tmp_path, caplog):
    write_folder(tmp_path, test=3)
    for name in ("y", "z"):
        (tmp_path / "test" / "dog" / f"{name}.png").write_bytes(b"")
    source = open_source(str(tmp_path))
    dataset = data.evaluation_pipeline(source, recipe(max_corrupt_images=2))
    assert shades(take(dataset, 5)) == [0, 2, 1]
    assert "y.png" in caplog.text and "z.png" in caplog.text
    with pytest.raises(tf.errors.OpError, match="2 unreadable images.*only 1"):
        take(data.evaluation_pipeline(source, recipe(max_corrupt_images=1)), 5)


def test_record_with_a_label_that_is_no_class(tmp_path, caplog):
    write_records(tmp_path)
    (tmp_path / "classes.json").write_text('{"names": ["cat", "dog"], "first_label": 1}')
    values = recipe(batch_size=5, max_corrupt_images=5)
    take(data.training_pipeline(open_source(str(tmp_path)), values), 1)
    assert "train-0.tfrecord, record 0" in caplog.text
    assert "is none of" in caplog.text


def test_mirrored_strategy_trains_on_the_global_batch(tmp_path):
    source = make_source("records", tmp_path)
    values = recipe(crop="random_resized")
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    with strategy.scope():
        net = keras.Sequential(
            [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(2, "softmax")]
        )
        net.compile("sgd", "categorical_crossentropy")
    history = net.fit(
        data.training_pipeline(source, values), epochs=2, steps_per_epoch=2, verbose=0
    )
    assert len(history.history["loss"]) == 2


def test_an_iterator_of_a_strategy_can_be_deleted_while_it_reads():
    """Without the rewriting of its graph, TensorFlow 2.21 crashes here."""

    def wait(number):
        time.sleep(0.1)
        return number

    slow = tf.data.Dataset.range(9).map(lambda number: tf.numpy_function(wait, [number], tf.int64))
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    for _ in range(2):
        iterator = iter(strategy.experimental_distribute_dataset(untuned(slow.batch(1))))
        next(iterator)
        time.sleep(0.15)
        del iterator


def test_distributed_batches_are_shares_of_the_global_one(tmp_path):
    """The dataset can be cut into the batches of two replicas, the remainder too."""
    source = make_source("files", tmp_path)
    values = recipe(batch_size=2)
    for dataset, batches in (
        (data.training_pipeline(source, values), 2),
        (data.evaluation_pipeline(source, values), 2),
    ):
        whole = np.concatenate([images for images, _ in take(dataset, batches)])
        shares = np.concatenate([images for images, _ in take(dataset.rebatch(1), 2 * batches)])
        np.testing.assert_array_equal(shares, whole[: len(shares)])


def test_photographs(tmp_path):
    if not PHOTOGRAPHS.exists():
        pytest.skip("the photographs are not beside the repository: ../shared/data")
    import tarfile

    (tmp_path / "train" / "any").mkdir(parents=True)
    with tarfile.open(PHOTOGRAPHS) as archive:
        members = [member for member in archive.getmembers() if member.isfile()][:6]
        for member in members:
            content = archive.extractfile(member).read()
            (tmp_path / "train" / "any" / Path(member.name).name).write_bytes(content)
    values = Recipe(batch_size=6, schedule="constant", max_corrupt_images=0)
    source = open_source(str(tmp_path))
    images, _ = take(data.training_pipeline(source, values), 1)[0]
    whole, _ = take(data.evaluation_pipeline(source, values, "train"), 1)[0]
    # Crops of the same photographs: of like colors, but not the same.
    assert 0.5 < images.std() < 2 and np.abs(images.mean() - whole.mean()) < 0.5
    assert images.shape == whole.shape == (6, 224, 224, 3)
