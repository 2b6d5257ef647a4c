"""BiT's HyperRule: values of a recipe from the number and the size of the images.

Section 3.3 of "Big Transfer" (arXiv:1912.11370) gives the steps, the batch, the rates, the crops
and mixup. The lengths of the warm-up, and the crop for the largest net, are those of the code that
its authors published (google-research/big_transfer).
"""

from __future__ import annotations

import statistics
from typing import Any

import tensorflow as tf

from training.loading.reading import pixels_of
from training.recipe import Recipe
from training.sources import ImageSource

# Images drawn at random to find out how large they are.
SAMPLE = 64
SMALL_AREA = 96 * 96
# Number of images below it, steps, steps of the warm-up, steps of an epoch, alpha of mixup.
_REGIMES = (
    (20_000, 500, 100, 50, 0.0),
    (500_000, 10_000, 500, 500, 0.1),
    (float("inf"), 20_000, 500, 1_000, 0.1),
)
_LARGEST_NET = "152x4"


def bit_hyperrule(images: int, area: float, model: str) -> dict[str, Any]:
    """Return the values of the HyperRule.

    Evaluation happens ten times in a small data set's 500 steps, and twenty times in the longer
    schedules of larger ones.

    Args:
        images: Number of training images.
        area: Height times width of a typical one, in pixels.
        model: Name of the builder.

    Returns:
        Values of a recipe, by name.
    """
    steps, warmup_steps, epoch_steps, mixup = next(
        values for limit, *values in _REGIMES if images < limit
    )
    epochs = steps // epoch_steps
    if area < SMALL_AREA:
        resize_size, input_size = 160, 128
    elif model.endswith(_LARGEST_NET):
        resize_size, input_size = 512, 480
    else:
        resize_size, input_size = 448, 384
    return {
        "epochs": epochs,
        "epoch_steps": epoch_steps,
        "batch_size": 512,
        "reference_batch_size": 512,
        "learning_rate": 0.003,
        "warmup_epochs": warmup_steps / epoch_steps,
        "warmup_learning_rate": 0.0,
        "warmup_constant": False,
        "schedule": "step",
        "step_epochs": tuple(tenths * epochs / 10 for tenths in (3, 6, 9)),
        "step_factor": 0.1,
        "crop": "random",
        "resize_size": resize_size,
        "input_size": input_size,
        "mixup_alpha": mixup,
    }


def typical_area(source: ImageSource) -> float:
    """Return the median area of some training images, in pixels.

    Args:
        source: The images.

    Returns:
        The area.

    Raises:
        ValueError: If none of the images can be read.
    """
    split = source.split("train")

    def area(name: tf.Tensor, item: tf.Tensor) -> tf.Tensor:
        return tf.reduce_prod(tf.shape(pixels_of(split.read(item)[0], channels=3))[:2])

    examples = split.examples(tf.constant([0, 0], tf.int64)).take(SAMPLE)
    areas = list(examples.map(area).ignore_errors().as_numpy_iterator())
    if not areas:
        raise ValueError(f"None of {SAMPLE} training images of {source.name!r} can be read.")
    return float(statistics.median(areas))


def apply_rule(recipe: Recipe, source: ImageSource) -> Recipe:
    """Replace the values that a recipe leaves to its rule.

    Args:
        recipe: Names the rule, if any.
        source: The images.

    Returns:
        The recipe; the same one if its rule is `"none"`.
    """
    if recipe.rule == "none":
        return recipe
    images = source.num_examples("train")
    return recipe.replace(**bit_hyperrule(images, typical_area(source), recipe.model))
