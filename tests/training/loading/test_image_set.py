"""Images decoded into memory against the pipeline of `tf.data`."""

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from keras_preact.preprocessing import Preprocessing
from tests.full_disk import full_disk
from training.loading import image_set
from training.loading.image_set import load_image_set
from training.recipe import load_recipe, preprocessing_of

tf_only = pytest.importorskip("tensorflow")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Gray images of two classes, in folders, and a cache of their own."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("test", 3)):
        for name in ("cat", "dog"):
            path = tmp_path / "images" / split / name
            path.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(256, size=(11 + number, 9), dtype=np.uint8)
                Image.fromarray(pixels).save(path / f"{number}.png")
    return tmp_path / "images"


def of_pipeline(data, recipe):
    from training.data import evaluation_pipeline
    from training.sources import open_source

    source = open_source(str(data))
    splits = [
        list(evaluation_pipeline(source, recipe, split).unbatch()) for split in ("train", "test")
    ]
    return [
        tuple(np.array([np.asarray(each[part]) for each in split]) for part in range(2))
        for split in splits
    ]


def check_like_pipeline(data, recipe):
    preprocessing = preprocessing_of(recipe)
    images = load_image_set(str(data), preprocessing)
    normalized = np.asarray(preprocessing.normalize(images.images.astype("float32")))
    for split, (pixels, labels) in zip(("train", "test"), of_pipeline(data, recipe), strict=True):
        places = images.places(split)
        assert images.num_examples(split) == len(pixels)
        np.testing.assert_array_equal(images.labels[places], labels.argmax(axis=-1))
        np.testing.assert_allclose(normalized[places], pixels, atol=1e-5)
    return images


def test_the_digits_are_those_of_the_pipeline():
    images = check_like_pipeline("digits", load_recipe("digits"))
    assert images.class_names == tuple("0123456789")


def test_a_folder_s_images_are_those_of_the_pipeline(folder):
    recipe = load_recipe("digits")
    first = check_like_pipeline(folder, recipe)
    # The second time they come from the cache.
    (cache,) = (folder.parent / "keras").rglob("*.npz")
    written = cache.stat().st_mtime_ns
    second = load_image_set(str(folder), preprocessing_of(recipe))
    np.testing.assert_array_equal(first.images, second.images)
    assert cache.stat().st_mtime_ns == written


@pytest.mark.parametrize("content", [b"", b"PK no archive", "cut short", "changed"])
def test_a_damaged_cache_is_written_anew(folder, content, capsys):
    preprocessing = preprocessing_of(load_recipe("digits"))
    first = load_image_set(str(folder), preprocessing)
    (cache,) = (folder.parent / "keras").rglob("*.npz")
    whole = cache.read_bytes()
    pixels = whole.index(first.images.tobytes())
    damaged = {
        "cut short": whole[: len(whole) // 2],
        "changed": whole[:pixels] + bytes([whole[pixels] ^ 1]) + whole[pixels + 1 :],
    }
    cache.write_bytes(damaged.get(content, content))
    second = load_image_set(str(folder), preprocessing)
    np.testing.assert_array_equal(first.images, second.images)
    assert f"{cache} is damaged" in capsys.readouterr().err
    load_image_set(str(folder), preprocessing)
    assert not capsys.readouterr().err


@pytest.mark.parametrize("fault", ["no folder", "a full disk"])
def test_without_room_for_a_cache_images_are_decoded_every_time(folder, monkeypatch, capsys, fault):
    preprocessing = preprocessing_of(load_recipe("digits"))
    expected = load_image_set(str(folder), preprocessing)
    home = folder.parent / "other"
    monkeypatch.setenv("KERAS_HOME", str(home))
    if fault == "no folder":
        home.write_text("a file where the folder would be")
    for _ in range(2):
        capsys.readouterr()
        with full_disk(500) if fault == "a full disk" else contextlib.nullcontext():
            images = load_image_set(str(folder), preprocessing)
        np.testing.assert_array_equal(images.images, expected.images)
        np.testing.assert_array_equal(images.labels, expected.labels)
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"14 decoded images cannot be kept in {home}")
        assert "[Errno" in line and "KERAS_HOME" in line
        assert not [*home.rglob("*.npz")]


def test_processes_decode_one_after_the_other(folder, monkeypatch, capsys):
    """As processes do, threads begin together: each has opened a lock of its own."""
    preprocessing = preprocessing_of(load_recipe("digits"))
    # A barrier that no second one comes to, because it waits, is broken.
    together = threading.Barrier(2)
    decode = image_set._decode

    def slow(*arguments):
        with contextlib.suppress(threading.BrokenBarrierError):
            together.wait(timeout=0.5)
        return decode(*arguments)

    monkeypatch.setattr(image_set, "_decode", slow)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: load_image_set(str(folder), preprocessing), range(2))
    np.testing.assert_array_equal(first.images, second.images)
    assert capsys.readouterr().out.count("Decoding") == 1


def test_a_changed_file_is_decoded_again(folder):
    preprocessing = preprocessing_of(load_recipe("digits"))
    first = load_image_set(str(folder), preprocessing)
    path = folder / "train" / "cat" / "0.png"
    Image.fromarray(np.full((30, 30), 255, np.uint8)).save(path)
    second = load_image_set(str(folder), preprocessing)
    assert (second.images[0] == 255).all()
    assert not np.array_equal(first.images[0], second.images[0])


def test_unreadable_images_are_left_out_up_to_a_limit(folder):
    (folder / "train" / "dog" / "1.png").write_bytes(b"not an image")
    preprocessing = preprocessing_of(load_recipe("digits"))
    images = load_image_set(str(folder), preprocessing, max_corrupt_images=1)
    assert images.num_examples("train") == 7
    assert images.labels[images.places("train")].tolist() == [0] * 4 + [1] * 3
    assert images.num_examples("test") == 6
    with pytest.raises(ValueError, match=r"1 unreadable images.*dog/1\.png"):
        load_image_set(str(folder), preprocessing, max_corrupt_images=0)


def test_what_is_not_listed_says_what_is_taken(tmp_path):
    preprocessing = preprocessing_of(load_recipe("digits"))
    with pytest.raises(ValueError, match=r"`digits` or from a folder.*'cifar10'"):
        load_image_set("cifar10", preprocessing)
    for name in ("train-00000-of-00001.tfrecord", "dataset_info.json"):
        folder = tmp_path / name[:5]
        folder.mkdir()
        (folder / name).touch()
        match = f"come from `digits` .*'{folder}', which holds TFRecord .* or .* TensorFlow Data"
        with pytest.raises(ValueError, match=match):
            load_image_set(str(folder), preprocessing)
    with pytest.raises(FileNotFoundError, match="no/such/folder"):
        load_image_set("no/such/folder", preprocessing)


def test_more_pixels_than_the_device_numbers_are_refused_undecoded(monkeypatch):
    monkeypatch.delattr(image_set, "_decode")
    large = Preprocessing(input_size=1100, mean=(0.5,), std=(0.5,))
    with pytest.raises(ValueError, match="1,797 images of 1100 x 1100 .*, 2,174,370,000 pixels"):
        load_image_set("digits", large)


def test_a_missing_split_is_named(folder):
    import shutil

    shutil.rmtree(folder / "test")
    with pytest.raises(ValueError, match="has no 'test' split"):
        load_image_set(str(folder), preprocessing_of(load_recipe("digits")))
