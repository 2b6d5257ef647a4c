"""What a command line of `training.train` asks for, on whatever does it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import keras

from training.recipe import Recipe
from training.records.checkpoint import Progress
from training.run import Run


class Images(Protocol):
    """What is known of the images of a run, wherever they are."""

    name: str
    class_names: tuple[str, ...]

    def num_examples(self, split: str) -> int:
        """Number of images in a split, `"train"` or `"test"`."""


@dataclass(frozen=True)
class Job:
    """A recipe and its images, on the devices that train it.

    Attributes:
        recipe: The values of the run, the rule of a recipe applied.
        images: The images.
        device_names: The processors.
        writes: Whether this process is the one that writes the files of the run.
        build_net: Makes the net as its first step finds it.
        train: Trains it from the last checkpoint of the run on; the last argument tells whether
            the run was asked to stop.
    """

    recipe: Recipe
    images: Images
    device_names: list[str]
    writes: bool
    build_net: Callable[[], keras.Model]
    train: Callable[[keras.Model, Run, Callable[[], bool]], Progress]
