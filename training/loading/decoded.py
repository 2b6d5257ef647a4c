"""Images of any size that are kept in memory, decoded."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from training.loading.reading import ImageReader, pixels_of
from training.sources import indices_in_order

# Bytes in a row of the tensor that holds all pixels. One dimension of 2 GiB would be longer than
# TensorFlow can count, and slices of whole blocks of 64 bytes are not copied.
ROW = 64
# Images whose sizes tell about those of all others.
SAMPLE = 256


class DecodedImages:
    """Decoded images, which are read as an `ImageReader` reads encoded ones.

    Args:
        images: uint8 tensors `(height, width, channels)`.
        labels: Class of each image.
    """

    def __init__(self, images: Sequence[tf.Tensor], labels: Sequence[int]) -> None:
        self._num_examples = len(images)
        self._channels = images[0].shape[-1]
        shapes = np.array([image.shape for image in images])
        rows = -(-shapes.prod(axis=1) // ROW)
        with tf.device("CPU"):
            self._labels = tf.constant(labels, tf.int64)
            self._shapes = tf.constant(shapes, tf.int64)
            self._ends = tf.constant(rows.cumsum(), tf.int64)
            self._starts = self._ends - rows
            self._rows = tf.concat([_in_rows(image) for image in images], axis=0)

    @classmethod
    def of(cls, reader: ImageReader, channels: int, max_bytes: int) -> DecodedImages | None:
        """Decode what a reader reads, if it fits into memory.

        Args:
            reader: Gives the images. It counts the unreadable ones.
            channels: 1 for gray, 3 for RGB.
            max_bytes: Memory that all of them may take. Reading ends as soon as those read take
                more, or `SAMPLE` of them let expect that all will.

        Returns:
            The images, or None if they are too large.
        """
        if not max_bytes:
            return None
        # Of unlike shapes, which a string can hold and a batch of pixels cannot.
        contents = reader.read_all(
            lambda image: tf.io.serialize_tensor(pixels_of(image, channels)),
            tf.TensorSpec([], tf.string),
        )
        images, labels, size = [], [], 0
        for batch, batch_labels in contents:
            images += [tf.io.parse_tensor(content, tf.uint8) for content in batch]
            labels += list(batch_labels)
            size += sum(int(tf.size(image)) for image in images[-len(batch) :])
            others = reader.split.num_examples / len(images) if len(images) >= SAMPLE else 1
            if size * others > max_bytes:
                return None
        return cls(images, labels)

    def examples(self, seed: tf.Tensor | None = None) -> tf.data.Dataset:
        """Return one pass over the examples: their indices, shuffled if there is a seed."""
        return indices_in_order(self._num_examples, seed)

    def read(
        self,
        examples: tf.data.Dataset,
        prepare: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
        spec: tf.TensorSpec,
    ) -> tf.data.Dataset:
        """Prepare images in parallel.

        Args:
            examples: The dataset from `examples`, each element with its place, an int64.
            prepare: Maps a decoded image and its place to the image.
            spec: Shape and dtype of a prepared image.

        Returns:
            A dataset of prepared images and int64 labels, in the order of the examples.
        """

        def load(place: tf.Tensor, index: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            shape = self._shapes[index]
            rows = self._rows[self._starts[index] : self._ends[index]]
            image = tf.reshape(tf.reshape(rows, [-1])[: tf.reduce_prod(shape)], shape)
            image.set_shape([None, None, self._channels])
            return tf.ensure_shape(prepare(image, place), spec.shape), self._labels[index]

        return examples.map(load, num_parallel_calls=tf.data.AUTOTUNE)


def _in_rows(image: tf.Tensor) -> tf.Tensor:
    """Reshape the pixels of an image to rows, the last one filled up."""
    pixels = tf.reshape(image, [-1])
    return tf.reshape(tf.pad(pixels, [[0, -len(pixels) % ROW]]), [-1, ROW])
