"""Batches of a run, made from a source of images.

Element `k` of epoch `e` of the training batches depends only on the seed, `e` and `k`, so a run
that is taken up again sees the batches that it would have seen.

Images that fit into memory once they are decoded are decoded once, before the first batch; the
others are decoded in every epoch.

Several workers share a batch: each gets its own part of it. Where all images are of one shape and
in memory, they are cheap to come by, so each worker makes the whole batch, as a single process
would, and keeps its part. Other images are read, or cut out of what is in memory, by the worker
that gets them, which then draws colors, mixup and CutMix for its own part; crops and
mirroring are those of a single process.
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from keras_preact.preprocessing import Preprocessing
from training.augmentation import augment
from training.augmentation.colors import ColorMap, color_jitter, lighting
from training.augmentation.pixels import to_uint8
from training.augmentation.rand_augment import rand_augment
from training.class_weight import class_weights
from training.loading.decoded import DecodedImages
from training.loading.reading import ImageReader, part_of, pixels_of, untuned
from training.recipe import Recipe, preprocessing_of, steps_per_epoch
from training.sources import ImageSource, indices_in_order

AUTOTUNE = tf.data.AUTOTUNE


class _Purpose(enum.IntEnum):
    """Purposes of random draws; each has its own stream of numbers."""

    ORDER = 0
    MOVE = 1
    AUGMENT = 2
    MIX = 3


@tf.autograph.experimental.do_not_convert
def training_pipeline(
    source: ImageSource,
    recipe: Recipe,
    *,
    first_step: int = 0,
    context: tf.distribute.InputContext | None = None,
) -> tf.data.Dataset:
    """Make the shuffled, augmented batches of a run, without end.

    An epoch has `steps_per_epoch(source, recipe)` full batches. Where the images that can be read
    are too few for them, another pass begins, in another order.

    Args:
        source: Where the images come from.
        recipe: Says how they are cropped, augmented and batched.
        first_step: Step of the run to start at, for one that is taken up again. Where images that
            are read on the way turn out unreadable, an epoch that is entered in the middle has
            the images after them a little earlier.
        context: Which worker this is, of how many that share each batch; by default the only one.

    Returns:
        A dataset of images `(batch, input_size, input_size, channels)`, normalized float32, and
        labels `(batch, classes)`, float32: one-hot, of several labels 0 and 1, and mixed where the
        recipe says so; `batch` is `batch_size` divided by the number of workers. With a
        `class_weight` follow the weights of the images in the loss, `(batch,)`, float32: of a mixed
        one, those of its classes in proportion to its label.

    Raises:
        ValueError: If the source has no training split, or less than a batch of images, or the
            recipe weighs classes, and images have several labels.
    """
    steps = steps_per_epoch(source, recipe)
    reader = ImageReader(source, "train", recipe.max_corrupt_images)
    worker = context or tf.distribute.InputContext()
    weights = source_weights(source, recipe)

    def finish(number: tf.Tensor, images: tf.Tensor, labels: tf.Tensor) -> tuple:
        return augment.mix(
            _augment(images, _seed(recipe, _Purpose.AUGMENT, number), recipe),
            _targets(labels, source),
            _seed(recipe, _Purpose.MIX, number),
            mixup_alpha=recipe.mixup_alpha,
            cutmix_alpha=recipe.cutmix_alpha,
        )

    def keep_part(images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        size = recipe.batch_size // worker.num_input_pipelines
        part = slice(worker.input_pipeline_id * size, (worker.input_pipeline_id + 1) * size)
        return images[part], labels[part]

    def weigh(images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        return images, labels, tf.linalg.matvec(labels, tf.constant(weights))

    if recipe.crop == "random_resized":
        images = DecodedImages.of(reader, recipe.channels, _max_bytes(recipe)) or reader
        parts = _batches_one_by_one(images, recipe, steps, first_step, worker)
        batches = parts.map(finish, num_parallel_calls=AUTOTUNE)
    elif kept_bytes(reader.split.num_examples, stored_spec(recipe), recipe):
        whole = _batches_from_memory(reader, recipe, steps, first_step)
        batches = whole.map(lambda *batch: keep_part(*finish(*batch)), num_parallel_calls=AUTOTUNE)
    else:
        parts = _batches_one_by_one(reader, recipe, steps, first_step, worker)
        batches = parts.map(finish, num_parallel_calls=AUTOTUNE)
    if weights is not None:
        batches = batches.map(weigh)
    # Workers would ask one another before every step whether anyone's batches have ended.
    endless = tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY)
    return _prefetched(batches.apply(endless))


@tf.autograph.experimental.do_not_convert
def evaluation_pipeline(
    source: ImageSource,
    recipe: Recipe,
    split: str = "test",
    *,
    context: tf.distribute.InputContext | None = None,
) -> tf.data.Dataset:
    """Make batches of a split, once and in stored order, as a trained net sees them.

    The last batch holds the remainder. Unreadable images are left out.

    Args:
        source: Where the images come from.
        recipe: Says how they are resized, cropped and batched.
        split: `"test"` or `"train"`.
        context: Which worker this is, of how many that take turns at the images; by default the
            only one.

    Returns:
        A dataset of images `(up to batch, input_size, input_size, channels)`, normalized float32,
        and labels `(up to batch, classes)`, float32, one-hot, or of several labels 0 and 1;
        `batch` is `micro_batch_size` divided by the number of workers.

    Raises:
        ValueError: If the source has no such split.
    """
    preprocessing = preprocessing_of(recipe)
    worker = context or tf.distribute.InputContext()
    reader = ImageReader(source, split, recipe.max_corrupt_images)
    examples = reader.examples().enumerate()
    spec = evaluated_spec(recipe)
    images = reader.read(
        examples.shard(worker.num_input_pipelines, worker.input_pipeline_id),
        lambda image, place: _resize_and_crop(image, preprocessing),
        spec,
    )
    if kept_bytes(reader.split.num_examples, spec, recipe):
        images = images.cache()

    def finish(images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return preprocessing.normalize(images, "float32"), _targets(labels, source)

    size = recipe.micro_batch_size // worker.num_input_pipelines
    batches = images.batch(size, num_parallel_calls=AUTOTUNE)
    return _prefetched(batches.map(finish, num_parallel_calls=AUTOTUNE))


def source_weights(source: ImageSource, recipe: Recipe) -> np.ndarray | None:
    """Return the weight of every class in the loss of a run; see `class_weights`.

    Args:
        source: The images, of whose training labels all count, whichever worker reads them.
        recipe: Says how classes weigh.
    """
    return class_weights(recipe.class_weight, source, lambda: class_counts(source))


# A run asks again wherever it begins, and from shards all records are read.
@functools.lru_cache(maxsize=1)
def class_counts(source: ImageSource) -> np.ndarray:
    """Count the training images of every class; no image file is read.

    Records that hold no example, and labels of none of the classes, are left out, as `ImageReader`
    leaves them out, which counts and names them.

    Args:
        source: The images.

    Returns:
        int64 `(classes,)`.
    """
    split, counts = source.split("train"), np.zeros(len(source.class_names), np.int64)
    labels = split.examples().map(lambda name, item: split.read(item)[1]).ignore_errors()
    known = labels.filter(lambda label: (label >= 0) & (label < len(counts)))
    for part in known.batch(4096).as_numpy_iterator():
        counts += np.bincount(part, minlength=len(counts))
    return counts


def _targets(labels: tf.Tensor, source: ImageSource) -> tf.Tensor:
    """Return what a net is to say of images with these labels, float32 `(batch, classes)`."""
    if source.label_sets is None:
        return tf.one_hot(labels, len(source.class_names))
    return tf.cast(tf.gather(tf.constant(source.label_sets), labels), tf.float32)


def _max_bytes(recipe: Recipe) -> int:
    return int(recipe.cache_gib * 2**30)


def kept_bytes(count: int, spec: tf.TensorSpec, recipe: Recipe) -> int:
    """Return the bytes of images of one shape that memory keeps.

    Args:
        count: Number of images.
        spec: Shape and dtype of each: `stored_spec` or `evaluated_spec`.
        recipe: Says how much memory they may take.

    Returns:
        The bytes; 0 where they are too many, and the images are decoded in every epoch.
    """
    size = count * spec.shape.num_elements() * spec.dtype.size
    return size if size <= _max_bytes(recipe) else 0


def _image_spec(recipe: Recipe, dtype: tf.DType) -> tf.TensorSpec:
    return tf.TensorSpec([recipe.input_size, recipe.input_size, recipe.channels], dtype)


def evaluated_spec(recipe: Recipe) -> tf.TensorSpec:
    """Return shape and dtype of an image for evaluation, before it is normalized."""
    return _image_spec(recipe, tf.float32)


def stored_spec(recipe: Recipe) -> tf.TensorSpec:
    """Return shape and dtype of a training image before the random crop."""
    size = recipe.resize_size if recipe.crop == "random" else recipe.input_size
    return tf.TensorSpec([size, size, recipe.channels], tf.uint8)


def _stored_image(image: tf.Tensor, recipe: Recipe) -> tf.Tensor:
    """Decode a training image into its form before the random crop, uint8."""
    preprocessing = preprocessing_of(recipe)
    if recipe.crop != "random":
        return to_uint8(_resize_and_crop(image, preprocessing))
    # The whole image, whatever its shape, as in BiT (arXiv:1912.11370).
    image = pixels_of(image, preprocessing.channels)
    size = [recipe.resize_size] * 2
    return to_uint8(tf.image.resize(image, size, method=recipe.interpolation, antialias=True))


def _keeps_size(size: Sequence[int], recipe: Recipe) -> bool:
    """Return whether `_stored_image` leaves pixels of this height and width as they are."""
    stored = stored_spec(recipe).shape[0]
    resized = stored if recipe.crop == "random" else preprocessing_of(recipe).resize_size
    return {*size} == {stored} == {resized}


def _seed(recipe: Recipe, purpose: _Purpose, number: tf.Tensor) -> tf.Tensor:
    """Return the seed of an epoch or a step by its number, int64 `(2,)`."""
    return _fold(tf.constant([recipe.seed, purpose], tf.int64), number)


def _order(
    examples: Callable[[tf.Tensor], tf.data.Dataset], recipe: Recipe, epoch: tf.Tensor
) -> tf.data.Dataset:
    """Make the order of an epoch, without end: passes over all examples, each shuffled anew."""
    seed = _seed(recipe, _Purpose.ORDER, epoch)
    passes = tf.data.Dataset.range(tf.int64.max)
    return passes.flat_map(lambda number: examples(_fold(seed, number)))


def _fold(seed: tf.Tensor, number: tf.Tensor) -> tf.Tensor:
    return tf.random.experimental.stateless_fold_in(seed, number)


def _prefetched(batches: tf.data.Dataset) -> tf.data.Dataset:
    options = tf.data.Options()
    options.deterministic = True
    return untuned(batches.prefetch(AUTOTUNE).with_options(options))


def _resize_and_crop(image: tf.Tensor, preprocessing: Preprocessing) -> tf.Tensor:
    """Decode an image as for evaluation: float32, pixels in 0..255."""
    image = pixels_of(image, preprocessing.channels)
    if preprocessing.resize_size != preprocessing.input_size:
        return preprocessing.resize_and_crop(image)
    # Resampling an image to its own size changes nothing, but takes longer than decoding it.
    resized = tf.cond(
        tf.reduce_all(tf.shape(image)[:2] == preprocessing.input_size),
        lambda: tf.cast(image, tf.float32),
        lambda: preprocessing.resize_and_crop(image),
    )
    size = preprocessing.input_size
    return tf.ensure_shape(resized, [size, size, preprocessing.channels])


def _batches_from_memory(
    reader: ImageReader, recipe: Recipe, steps: int, first_step: int
) -> tf.data.Dataset:
    """Make shuffled uint8 batches of images decoded beforehand, each with its step."""
    images, labels = _load(reader, recipe)
    examples = functools.partial(indices_in_order, len(images))

    def epoch_batches(epoch: tf.Tensor) -> tf.data.Dataset:
        batches = _order(examples, recipe, epoch).batch(recipe.batch_size, drop_remainder=True)
        return batches.take(steps).skip(tf.maximum(first_step - epoch * steps, 0))

    def gather(step: tf.Tensor, indices: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        moved = _move(tf.gather(images, indices), _seed(recipe, _Purpose.MOVE, step), recipe)
        return step, moved, tf.gather(labels, indices)

    epochs = tf.data.Dataset.range(first_step // steps, tf.int64.max)
    batches = epochs.flat_map(epoch_batches).enumerate(first_step)
    return batches.map(gather, num_parallel_calls=AUTOTUNE)


def _load(reader: ImageReader, recipe: Recipe) -> tuple[tf.Tensor, tf.Tensor]:
    """Decode all readable images of a split, uint8, with their labels."""
    spec = stored_spec(recipe)
    split = reader.split
    if split.pixels is not None and _keeps_size(split.pixels.shape[1:3], recipe):
        return pixels_of(split.pixels, recipe.channels), split.labels
    batches = reader.read_all(lambda image: _stored_image(image, recipe), spec)
    images = np.empty((reader.split.num_examples, *spec.shape), np.uint8)
    labels = np.empty(len(images), np.int64)
    count = 0
    for batch, batch_labels in batches:
        part = slice(count, count + len(batch))
        images[part], labels[part] = batch, batch_labels
        count = part.stop
    return tf.constant(images[:count]), tf.constant(labels[:count])


def _batches_one_by_one(
    reader: ImageReader | DecodedImages,
    recipe: Recipe,
    steps: int,
    first_step: int,
    context: tf.distribute.InputContext,
) -> tf.data.Dataset:
    """Make the parts of shuffled uint8 batches for a worker, from images prepared one by one.

    Each has a number that no other part of the run has; for a single worker it is the step.
    """
    workers, worker = context.num_input_pipelines, context.input_pipeline_id
    part_size = recipe.batch_size // workers

    def is_own(place: tf.Tensor, example: tuple) -> tf.Tensor:
        return place % recipe.batch_size // part_size == worker

    def epoch_batches(epoch: tf.Tensor) -> tf.data.Dataset:
        epoch_seed = _seed(recipe, _Purpose.MOVE, epoch)
        steps_done = tf.maximum(first_step - epoch * steps, 0)

        def prepare(image: tf.Tensor, place: tf.Tensor) -> tf.Tensor:
            seed = _fold(epoch_seed, place)
            if recipe.crop == "random_resized":
                return to_uint8(_random_resized_crop(image, seed, recipe))
            return _move(_stored_image(image, recipe)[tf.newaxis], seed, recipe)[0]

        order = _order(reader.examples, recipe, epoch)
        examples = order.enumerate().skip(steps_done * recipe.batch_size).filter(is_own)
        images = reader.read(examples, prepare, _image_spec(recipe, tf.uint8))
        images = images.take((steps - steps_done) * part_size)
        return images.batch(part_size, drop_remainder=True, num_parallel_calls=AUTOTUNE)

    epochs = tf.data.Dataset.range(first_step // steps, tf.int64.max)
    parts = epochs.flat_map(epoch_batches).enumerate(first_step)
    return parts.map(lambda step, part: (step * workers + worker, *part))


def _random_resized_crop(image: tf.Tensor, seed: tf.Tensor, recipe: Recipe) -> tf.Tensor:
    """Crop a random part of an image, resize and mirror it: float32, in 0..255."""
    crop_seed, flip_seed = tf.unstack(tf.random.split(seed, 2))
    part = part_of(
        image,
        lambda shape: augment.random_box(shape, crop_seed, min_area=recipe.min_area),
        recipe.input_size,
        recipe.channels,
    )
    if recipe.flip:
        # Bytes are cheaper to mirror than the floats of the resized image.
        part = tf.image.stateless_random_flip_left_right(part, flip_seed)
    # The same numbers as from bytes, a quarter faster.
    part = tf.cast(part, tf.float32)
    return tf.image.resize(part, [recipe.input_size] * 2, method=recipe.interpolation)


def _move(images: tf.Tensor, seed: tf.Tensor, recipe: Recipe) -> tf.Tensor:
    """Crop a batch of stored images to the input size, and mirror them."""
    crop_seed, flip_seed = tf.unstack(tf.random.split(seed, 2))
    if recipe.crop == "pad":
        fill = [round(255 * mean) for mean in recipe.mean]
        images = augment.pad_and_crop(images, crop_seed, pad=recipe.pad, fill=fill)
    if recipe.crop == "random":
        size = recipe.input_size
        images = augment.random_crop(images, crop_seed, height=size, width=size)
    if recipe.flip:
        images = augment.random_flip(images, flip_seed)
    return images


def _augment(images: tf.Tensor, seed: tf.Tensor, recipe: Recipe) -> tf.Tensor:
    """Change the colors of a batch of uint8 images, and normalize it."""
    # Each change has its own seed: switching one off leaves the others as they are.
    rand_seed, jitter_seed, lighting_seed, cutout_seed = tf.unstack(tf.random.split(seed, 4))
    if recipe.rand_augment_layers:
        images = rand_augment(
            images,
            rand_seed,
            layers=recipe.rand_augment_layers,
            magnitude=recipe.rand_augment_magnitude,
        )
    images = tf.cast(images, tf.float32)
    if recipe.color_jitter or recipe.lighting:
        scale, black = _normalization(preprocessing_of(recipe))
        change = ColorMap(tf.linalg.diag(scale)[tf.newaxis], black[tf.newaxis])
        if recipe.lighting:
            change = lighting(images, lighting_seed, deviation=recipe.lighting).then(change)
        if recipe.color_jitter:
            change = color_jitter(images, jitter_seed, strength=recipe.color_jitter).then(change)
        images = change.apply(images)
    else:
        images = preprocessing_of(recipe).normalize(images, "float32")
    if recipe.cutout:
        images = augment.cutout(images, cutout_seed, size=recipe.cutout)
    return images


def _normalization(preprocessing: Preprocessing) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the scale and the offset per channel of `Preprocessing.normalize`."""
    black, white = (
        preprocessing.normalize(tf.fill([preprocessing.channels], value), "float32")
        for value in (0.0, 255.0)
    )
    return (white - black) / 255, black
