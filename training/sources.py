"""Sources of images: named and labeled images in splits, encoded or as pixels."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from keras_preact.files import read_json
from keras_preact.messages import did_you_mean
from training.listing.find import find_listing
from training.listing.held_out import DEFAULT_SHARE
from training.listing.listing import TEST_SPLITS, Listing, read_class_names, renamed
from training.listing.shards import DATASET_INFO, find_shards

ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2", ".zip")
# Record of `training.prepare` beside its shards.
PREPARED = "prepare.json"
OPEN_SHARDS = 16
# Encoded ImageNet photographs take 110 kB on average, so the buffer takes about 0.9 GB of memory.
SHUFFLE_BUFFER = 8192


class Split(Protocol):
    """The labeled images of one part of a data set."""

    num_examples: int
    # All images, uint8 `(examples, height, width, channels)`, where they are in memory as pixels.
    pixels: tf.Tensor | None
    labels: tf.Tensor | None
    # Number of parts that it can be read in.
    max_parts: int

    def part(self, number: int, count: int) -> tf.data.Dataset:
        """Return the examples of a part, in no order that matters; see `examples`.

        Args:
            number: Number of the part, from 0.
            count: Number of parts, `max_parts` at most, which have no example in common.

        Returns:
            A dataset as from `examples`.
        """
        ...

    def examples(self, seed: tf.Tensor | None = None) -> tf.data.Dataset:
        """Return one pass over the examples, none of them read yet.

        Args:
            seed: int64 tensor `(2,)` that decides the order; the stored order without it.

        Returns:
            A dataset of `(name, item)`: a string that tells the user which example it is, and
            what `read` needs to read it.
        """

    def read(self, item: tf.Tensor, /) -> tuple[tf.Tensor, tf.Tensor]:
        """Read an example.

        Args:
            item: The second part of an element of `examples`.

        Returns:
            The image: a scalar string, the content of its file, or pixels
            `(height, width, channels)`, uint8; and its label, scalar int64.
        """
        ...

    def damage(self) -> str | None:
        """Return where a shard is damaged, in words; None if all can be read."""
        ...


def indices_in_order(count: int, seed: tf.Tensor | None = None) -> tf.data.Dataset:
    """Make a dataset of the indices of `count` examples.

    Args:
        count: Number of examples, 1 or more.
        seed: int64 tensor `(2,)` that decides the order; rising without it.

    Returns:
        A dataset of int64 scalars, each of `range(count)` once.
    """
    if seed is None:
        return tf.data.Dataset.range(count)
    # `index_shuffle` needs no memory, but has 256 orders where there are up to 65,536 examples.
    order = tf.random.experimental.stateless_shuffle(tf.range(count, dtype=tf.int64), seed)
    return tf.data.Dataset.from_tensor_slices(order)


class IndexedSplit:
    """Examples that can be read in any order, so that every shuffle is a perfect one.

    Args:
        names: Name of each example.
        labels: Class of each example, 0 for the first.
        pixels: The images, uint8 `(examples, height, width, channels)`. Without it the names are
            paths of files.
    """

    def __init__(
        self, names: Sequence[str], labels: Sequence[int], pixels: np.ndarray | None = None
    ) -> None:
        self.num_examples = self.max_parts = len(names)
        # Where batches are made, whatever device trains on them.
        with tf.device("CPU"):
            self._names = tf.constant(names, tf.string)
            self.labels = tf.constant(labels, tf.int64)
            self.pixels = None if pixels is None else tf.constant(pixels)

    def damage(self) -> str | None:
        """Return None: there are no shards."""

    def examples(self, seed: tf.Tensor | None = None) -> tf.data.Dataset:
        """Return one pass over the examples as `(name, index)`; see `Split.examples`."""
        return self._named(indices_in_order(self.num_examples, seed))

    def part(self, number: int, count: int) -> tf.data.Dataset:
        """Return the examples of a part, drawn from everywhere; see `Split.part`."""
        order = np.random.default_rng(0).permutation(self.num_examples)
        return self._named(tf.data.Dataset.from_tensor_slices(order[number::count]))

    def _named(self, indices: tf.data.Dataset) -> tf.data.Dataset:
        return indices.map(lambda index: (self._names[index], index))

    def read(self, item: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Read the example at index `item`; see `Split.read`."""
        if self.pixels is None:
            return tf.io.read_file(self._names[item]), self.labels[item]
        return self.pixels[item], self.labels[item]


class RecordSplit:
    """Examples in TFRecord shards, which are read from front to back.

    They are shuffled by reading the shards in a random order, several at a time, through a
    buffer.

    Args:
        shards: Paths of the shards.
        num_examples: Number of records in all shards.
        parse: Maps a serialized record to its encoded image and its label.
    """

    def __init__(
        self,
        shards: Sequence[str],
        num_examples: int,
        parse: Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]],
    ) -> None:
        self.num_examples = num_examples
        self.pixels = self.labels = None
        self.read = parse
        self.max_parts = len(shards)
        self._shards = tf.constant(shards, tf.string)

    def part(self, number: int, count: int) -> tf.data.Dataset:
        """Return the examples of some of the shards; see `Split.part`."""
        return tf.data.Dataset.range(number, self.max_parts, count).flat_map(self._records)

    def _records(self, shard: tf.Tensor) -> tf.data.Dataset:
        """Return the records of a shard as `(name, record)`."""
        path = self._shards[shard]

        def named(number: tf.Tensor, record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            return tf.strings.join([path, ", record ", tf.strings.as_string(number)]), record

        return tf.data.TFRecordDataset(path).enumerate().map(named)

    def examples(self, seed: tf.Tensor | None = None) -> tf.data.Dataset:
        """Return one pass over the examples as `(name, record)`; see `Split.examples`."""
        shards = indices_in_order(self.max_parts, seed)
        if seed is None:
            return shards.flat_map(self._records)
        examples = shards.interleave(
            self._records,
            cycle_length=OPEN_SHARDS,
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )

        def shuffled(seed: tf.Tensor) -> tf.data.Dataset:
            # The order must not depend on the global seed; here, this is the one of the graph
            # of this function.
            tf.random.set_seed(1)
            return examples.shuffle(min(self.num_examples, SHUFFLE_BUFFER), seed=seed)

        return tf.data.Dataset.from_tensors(seed[0] ^ seed[1]).flat_map(shuffled)

    def damage(self) -> str | None:
        """Return where a shard is damaged, in words; None if all can be read."""
        for path in self._shards.numpy():
            number = 0
            try:
                for _ in tf.data.TFRecordDataset(path):
                    number += 1
            except tf.errors.DataLossError:
                return (
                    f"{path.decode()}, record {number} is damaged: its checksum is wrong. What "
                    "follows it in this file cannot be read: write the file anew, or remove it."
                )
        return None


class ImageSource:
    """A set of labeled images.

    Args:
        name: The name that the user gave for the source.
        class_names: Name of each class, in the order of the labels.
        splits: The examples, under the names `"train"` and `"test"`; either may be missing.
        left_out: What there is beside the images, in words.
        held_out: Share of the images that was held out for testing, if a part was.
        label_sets: The sets of labels that the labels of images number, where an image has any
            number of them; see `training.listing.listing.Listing`.
    """

    def __init__(
        self,
        name: str,
        class_names: Sequence[str],
        splits: Mapping[str, Split],
        *,
        left_out: Sequence[str] = (),
        held_out: float | None = None,
        label_sets: np.ndarray | None = None,
    ) -> None:
        self.name = name
        self.class_names = tuple(class_names)
        self.left_out = tuple(left_out)
        self.held_out = held_out
        self.label_sets = label_sets
        self._splits = dict(splits)

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits: `"train"`, `"test"` or both."""
        return tuple(self._splits)

    def split(self, name: str) -> Split:
        """Return the examples of a split.

        Args:
            name: `"train"` or `"test"`.

        Returns:
            The split.

        Raises:
            ValueError: If the source has no such split.
        """
        if name not in self._splits:
            raise ValueError(
                f"Source {self.name!r} has no {name!r} split. It has: {list(self._splits)}. "
                f"The test split may also be called one of {list(TEST_SPLITS)}, or, with "
                "`--validation-split 0.2`, be a part of the training images."
            )
        return self._splits[name]

    def num_examples(self, split: str) -> int:
        """Return the number of images in a split, unreadable ones included."""
        return self.split(split).num_examples


def open_source(
    name: str,
    data_dir: str | None = None,
    validation_split: float | None = None,
    *,
    default_split: float = DEFAULT_SHARE,
) -> ImageSource:
    """Open a set of labeled images.

    Args:
        name: One of

            - `digits`: the 1,797 handwritten digits (8x8, gray) that come with scikit-learn;
            - a folder `root/{train,test}/{class}/*.jpg` (or `.jpeg`, `.png`), where `test` may
              also be called `validation`, `val` or `valid`; or `root/{class}/*.jpg`, of which a
              part is held out for testing;
            - a folder of images with `labels.csv`, whose columns `file` and `labels` name the
              labels of each image, separated by `|`, and perhaps `split`; or one in each of
              `train` and `test`, as `training.listing.labels_csv` reads;
            - a folder with the files of CIFAR-10 or CIFAR-100 in their binary format
              (`data_batch_1.bin`, …), as their archives unpack it; of CIFAR-100 the fine labels;
            - an `.npz` file, or a folder of them, as `training.listing.arrays.list_arrays` reads;
            - a folder of TFRecord shards named `train-*.tfrecord*` and `validation-*.tfrecord*`
              (or `test-*`, or the plain `train-00000-of-01024`), uncompressed, of `tf.Example`
              records with `image/encoded` (bytes of an image file) and `image/class/label`
              (int64). Beside them lie the names of the classes: `labels.txt`, one per line, for
              labels that count from 0; or `classes.json`, either a list of names or
              `{"names": [...], "first_label": 1}` for labels that count from 1, as those of
              the usual ImageNet shards do;
            - a folder prepared by TensorFlow Datasets (it holds `dataset_info.json`);
            - the name of a set in TensorFlow Datasets, such as `cifar10` or `imagenet2012`.
        data_dir: Where TensorFlow Datasets keeps its prepared sets; its own default otherwise.
        validation_split: Share of the images that is held out for testing, of class folders,
            `labels.csv`, CIFAR's or `.npz` files, as `training.listing.held_out.hold_out` does; 1
            for all. Of a set with a test split it is a share of the training images, and that split
            is set aside. Shards of `training.prepare` have the one that they were written with.
        default_split: The same, where it is not given, of a set without any split.

    Returns:
        The source, with its splits renamed to `"train"` and `"test"`. Of a set that has both, the
        validation split is taken as `"test"`.

    Raises:
        ValueError: If the name or what lies there is no set of labeled images, or
            `validation_split` is given for another kind of set.
        FileNotFoundError: If the path does not exist, or the set is neither prepared nor to be
            downloaded from here. The message says what to do.
    """
    path = Path(name).expanduser()
    if name.lower().endswith(ARCHIVES):
        raise ValueError(
            f"{name!r} is an archive, which cannot be read at random: unpack it first and give "
            f"the folder, for example `tar xf {name} -C FOLDER`."
        )
    if path.is_dir() and (opened := _open_shard_folder(path)):
        if validation_split != opened.held_out:
            _check_no_split(name, validation_split)
        return opened
    if listing := find_listing(name, validation_split, default_split):
        return from_listing(name if name == "digits" else str(path), listing)
    if path.exists():
        raise ValueError(
            f"{name!r} is a file. Expected a folder with train/CLASS/*.jpg and test/CLASS/*.jpg, "
            "a folder of TFRecord shards, an .npz file, or the name of a set."
        )
    if path.is_absolute() or name.startswith((".", "~")):
        raise FileNotFoundError(f"There is no folder {str(path)!r}.")
    _check_no_split(name, validation_split)
    return _open_tfds(name, data_dir)


def _check_no_split(name: str, validation_split: float | None) -> None:
    if validation_split is not None:
        raise ValueError(
            "A part is held out of labels.csv, class folders, CIFAR's and .npz files only: "
            f"`validation_split` must not be given for {name!r}. Received: {validation_split}"
        )


def _open_shard_folder(root: Path) -> ImageSource | None:
    """Open a folder prepared by TensorFlow Datasets, or of TFRecord shards, if it is one."""
    if (root / DATASET_INFO).exists():
        import tensorflow_datasets as tfds

        return _from_builder(str(root), tfds.builder_from_directory(root))
    shards = find_shards(root)
    return _open_shards(root, shards) if shards else None


def from_listing(name: str, listing: Listing) -> ImageSource:
    """Open the images of a listing: files, or pixels in memory."""
    splits = {
        split: IndexedSplit(
            listing.names[split],
            listing.labels[split],
            images if isinstance(images, np.ndarray) else None,
        )
        for split, images in listing.images.items()
    }
    return ImageSource(
        name,
        listing.class_names,
        splits,
        left_out=listing.left_out,
        held_out=listing.held_out,
        label_sets=listing.label_sets,
    )


def _open_shards(root: Path, shards: Mapping[str, list[str]]) -> ImageSource:
    """Open TFRecord shards in the layout that `open_source` documents."""
    held_out = prepared_split(root)
    class_names, first_label = _read_class_names(root)

    def parse(record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        features = {
            "image/encoded": tf.io.FixedLenFeature([], tf.string),
            "image/class/label": tf.io.FixedLenFeature([], tf.int64),
        }
        example = tf.io.parse_single_example(record, features)
        return example["image/encoded"], example["image/class/label"] - first_label

    splits = {
        split: RecordSplit(paths, sum(map(_count_records, paths)), parse)
        for split, paths in renamed(shards).items()
    }
    return ImageSource(str(root), class_names, splits, held_out=held_out)


def prepared_split(root: Path) -> float | None:
    """Return the share that `training.prepare` held out, if the shards are its own, and all there.

    Args:
        root: Folder of shards, or any other path.

    Raises:
        ValueError: If some are missing.
    """
    path = root / PREPARED
    if not path.exists():
        return None
    record = read_json(path)
    if record["status"] != "finished":
        raise ValueError(
            f"Some of the shards in {str(root)!r} are still missing: start the same command of "
            "training.prepare again, which goes on."
        )
    return record.get("validation_split")


def _read_class_names(root: Path) -> tuple[list[str], int]:
    """Read the names of the classes beside TFRecord shards, and the label of the first one."""
    if (root / "labels.txt").exists():
        return read_class_names(root / "labels.txt"), 0
    if not (root / "classes.json").exists():
        raise FileNotFoundError(
            f"{str(root)!r} holds TFRecord shards but neither labels.txt (one class name per line, "
            "labels from 0) nor classes.json (a list of names, or "
            '{"names": [...], "first_label": 1} for labels from 1).'
        )
    classes = read_json(root / "classes.json")
    try:
        named = {"names": classes, "first_label": 0} if isinstance(classes, list) else classes
        names, first = named["names"], int(named["first_label"])
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise TypeError("a name is a text")
        return names, first
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"{str(root / 'classes.json')!r} must be a list of names or "
            f'{{"names": [...], "first_label": 1}}. Received: {str(classes)[:80]}'
        ) from error


def _count_records(path: str) -> int:
    """Count the records in a TFRecord file, reading only their lengths.

    A record is its length (8 bytes), a checksum (4), the content, another checksum (4):
    https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details
    """
    count, position, size = 0, 0, os.path.getsize(path)
    with open(path, "rb") as file:
        while position < size:
            file.seek(position)
            header = file.read(12)
            length = struct.unpack("<Q", header[:8])[0] if len(header) == 12 else size
            position += 12 + length + 4
            if position > size:
                raise ValueError(
                    f"{path!r} is not a complete, uncompressed TFRecord file: record {count} "
                    f"ends at byte {position}, the file at byte {size}."
                )
            count += 1
    return count


def _open_tfds(name: str, data_dir: str | None) -> ImageSource:
    """Open a set of TensorFlow Datasets, which is downloaded and prepared if need be."""
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError as error:
        known = ["digits", *tfds.list_builders(with_community_datasets=False)]
        hint = did_you_mean(name, known, quote="")
        raise ValueError(
            f"There is no folder {name!r} here and no set of that name in TensorFlow Datasets."
            f"{hint} Expected `digits`, a folder, or a name such as `cifar10`."
        ) from error
    try:
        builder.download_and_prepare()
    # Downloads fail in as many ways as there are sets; each of them needs the same answer.
    except Exception as error:
        raise FileNotFoundError(_how_to_get(name, builder, error)) from error
    return _from_builder(name, builder)


def _how_to_get(name: str, builder: Any, error: Exception) -> str:
    """Say what to do about a set that could not be prepared."""
    lines = [
        f"{name!r} is not prepared in {builder.data_dir} and could not be downloaded: {error}",
        "Either",
        f"- on a machine with a connection run `tfds build {name} --data_dir DIR`, copy DIR here "
        "and give it as the data directory, or",
        "- give a folder with train/CLASS/*.jpg and test/CLASS/*.jpg instead of the name.",
    ]
    if builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
        lines.insert(
            2,
            "- download its files by hand and run `tfds build "
            f"{name} --data_dir DIR --manual_dir FOLDER_OF_THE_FILES` "
            f"({' '.join(builder.MANUAL_DOWNLOAD_INSTRUCTIONS.split())}), or",
        )
    return "\n".join(lines)


def _from_builder(name: str, builder: Any) -> ImageSource:
    """Open the prepared shards of a builder of TensorFlow Datasets."""
    import tensorflow_datasets as tfds

    info = builder.info
    keys = info.supervised_keys or ("image", "label")
    kinds = [type(info.features[key]) for key in keys if key in info.features]
    if kinds != [tfds.features.Image, tfds.features.ClassLabel]:
        raise ValueError(
            f"{name!r} is not a set for image classification: expected an image and a class "
            f"label. Its features: {list(info.features)}"
        )
    if info.file_format != tfds.core.FileFormat.TFRECORD:
        raise ValueError(
            f"{name!r} is prepared as {info.file_format.value}; expected tfrecord. Prepare it "
            "again with `tfds build --file_format=tfrecord`."
        )
    image, label = keys
    features = tfds.features.FeaturesDict({key: info.features[key] for key in keys})

    def parse(record: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        decoders = {image: tfds.decode.SkipDecoding()}
        example = features.deserialize_example(record, decoders=decoders)
        return example[image], example[label]

    splits = {
        split: RecordSplit([str(path) for path in found.filepaths], found.num_examples, parse)
        for split, found in renamed(info.splits).items()
        if found.num_examples
    }
    return ImageSource(name, info.features[label].names, splits)
