"""Preparation of a job: devices, random generators, images."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import keras

from training.engines.batches import Batches, DeviceBatches
from training.engines.devices import Devices, choose_devices, one_device
from training.engines.fitting import Job
from training.listing.listing import Images
from training.loading.image_set import load_image_set
from training.processes import WAIT_MINUTES
from training.recipe import AUTO, Recipe, override_recipe, preprocessing_of, steps_per_epoch

# Values that a recipe must have for images on the device, since only `tf.data` does these changes.
_OFF = {
    "color_jitter": 0.0,
    "lighting": 0.0,
    "rand_augment_layers": 0,
    "mixup_alpha": 0.0,
    "cutmix_alpha": 0.0,
}
_CROPS = ("none", "pad")


@dataclass(frozen=True)
class Opened:
    """Devices and images of a job, whose batch may be open.

    Attributes:
        recipe: The recipe, its rule applied.
        images: The images.
        devices: The devices.
        make_batches: Makes the batches that a recipe asks for.
    """

    recipe: Recipe
    images: Images
    devices: Devices
    make_batches: Callable[[Recipe], Batches]

    def job(self, recipe: Recipe | None = None) -> Job:
        """Return the job.

        Args:
            recipe: The recipe with its batch, where that was open.

        Raises:
            ValueError: If the devices cannot share the batch, the images are too few for it, or the
                recipe weighs classes, and images have several labels.
        """
        recipe = recipe or self.recipe
        _check_batch_size(recipe, self.devices)
        steps_per_epoch(self.images, recipe)
        return Job(recipe, self.make_batches(recipe), self.devices)


def prepare(options: argparse.Namespace, recipe: Recipe) -> Job:
    """Choose the devices and open the images.

    Args:
        options: The command line.
        recipe: The recipe, with the overrides applied.

    Returns:
        The job.

    Raises:
        ValueError: See `open_images`, and `Opened.job`.
        FileNotFoundError: If there are no such images.
    """
    return open_images(options, recipe).job()


def open_images(options: argparse.Namespace, recipe: Recipe) -> Opened:
    """Choose the devices and open the images.

    Args:
        options: The command line.
        recipe: The recipe, with the overrides applied.

    Returns:
        Everything of the job but its batches.

    Raises:
        ValueError: If the devices cannot do what the recipe or the command line asks, or the images
            are too many or none.
        FileNotFoundError: If there are no such images.
    """
    if options.data_on_device:
        return _open_on_device(options, recipe)
    return _open_pipelines(options, recipe)


def _open_on_device(options: argparse.Namespace, recipe: Recipe) -> Opened:
    """Decode the images into memory."""
    _check_on_device(options, recipe)
    keras.utils.set_random_seed(recipe.seed)
    images = load_image_set(
        options.data,
        preprocessing_of(recipe),
        max_corrupt_images=recipe.max_corrupt_images,
        validation_split=options.validation_split,
    )
    devices = one_device()

    def make_batches(recipe: Recipe) -> Batches:
        return DeviceBatches(images, recipe, devices)

    return Opened(recipe, images, devices, make_batches)


def _check_on_device(options: argparse.Namespace, recipe: Recipe) -> None:
    if recipe.crop not in _CROPS:
        raise ValueError(
            f"Images on the device are cropped by `crop` = pad or none. Received: {recipe.crop!r}"
        )
    for name, off in _OFF.items():
        if getattr(recipe, name) != off:
            raise ValueError(
                f"Images on the device are padded, cropped, mirrored and cut out: `{name}` must be "
                f"{off}. Received: {getattr(recipe, name)}"
            )
    if recipe.rule != "none":
        raise ValueError(f"`rule` must be none for images on the device. Received: {recipe.rule!r}")
    if options.devices:
        raise ValueError(
            "Images on the device are on the first device of the backend: --devices must not be "
            f"given. Received: {' '.join(options.devices)}"
        )
    if options.deterministic:
        raise ValueError("--deterministic does not apply to images on the device.")


def _open_pipelines(options: argparse.Namespace, recipe: Recipe) -> Opened:
    """Open the images for pipelines of `tf.data`."""
    devices = prepare_machine(recipe, options.devices, options.deterministic, options.wait_minutes)
    # Images on the device need no TensorFlow.
    from training.engines.pipelines import PipelineBatches
    from training.hyperrule import apply_rule
    from training.sources import open_source

    source = open_source(options.data, options.data_dir, options.validation_split)
    recipe = override_recipe(apply_rule(recipe, source), options)
    source.num_examples("test")

    def make_batches(recipe: Recipe) -> Batches:
        return PipelineBatches(source, recipe, devices)

    return Opened(recipe, source, devices, make_batches)


def prepare_machine(
    recipe: Recipe,
    devices: Sequence[str],
    deterministic: bool,
    wait_minutes: float = WAIT_MINUTES,
) -> Devices:
    """Seed the random generators and choose the devices.

    Args:
        recipe: Gives the seed and whether XLA is used.
        devices: Names of devices, for `choose_devices`.
        deterministic: Whether every operation must give the same bits each time.
        wait_minutes: Longest time to wait for other workers, for `choose_devices`.

    Returns:
        The devices.

    Raises:
        ValueError: If the devices are wrong, or cannot do what the recipe asks.
    """
    backend = keras.backend.backend()
    chosen = choose_devices(devices, wait_minutes)
    if recipe.jit_compile and backend == "tensorflow" and chosen.replicas > 1:
        raise ValueError(
            "`jit_compile` works on one device only, because XLA cannot update variables that are "
            f"mirrored. Received: {chosen.replicas} devices"
        )
    # Before images are looked for.
    _check_batch_size(recipe, chosen)
    import tensorflow as tf

    if backend != "tensorflow":
        # It only reads images; a GPU is the other backend's.
        tf.config.set_visible_devices([], "GPU")
        if deterministic:
            raise ValueError(
                "--deterministic is of Keras's TensorFlow backend; set KERAS_BACKEND=tensorflow. "
                f"Received: {backend}"
            )
    keras.utils.set_random_seed(recipe.seed)
    if deterministic:
        tf.config.experimental.enable_op_determinism()
    return chosen


def _check_batch_size(recipe: Recipe, devices: Devices) -> None:
    if recipe.batch_size == AUTO:
        return
    if recipe.batch_size % devices.replicas:
        raise ValueError(
            f"`batch_size` must be a multiple of the {devices.replicas} devices. "
            f"Received: {recipe.batch_size}"
        )
    if recipe.micro_batch_size % devices.replicas:
        raise ValueError(
            "`batch_size` / `gradient_accumulation_steps` must be a multiple of the "
            f"{devices.replicas} devices. Received: {recipe.batch_size} / "
            f"{recipe.gradient_accumulation_steps}"
        )
