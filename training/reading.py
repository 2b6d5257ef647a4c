"""Reading and decoding images, some of which may be damaged."""

from __future__ import annotations

import re
from collections.abc import Callable

import tensorflow as tf

from keras_preact.preprocessing import decode_image, rgb_to_channels
from training.corrupt import CorruptImages
from training.sources import ImageSource

# Images that a thread reads at a time. Setting a chunk up takes half a millisecond, and at the
# end of an epoch a few chunks are read in vain.
CHUNK = 16

# What a JPEG decoder can divide the size by at no cost.
JPEG_SCALES = (1, 2, 4, 8)


def decode_part(
    encoded: tf.Tensor, choose: Callable[[tf.Tensor], tf.Tensor], size: int, channels: int
) -> tf.Tensor:
    """Decode a part of an image that is about to be resized.

    Of a JPEG image only the blocks that hold the part are decoded, at 1/2, 1/4 or 1/8 of the
    scale if the part is that much larger than needed.

    Args:
        encoded: Scalar string, the content of the file.
        choose: Maps the shape of the image to the top, left, height and width of the part.
        size: Height and width that the part is resized to afterwards, in pixels.
        channels: 1 for gray, 3 for RGB.

    Returns:
        A uint8 tensor `(height, width, channels)`.
    """

    def from_jpeg() -> tf.Tensor:
        box = choose(tf.io.extract_jpeg_shape(encoded))
        scales = [
            lambda scale=scale: tf.io.decode_and_crop_jpeg(
                encoded, box // scale, channels=3, ratio=scale
            )
            for scale in JPEG_SCALES
        ]
        fits = tf.reduce_min(box[2:]) // size >= JPEG_SCALES[1:]
        return rgb_to_channels(
            tf.switch_case(tf.math.count_nonzero(fits, dtype=tf.int32), scales), channels
        )

    def from_other() -> tf.Tensor:
        image = decode_image(encoded, channels)
        top, left, height, width = tf.unstack(choose(tf.shape(image)))
        return image[top : top + height, left : left + width]

    return tf.cond(tf.io.is_jpeg(encoded), from_jpeg, from_other)


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
        self._classes = len(source.class_names)

    def read(
        self,
        examples: tf.data.Dataset,
        prepare: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
        spec: tf.TensorSpec,
    ) -> tf.data.Dataset:
        """Read and prepare images in parallel.

        Args:
            examples: What `Split.examples` gives, each with its place, an int64.
            prepare: Maps an encoded image and its place to the image.
            spec: Shape and dtype of a prepared image.

        Returns:
            A dataset of prepared images and int64 labels, in the order of the examples. It
            raises an error that names the unreadable images if there are too many.
        """

        def load(place: tf.Tensor, item: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            encoded, label = self._read(item)
            return tf.ensure_shape(prepare(encoded, place), spec.shape), label

        def load_chunk(places: tf.Tensor, examples: tuple) -> tuple:
            names, items = examples
            count = tf.size(names)
            # A graph cannot catch an error, but a dataset can leave out the element that raises it.
            loaded = tf.data.Dataset.from_tensor_slices((tf.range(count), places, items))
            loaded = loaded.map(lambda number, *example: (number, *load(*example))).ignore_errors()
            # One batch, also of a chunk that has no readable image.
            first = (-1, tf.zeros(spec.shape, spec.dtype), tf.zeros([], tf.int64))
            loaded = tf.data.Dataset.from_tensors(first).concatenate(loaded).batch(CHUNK + 1)
            numbers, images, labels = loaded.get_single_element()
            lost = tf.reduce_all(tf.range(count)[:, tf.newaxis] != numbers, axis=1)
            return (names[lost], items[lost]), (images[1:], labels[1:])

        def report(lost: tuple, chunk: tuple) -> tf.Tensor:
            reported = tf.cond(
                tf.size(lost[0]) > 0,
                lambda: tf.py_function(self._report, lost, tf.bool),
                lambda: True,
            )
            return tf.ensure_shape(reported, [])

        chunks = examples.batch(CHUNK)
        chunks = chunks.map(load_chunk, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        return chunks.filter(report).map(lambda lost, chunk: chunk).unbatch()

    def _read(self, item: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The encoded image and the label of an example, checked."""
        encoded, label = self.split.read(item)
        known = tf.debugging.Assert(
            (label >= 0) & (label < self._classes),
            ["label", label, "is none of", self._classes, "classes"],
        )
        with tf.control_dependencies([known]):
            return tf.identity(encoded), label

    def _report(self, names: tf.Tensor, items: tf.Tensor) -> bool:
        """Count examples that could not be read, and find out why not."""
        for name, item in zip(names, items, strict=True):
            try:
                decode_image(self._read(item)[0], channels=3)
                reason = "no error when it was read again"
            except tf.errors.OpError as error:
                reason = re.sub(r"\{\{.*?\}\} ?| \[Op:.*", "", error.message)
            self.corrupt.add(name.numpy().decode(), reason)
        return True
