import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from tests.training.paths import DATA
from tests.training.shards import record, write_shard
from training.loading.reading import pixels_of
from training.sources import open_source

CIFAR_ARCHIVE = DATA / "cifar10-jpeg.tar.xz"


def png(value, size=4):
    return tf.io.encode_png(np.full((size, size, 3), value, np.uint8)).numpy()


def write_classes(root, split, counts):
    """Write `counts[class]` images whose pixels tell them apart."""
    for label, (name, count) in enumerate(counts.items()):
        folder = root / split / name
        folder.mkdir(parents=True)
        for index in range(count):
            (folder / f"{index}.png").write_bytes(png(40 * label + index))


def write_labels(path, labels, first_value=0):
    """Write a shard of images whose pixels tell them apart."""
    write_shard(path, [record(png(first_value + i), label) for i, label in enumerate(labels)])


def contents(split, seed=None):
    """Name, first pixel and label of each example, in order."""
    examples = split.examples(None if seed is None else tf.constant(seed, tf.int64))

    def read(name, item):
        image, label = split.read(item)
        return name, pixels_of(image, channels=3)[0, 0, 0], label

    return [
        (name.decode(), int(pixel), int(label))
        for name, pixel, label in examples.map(read).as_numpy_iterator()
    ]


class TinyImages(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {
                    "id": tfds.features.Text(),
                    "image": tfds.features.Image(shape=(4, 4, 3)),
                    "label": tfds.features.ClassLabel(names=["cat", "dog"]),
                }
            ),
            supervised_keys=("image", "label"),
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate(5), "validation": self._generate(3)}

    def _generate(self, count):
        for index in range(count):
            image = np.full((4, 4, 3), index, np.uint8)
            yield index, {"id": str(index), "image": image, "label": index % 2}

    def _generate_examples(self):
        raise NotImplementedError


def test_digits():
    source = open_source("digits")
    assert source.splits == ("train", "test")
    assert source.class_names == tuple("0123456789")
    assert source.num_examples("train") + source.num_examples("test") == 1797
    names, labels = {}, {}
    for split in source.splits:
        examples = contents(source.split(split))
        names[split] = {name for name, _, _ in examples}
        labels[split] = np.bincount([label for _, _, label in examples])
    assert not names["train"] & names["test"]
    np.testing.assert_allclose(labels["test"] / sum(labels.values()), 0.2, atol=0.01)


def test_digits_keep_their_pixels():
    from sklearn.datasets import load_digits

    digits = load_digits()
    split = open_source("digits").split("test")
    for name, item in split.examples().take(20):
        image, label = split.read(item)
        index = int(name.numpy().decode().removeprefix("digit "))
        np.testing.assert_array_equal(image[..., 0], np.round(digits.images[index] / 16 * 255))
        assert label == digits.target[index]


def test_class_folders(tmp_path):
    write_classes(tmp_path, "train", {"cat": 3, "dog": 2})
    write_classes(tmp_path, "val", {"cat": 1, "dog": 2})
    source = open_source(str(tmp_path))
    assert source.class_names == ("cat", "dog")
    assert source.splits == ("train", "test")
    assert source.num_examples("train") == 5
    assert [(pixel, label) for _, pixel, label in contents(source.split("test"))] == [
        (0, 0),
        (40, 1),
        (41, 1),
    ]


def test_cifar_archive_unpacked(tmp_path):
    if not CIFAR_ARCHIVE.exists():
        pytest.skip("the CIFAR-10 images are not beside the repository: ../shared/data")
    with tarfile.open(CIFAR_ARCHIVE) as archive:
        wanted = 12
        for member in archive:
            if member.isfile():
                path = tmp_path / member.name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(archive.extractfile(member).read())
                wanted -= 1
            if not wanted:
                break
    source = open_source(str(tmp_path / "cifar10"))
    (split,) = source.splits
    name, item = next(iter(source.split(split).examples()))
    encoded, label = source.split(split).read(item)
    assert tf.io.decode_jpeg(encoded).shape == (32, 32, 3)
    assert Path(name.numpy().decode()).parent.name == source.class_names[int(label)]


@pytest.mark.parametrize("numbering", ["labels.txt", "list", "first_label"])
def test_shards(tmp_path, numbering):
    first = 1 if numbering == "first_label" else 0
    write_labels(tmp_path / "train-00000-of-00002.tfrecord", [first, first + 1, first])
    write_labels(tmp_path / "train-00001-of-00002.tfrecord", [first + 1], first_value=9)
    write_labels(tmp_path / "validation-00000-of-00001", [first + 1])
    if numbering == "labels.txt":
        (tmp_path / "labels.txt").write_text("cat\ndog\n")
    else:
        names = ["cat", "dog"]
        classes = names if numbering == "list" else {"names": names, "first_label": 1}
        (tmp_path / "classes.json").write_text(json.dumps(classes))
    source = open_source(str(tmp_path))
    assert source.class_names == ("cat", "dog")
    assert source.splits == ("train", "test")
    assert source.num_examples("train") == 4
    examples = contents(source.split("train"))
    assert [(pixel, label) for _, pixel, label in examples] == [(0, 0), (1, 1), (2, 0), (9, 1)]
    assert examples[1][0] == f"{tmp_path / 'train-00000-of-00002.tfrecord'}, record 1"


def test_prepared_tfds(tmp_path):
    TinyImages(data_dir=tmp_path).download_and_prepare()
    by_name = open_source("tiny_images", data_dir=str(tmp_path))
    by_folder = open_source(str(tmp_path / "tiny_images" / "1.0.0"))
    for source in (by_name, by_folder):
        assert source.class_names == ("cat", "dog")
        assert source.num_examples("test") == 3
        examples = contents(source.split("train"))
        assert sorted(pixel for _, pixel, _ in examples) == [0, 1, 2, 3, 4]
        assert all(label == pixel % 2 for _, pixel, label in examples)


@pytest.mark.parametrize("kind", ["files", "records"])
def test_shuffling_is_decided_by_the_seed_alone(tmp_path, kind):
    if kind == "files":
        write_classes(tmp_path, "train", {"cat": 20, "dog": 10})
    else:
        (tmp_path / "labels.txt").write_text("cat\ndog\n")
        for shard in range(3):
            write_labels(tmp_path / f"train-{shard}.tfrecord", [0] * 10, first_value=10 * shard)
    split = open_source(str(tmp_path)).split("train")
    tf.random.set_seed(1)
    first = contents(split, seed=(5, 6))
    tf.random.set_seed(2)
    assert contents(split, seed=(5, 6)) == first
    assert contents(split, seed=(5, 7)) != first
    assert sorted(first) == sorted(contents(split)) != first


def test_missing_split(tmp_path):
    write_classes(tmp_path, "train", {"cat": 1})
    source = open_source(str(tmp_path))
    with pytest.raises(ValueError, match=r"no 'test' split. It has: \['train'\]"):
        source.num_examples("test")


def test_empty_folder(tmp_path):
    (tmp_path / "cat").mkdir()
    with pytest.raises(ValueError, match=r"Expected train/CLASS/\*.jpg.*It holds: \['cat'\]"):
        open_source(str(tmp_path))


@pytest.mark.parametrize("name", ["images.tar", "/somewhere/images.tar.xz", "images.ZIP"])
def test_archive(name):
    with pytest.raises(ValueError, match="unpack it first"):
        open_source(name)


def test_file(tmp_path):
    path = tmp_path / "images.csv"
    path.write_text("")
    with pytest.raises(ValueError, match="is a file"):
        open_source(str(path))


def test_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        open_source(str(tmp_path / "images"))


@pytest.mark.parametrize("name, close", [("cifar_10", "cifar10"), ("digit", "digits")])
def test_unknown_name_suggests_close_ones(name, close):
    with pytest.raises(ValueError, match=f"Did you mean .*{close}"):
        open_source(name)


def test_manual_set_says_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError) as raised:
        open_source("imagenet2012", data_dir=str(tmp_path))
    message = str(raised.value)
    assert str(tmp_path) in message
    assert "tfds build imagenet2012" in message
    assert "--manual_dir" in message
    assert "train/CLASS/*.jpg" in message


def test_tfds_set_without_labels(tmp_path):
    class Unlabeled(TinyImages):
        name = "unlabeled"

        def _info(self):
            return self.dataset_info_from_configs(
                features=tfds.features.FeaturesDict({"image": tfds.features.Image(shape=(4, 4, 3))})
            )

        def _generate(self, count):
            yield 0, {"image": np.zeros((4, 4, 3), np.uint8)}

    Unlabeled(data_dir=tmp_path).download_and_prepare()
    with pytest.raises(ValueError, match="not a set for image classification"):
        open_source("unlabeled", data_dir=str(tmp_path))


def test_shards_without_class_names(tmp_path):
    write_labels(tmp_path / "train-0.tfrecord", [0])
    with pytest.raises(FileNotFoundError, match="neither labels.txt .* nor classes.json"):
        open_source(str(tmp_path))


def test_malformed_class_names(tmp_path):
    write_labels(tmp_path / "train-0.tfrecord", [0])
    (tmp_path / "labels.txt").write_text("cat\n\ndog\n\n")
    with pytest.raises(ValueError, match=r"labels.txt' must name a class.*Line 2 is empty"):
        open_source(str(tmp_path))
    (tmp_path / "labels.txt").unlink()
    (tmp_path / "classes.json").write_text('{"cat": 0}')
    with pytest.raises(ValueError, match="must be a list of names or"):
        open_source(str(tmp_path))


def test_truncated_shard(tmp_path):
    path = tmp_path / "train-0.tfrecord"
    write_labels(path, [0, 0])
    path.write_bytes(path.read_bytes()[:-10])
    (tmp_path / "labels.txt").write_text("cat\n")
    with pytest.raises(ValueError, match="not a complete, uncompressed TFRecord file: record 1"):
        open_source(str(tmp_path))
