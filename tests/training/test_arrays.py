"""Sets of images in one piece: CIFAR's binary files and `.npz` files."""

import numpy as np
import pytest

from training import data
from training.listing.arrays import list_arrays
from training.listing.find import find_listing
from training.loading.image_set import load_image_set
from training.recipe import Recipe, preprocessing_of
from training.sources import open_source

RNG = np.random.default_rng(0)


def pixels(count, *shape):
    return RNG.integers(256, size=(count, *(shape or (8, 8, 3))), dtype=np.uint8)


def write_cifar(root, label_bytes=1, classes=3, count=6):
    """Write a small set in the binary format, and return its images and labels by split."""
    root.mkdir()
    train = [f"data_batch_{number}.bin" for number in range(1, 6)]
    files = {"train": train, "test": ["test_batch.bin"]}
    names = "batches.meta.txt"
    if label_bytes == 2:
        files, names = {"train": ["train.bin"], "test": ["test.bin"]}, "fine_label_names.txt"
    (root / names).write_text("".join(f"class {number}\n" for number in range(classes)) + "\n")
    written = {}
    for split, paths in files.items():
        images = pixels(count * len(paths), 32, 32, 3)
        labels = np.arange(len(images)) % classes
        records = np.zeros((len(images), label_bytes + 3072), np.uint8)
        records[:, 0] = 77
        records[:, label_bytes - 1] = labels
        records[:, label_bytes:] = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
        for part, path in zip(np.split(records, len(paths)), paths, strict=True):
            part.tofile(root / path)
        written[split] = images, labels
    return written


def recipe(size, **values):
    return Recipe(
        input_size=size, crop_fraction=1.0, crop="none", flip=False, batch_size=6, **values
    )


def check_pipeline(name, written, size):
    """Check that training, evaluation and images on the device see the pixels that were written."""
    values = recipe(size)
    preprocessing = preprocessing_of(values)
    source = open_source(name)
    images, labels = written["test"]
    batches = [*data.evaluation_pipeline(source, values)]
    seen = np.concatenate([batch for batch, _ in batches])
    np.testing.assert_allclose(seen, preprocessing.normalize(images), atol=1e-5)
    np.testing.assert_array_equal(
        np.concatenate([each.numpy().argmax(-1) for _, each in batches]), labels
    )
    batch, batch_labels = next(iter(data.training_pipeline(source, values)))
    every = np.asarray(preprocessing.normalize(written["train"][0]))
    for image, label in zip(batch.numpy(), batch_labels.numpy(), strict=True):
        (place,) = np.flatnonzero(abs(every - image).max(axis=(1, 2, 3)) < 1e-5)
        assert written["train"][1][place] == label.argmax()
    on_device = load_image_set(name, preprocessing)
    np.testing.assert_array_equal(
        on_device.images, np.concatenate([written["train"][0], written["test"][0]])
    )
    np.testing.assert_array_equal(
        on_device.labels, np.concatenate([written["train"][1], written["test"][1]])
    )


@pytest.mark.parametrize("label_bytes", [1, 2])
def test_cifar_is_read_without_loss(tmp_path, label_bytes):
    written = write_cifar(tmp_path / "cifar", label_bytes)
    listing = find_listing(str(tmp_path / "cifar"))
    assert listing.class_names == ("class 0", "class 1", "class 2")
    for split, (images, labels) in written.items():
        np.testing.assert_array_equal(listing.images[split], images)
        assert listing.labels[split] == labels.tolist()
    if label_bytes == 1:
        assert listing.names["train"][7].endswith("data_batch_2.bin, record 1")
        check_pipeline(str(tmp_path / "cifar"), written, 32)


def damage(root, kind):
    batch = root / "data_batch_2.bin"
    if kind == "missing":
        batch.unlink()
    elif kind == "short":
        batch.write_bytes(batch.read_bytes()[:-5])
    elif kind == "empty":
        batch.write_bytes(b"")
    elif kind == "label":
        batch.write_bytes(b"\x09" + batch.read_bytes()[1:])
    elif kind == "names":
        (root / "batches.meta.txt").unlink()
    else:
        (root / "batches.meta.txt").write_text("a\nb\nc\nd\n")


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("missing", "a part of CIFAR's train split: data_batch_2.bin missing"),
        ("short", "data_batch_2.bin.*records of 3073 bytes. Received: 18433 bytes"),
        ("empty", "data_batch_2.bin.*Received: 0 bytes"),
        ("label", "data_batch_2.bin.*labels below 3. Received: 9"),
        ("names", "no .*batches.meta.txt.*names the classes"),
        ("classes", r"\['d'\] in the train split; \['d'\] in the test split"),
    ],
)
def test_damaged_cifar_is_refused(tmp_path, kind, said):
    write_cifar(tmp_path / "cifar")
    damage(tmp_path / "cifar", kind)
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        open_source(str(tmp_path / "cifar"))


def split_arrays(count, classes=2):
    return pixels(count), np.arange(count) % classes


def test_the_keys_of_keras_datasets(tmp_path):
    (x_train, y_train), (x_test, y_test) = split_arrays(12), split_arrays(4)
    train = {"x_train": x_train, "y_train": y_train[:, None]}
    np.savez(tmp_path / "set.npz", **train, x_test=x_test, y_test=y_test)
    written = {"train": (x_train, y_train), "test": (x_test, y_test)}
    check_pipeline(str(tmp_path / "set.npz"), written, 8)


def test_a_file_of_each_split(tmp_path):
    first, second, test = split_arrays(12), split_arrays(6), split_arrays(4)
    names = np.array(["cat", "dog"])
    for name, (images, labels) in {"train_1": first, "train_2": second, "val": test}.items():
        np.savez_compressed(tmp_path / f"{name}.npz", images=images, labels=names[labels])
    listing = find_listing(str(tmp_path))
    assert listing.class_names == ("cat", "dog")
    np.testing.assert_array_equal(listing.images["train"], np.concatenate([first[0], second[0]]))
    assert listing.labels["train"] == [*first[1], *second[1]]
    assert listing.names["train"][12].endswith("train_2.npz, images[0]")
    np.testing.assert_array_equal(listing.images["test"], test[0])


@pytest.mark.parametrize("encoding", [None, "utf-8"])
def test_names_may_be_stored_as_bytes(tmp_path, encoding):
    names = ["b\u00e4r", "cat"]
    stored = np.array([name.encode(encoding) for name in names] if encoding else names)
    for labels in (stored[[1, 0, 1]], [1, 0, 1]):
        np.savez(tmp_path / "set.npz", x_train=pixels(3), y_train=labels, class_names=stored)
        listing = list_arrays([tmp_path / "set.npz"])
        assert listing.class_names == tuple(names)
        assert listing.labels["train"] == [1, 0, 1]


def test_other_forms_of_labels_and_images(tmp_path):
    """The keys of MedMNIST, one-hot labels, gray images, integers of other kinds, names."""
    images, labels = pixels(6, 8, 8), np.arange(6) % 3
    np.savez(
        tmp_path / "set.npz",
        train_images=images.astype(np.int64),
        train_labels=np.eye(3)[labels],
        val_images=images,
        val_labels=labels.astype(np.float32),
        class_names=["a", "b", "c"],
        test_images=images[:1],
        test_labels=labels[:1],
        extra=np.zeros(3),
    )
    listing = list_arrays([tmp_path / "set.npz"])
    assert listing.class_names == ("a", "b", "c")
    for split in ("train", "test"):
        assert listing.images[split].dtype == np.uint8
        np.testing.assert_array_equal(listing.images[split], images[..., np.newaxis])
        assert listing.labels[split] == labels.tolist()
    check_pipeline_of_gray(str(tmp_path / "set.npz"), images)


def check_pipeline_of_gray(name, images):
    ((batch, _),) = data.evaluation_pipeline(open_source(name), recipe(8))
    expected = preprocessing_of(recipe(8)).normalize(np.repeat(images[..., None], 3, -1))
    np.testing.assert_allclose(batch, expected, atol=1e-5)


GOOD = {"x_train": pixels(4), "y_train": np.arange(4) % 2}
RAGGED = np.array([np.zeros((2, 2, 3)), np.zeros((3, 2, 3))], object)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"x_train": None}, r"'y_train', but no images.*x_train.*Received: y_train \(4,\)"),
        ({"y_train": None}, "'x_train', but no labels"),
        ({"image_train": pixels(4)}, "two arrays of images for the train split: 'x_train' and"),
        ({"images": pixels(4)}, "'images', but no labels"),
        ({"x": pixels(4), "y": np.arange(4)}, ", x' tells no split, but other arrays of the set"),
        ({"x_train": GOOD["x_train"] / 255}, r"x_train: expected uint8.*float64 in 0\.0.*round"),
        ({"x_train": GOOD["x_train"].astype(int) - 300}, "int64 in -300"),
        ({"x_train": pixels(4, 3, 8, 8)}, r"\(4, 3, 8, 8\).*np\.moveaxis"),
        ({"x_train": pixels(4, 8, 8, 4)}, r"1 or 3 channels.*\(4, 8, 8, 4\)"),
        ({"x_train": pixels(4, 192)}, r"1 or 3 channels.*\(4, 192\)"),
        ({"x_train": RAGGED}, "'x_train' holds Python objects, such as images of unlike shapes"),
        ({"y_train": np.array([*"abab"], object)}, r"'y_train' holds .*pandas, .*astype\(str\)"),
        ({"y_train": np.arange(3)}, r"a label for each of 4 images.*\(3,\)"),
        ({"y_train": np.ones((4, 2))}, r"as a number or one-hot.*\(4, 2\)"),
        ({"y_train": np.array([0.5, 1, 0, 1])}, r"whole numbers.*\[0\.5, 1\.0, 0\.0\]"),
        ({"y_train": np.array([-1, 1, 0, 1])}, r"whole numbers from 0.*\[-1, 1, 0\]"),
        ({"y_train": np.array([1, 2, 1, 2])}, r"\['0'\] in the train split. Labels count from 0"),
        ({"class_names": ["a"]}, "1 class names, but the label 1"),
        ({"y_train": np.array([*"abab"]), "class_names": ["b"]}, r"no class names: \['a'\]"),
        ({"class_names": np.array([b"\xff", b"b"])}, "names of classes: expected text.*0xff"),
        ({"y_train": np.array([b"\xff", b"b"] * 2)}, "y_train: expected text.*0xff"),
        ({"x_test": pixels(2), "y_test": np.array([*"ab"])}, "numbers in one split, names in"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path, changes, said):
    arrays = {key: array for key, array in {**GOOD, **changes}.items() if array is not None}
    np.savez(tmp_path / "set.npz", **arrays)
    with pytest.raises(ValueError, match=rf"set\.npz.*{said}"):
        list_arrays([tmp_path / "set.npz"])


def test_damaged_files_are_named(tmp_path):
    path = tmp_path / "set.npz"
    path.write_bytes(b"PK no archive")
    with pytest.raises(ValueError, match=r"set\.npz' cannot be read"):
        open_source(str(path))
    np.savez(path, **GOOD)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"set\.npz' cannot be read"):
        open_source(str(path))
    np.savez(path, first=np.zeros(3))
    with pytest.raises(ValueError, match=r"No images found in .*set\.npz.*Expected x_train"):
        open_source(str(path))


def test_images_of_a_split_have_one_shape(tmp_path):
    for name, size in (("train_1", 8), ("train_2", 9)):
        np.savez(tmp_path / f"{name}.npz", x=pixels(2, size, size, 3), y=[0, 1])
    with pytest.raises(ValueError, match="of one shape"):
        find_listing(str(tmp_path))


def test_a_file_beside_class_folders_is_no_set(tmp_path):
    np.savez(tmp_path / "features.npz", x=np.zeros(3))
    (tmp_path / "train").mkdir()
    with pytest.raises(ValueError, match="No images found.*Expected train/CLASS"):
        find_listing(str(tmp_path))
