"""Reading and decoding images, some of which may be damaged."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf

from keras_preact.images.exif import exif_orientation
from keras_preact.images.orientation import (
    oriented,
    stored_box,
    upright_shape,
)
from keras_preact.messages import without_operations
from keras_preact.preprocessing import JPEG_DCT, decode_image, rgb_to_channels
from training.augmentation.pixels import to_uint8
from training.loading.corrupt import CorruptImages
from training.sources import ImageSource

# Images that a thread reads at a time. Setting a chunk up takes one or two milliseconds, as long as
# preparing two images, and at the end of an epoch a few chunks are read in vain.
CHUNK = 64
# The same of whole photographs, which take up to 100 MB each once they are decoded.
WHOLE = 8

# Seconds between two lines that say how many images have been read into memory.
REPORT_EVERY = 10

# Divisors of the size that a JPEG decoder applies at no cost.
SCALES = (1, 2, 4, 8)


def untuned(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Make a dataset whose iterators have no thread that tunes them.

    That thread sleeps for up to a minute at a time, and whoever deletes the iterator, as after
    every evaluation, may have to wait for it. Its graph is rewritten, though that gains little: an
    iterator for several devices may crash when it is deleted if it is not (TensorFlow 2.21).

    Args:
        dataset: A dataset whose `AUTOTUNE` is about to mean as many parallel calls as there are
            cores, instead of up to that many.

    Returns:
        The dataset, with the same elements.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    options.autotune.initial_parallelism = os.cpu_count() or 1
    return dataset.with_options(options)


def pixels_of(image: tf.Tensor, channels: int) -> tf.Tensor:
    """Return the pixels of an image, whether it is a file or pixels already.

    Args:
        image: Scalar string, the content of a file; or uint8 `(..., height, width, 1 or 3)`.
        channels: 1 for gray, 3 for RGB.

    Returns:
        A uint8 tensor `(..., height, width, channels)`.
    """
    if image.dtype == tf.string:
        return decode_image(image, channels)
    if image.shape[-1] == channels:
        return image
    return rgb_to_channels(image, channels) if channels == 1 else tf.repeat(image, 3, axis=-1)


def part_of(
    image: tf.Tensor, choose: Callable[[tf.Tensor], tf.Tensor], size: int, channels: int
) -> tf.Tensor:
    """Decode the part of an image that is about to be resized, upright.

    If it is 2, 4 or 8 times as large as needed, it comes at that fraction of its scale. Of a JPEG
    image only the blocks that hold the part are decoded, and at no larger scale.

    Args:
        image: Scalar string, the content of the file; or the decoded image, uint8
            `(height, width, channels)`.
        choose: Maps the shape of the upright image to the top, left, height and width of the part.
        size: Height and width that the part is resized to afterwards, in pixels.
        channels: 1 for gray, 3 for RGB.

    Returns:
        A uint8 tensor `(height, width, channels)`.
    """
    if image.dtype != tf.string:
        return _part_of_pixels(pixels_of(image, channels), choose(tf.shape(image)), size)

    def from_jpeg() -> tf.Tensor:
        orientation = exif_orientation(image)
        shape = upright_shape(tf.io.extract_jpeg_shape(image), orientation)
        box = stored_box(choose(shape), shape, orientation)

        def decode(scale: int) -> tf.Tensor:
            return tf.io.decode_and_crop_jpeg(
                image, box // scale, channels=3, ratio=scale, dct_method=JPEG_DCT
            )

        part = oriented(_at_scale_for(size, box, decode), orientation)
        return rgb_to_channels(part, channels)

    def from_other() -> tf.Tensor:
        pixels = decode_image(image, channels)
        return _part_of_pixels(pixels, choose(tf.shape(pixels)), size)

    return tf.cond(tf.io.is_jpeg(image), from_jpeg, from_other)


def _part_of_pixels(image: tf.Tensor, box: tf.Tensor, size: int) -> tf.Tensor:
    top, left, height, width = tf.unstack(box)
    part = image[top : top + height, left : left + width]

    def shrink(scale: int) -> tf.Tensor:
        """Average each square of pixels, as a JPEG decoder does."""
        if scale == 1:
            return part
        pixels = tf.cast(part[tf.newaxis], tf.float32)
        return to_uint8(tf.nn.avg_pool2d(pixels, scale, scale, "VALID")[0])

    return _at_scale_for(size, box, shrink)


def _at_scale_for(size: int, box: tf.Tensor, take: Callable[[int], tf.Tensor]) -> tf.Tensor:
    """Call `take` with the largest divisor that leaves a box at least `size` pixels."""
    fits = tf.reduce_min(box[2:]) // size >= SCALES[1:]
    branches = [functools.partial(take, scale) for scale in SCALES]
    return tf.switch_case(tf.math.count_nonzero(fits, dtype=tf.int32), branches)


def _chunk(spec: tf.TensorSpec) -> int:
    """Return how many images are read at a time: serialized ones may be of any size."""
    return WHOLE if spec.dtype == tf.string else CHUNK


class ImageReader:
    """Reads the images of a split, leaving out those that cannot be read.

    An image cannot be read if its file is missing or damaged, or its label is none of the
    classes.

    Args:
        source: Where the images come from.
        split: `"train"` or `"test"`.
        max_corrupt_images: Unreadable images that are skipped before an error is raised.
    """

    def __init__(self, source: ImageSource, split: str, max_corrupt_images: int) -> None:
        self.split = source.split(split)
        self.corrupt = CorruptImages(max_corrupt_images, self.split.num_examples)
        sets = source.label_sets
        self._classes = len(source.class_names if sets is None else sets)

    def examples(self, seed: tf.Tensor | None = None) -> tf.data.Dataset:
        """Return one pass over the examples of the split; see `Split.examples`."""
        return self.split.examples(seed)

    def read(
        self,
        examples: tf.data.Dataset,
        prepare: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
        spec: tf.TensorSpec,
    ) -> tf.data.Dataset:
        """Read and prepare images in parallel.

        Args:
            examples: The dataset from `examples`, each element with its place, an int64.
            prepare: Maps an image as `Split.read` gives it, and its place, to the image.
            spec: Shape and dtype of a prepared image.

        Returns:
            A dataset of prepared images and int64 labels, in the order of the examples. It
            raises an error that names the unreadable images if there are too many.
        """
        # After the images of a small set come those of its next pass, often in vain.
        chunk = max(1, min(_chunk(spec), self.split.num_examples))

        def load(place: tf.Tensor, item: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            image, label = self._read(item)
            return tf.ensure_shape(prepare(image, place), spec.shape), label

        def load_chunk(places: tf.Tensor, examples: tuple) -> tuple:
            names, items = examples
            count = tf.size(names)
            # A graph cannot catch an error, but a dataset can leave out the element that raises it.
            loaded = tf.data.Dataset.from_tensor_slices((tf.range(count), places, items))
            loaded = loaded.map(lambda number, *example: (number, *load(*example))).ignore_errors()
            # One batch, also of a chunk that has no readable image.
            first = (-1, tf.zeros(spec.shape, spec.dtype), tf.zeros([], tf.int64))
            loaded = tf.data.Dataset.from_tensors(first).concatenate(loaded).batch(chunk + 1)
            numbers, images, labels = untuned(loaded).get_single_element()
            lost = tf.reduce_all(tf.range(count)[:, tf.newaxis] != numbers, axis=1)
            return (names[lost], items[lost]), (images[1:], labels[1:])

        def report(lost: tuple, read: tuple) -> tf.Tensor:
            reported = tf.cond(
                tf.size(lost[0]) > 0,
                lambda: tf.py_function(self._report, lost, tf.bool),
                lambda: True,
            )
            return tf.ensure_shape(reported, [])

        chunks = examples.batch(chunk)
        chunks = chunks.map(load_chunk, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        return chunks.filter(report).map(lambda lost, read: read).unbatch()

    def read_all(
        self, prepare: Callable[[tf.Tensor], tf.Tensor], spec: tf.TensorSpec
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Read and prepare all images, in the stored order, and say how far it has come.

        Args:
            prepare: Maps an image as `Split.read` gives it to the image.
            spec: Shape and dtype of a prepared image.

        Yields:
            Up to `CHUNK` prepared images, or up to `WHOLE` serialized ones, and their labels,
            int64.
        """
        images = self.read(
            self.examples().enumerate(), lambda encoded, place: prepare(encoded), spec
        )
        count, reported = 0, time.monotonic()
        for batch, labels in untuned(images.batch(_chunk(spec)).prefetch(1)).as_numpy_iterator():
            yield batch, labels
            count += len(labels)
            if time.monotonic() - reported >= REPORT_EVERY:
                reported = time.monotonic()
                print(f"Decoded {count} of {self.split.num_examples} images.", flush=True)

    def _read(self, item: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Read the image and the label of an example, and check the label."""
        image, label = self.split.read(item)
        known = tf.debugging.Assert(
            (label >= 0) & (label < self._classes),
            ["label", label, "is none of", self._classes, "classes"],
        )
        with tf.control_dependencies([known]):
            return tf.identity(image), label

    def _report(self, names: tf.Tensor, items: tf.Tensor) -> bool:
        """Count examples that could not be read, and find out why not."""
        for name, item in zip(names, items, strict=True):
            try:
                pixels_of(self._read(item)[0], channels=3)
                reason = "no error when it was read again"
            except tf.errors.OpError as error:
                reason = without_operations(error.message)
            except UnicodeDecodeError:
                # TensorFlow's own message quotes the record, which is no text.
                reason = "the record holds no example"
            self.corrupt.add(name.numpy().decode(), reason)
        return True
