"""Which images a set has, before any of them is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

# Names of the split that a run is validated on; the first one found wins. A set's own
# "test" comes last because its labels may be withheld, as ImageNet's are.
TEST_SPLITS = ("validation", "val", "valid", "test")


@dataclass(frozen=True)
class Listing:
    """The images of a set, by split: `"train"` and `"test"`, either of which may be missing.

    Attributes:
        class_names: Name of each class, in the order of the labels.
        images: Paths of files, or pixels `(images, height, width, channels)`, uint8, of 1 or 3
            channels.
        names: Name of each image in messages.
        labels: Class of each image, 0 for the first.
    """

    class_names: tuple[str, ...]
    images: Mapping[str, list[str] | np.ndarray]
    names: dict[str, list[str]]
    labels: dict[str, list[int]]


def renamed(splits: Mapping[str, Any]) -> dict[str, Any]:
    """Rename the splits of a set to `"train"` and `"test"`."""
    test = next((name for name in TEST_SPLITS if name in splits), None)
    found = {"train": splits.get("train"), "test": splits.get(test) if test else None}
    return {role: split for role, split in found.items() if split is not None}


def check_classes(
    name: str, class_names: Sequence[str], labels: Mapping[str, Sequence[int]], advice: str
) -> None:
    """Check that every class has images in every split.

    Args:
        name: Name of the set.
        class_names: Name of each class.
        labels: Class of each image, by split.
        advice: What to do about a class without images.

    Raises:
        ValueError: If one has none. The message names it, and the split.
    """
    found = {split: set(each) for split, each in labels.items()}
    missing = {
        split: [name for number, name in enumerate(class_names) if number not in numbers]
        for split, numbers in found.items()
    }
    if any(missing.values()):
        lacks = "; ".join(
            f"{names} in the {split} split" for split, names in missing.items() if names
        )
        raise ValueError(f"Classes without images in {name!r}: {lacks}. {advice}")
