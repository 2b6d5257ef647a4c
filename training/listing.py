"""Which images a set has, before any of them is read."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

# Names of the split that a run is validated on; the first one found wins. A set's own
# "test" comes last because its labels may be withheld, as ImageNet's are.
TEST_SPLITS = ("validation", "val", "valid", "test")
IMAGE_FILES = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True)
class Listing:
    """The images of a set, by split: `"train"` and `"test"`, either of which may be missing.

    Attributes:
        class_names: Name of each class, in the order of the labels.
        images: Paths of files, or pixels `(height, width, channels)`, uint8.
        names: Name of each image in messages.
        labels: Class of each image, 0 for the first.
    """

    class_names: tuple[str, ...]
    images: dict[str, list[Any]]
    names: dict[str, list[str]]
    labels: dict[str, list[int]]


def renamed(splits: Mapping[str, Any]) -> dict[str, Any]:
    """Rename the splits of a set to `"train"` and `"test"`."""
    test = next((name for name in TEST_SPLITS if name in splits), None)
    found = {"train": splits.get("train"), "test": splits.get(test)}
    return {role: split for role, split in found.items() if split is not None}


def list_digits() -> Listing:
    """List the digits of scikit-learn, 8x8 and gray; a fifth of each class is for testing.

    Returns:
        The listing, of pixels.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    # The pixels are counts of 0..16.
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., np.newaxis]
    parts = train_test_split(
        range(len(pixels)), test_size=0.2, random_state=0, stratify=digits.target
    )
    splits = dict(zip(("train", "test"), parts, strict=True))
    return Listing(
        tuple(str(digit) for digit in digits.target_names),
        images={split: [pixels[index] for index in part] for split, part in splits.items()},
        names={split: [f"digit {index}" for index in part] for split, part in splits.items()},
        labels={split: digits.target[part].tolist() for split, part in splits.items()},
    )


def list_class_folders(root: Path) -> Listing:
    """List image files in class folders in split folders, `root/{train,test}/{class}/*.jpg`.

    Args:
        root: The folder; `test` may also be called one of `TEST_SPLITS`.

    Returns:
        The listing, of paths in alphabetical order.

    Raises:
        ValueError: If there are none.
    """
    found = {
        split: {folder: _image_files(root / split / folder) for folder in _folders(root / split)}
        for split in _folders(root)
    }
    class_names = tuple(sorted({name for folders in found.values() for name in folders}))
    splits = renamed({name: folders for name, folders in found.items() if any(folders.values())})
    if not splits:
        raise ValueError(
            f"No images found in {str(root)!r}. Expected train/CLASS/*.jpg (or .jpeg, .png) and "
            f"test/CLASS/*.jpg in it, where test may be called one of {list(TEST_SPLITS)}; or "
            f"TFRecord shards. It holds: {sorted(os.listdir(root))[:10]}"
        )
    numbers = {name: number for number, name in enumerate(class_names)}
    ordered = {
        split: sorted((path, numbers[name]) for name, paths in folders.items() for path in paths)
        for split, folders in splits.items()
    }
    paths = {split: [path for path, _ in examples] for split, examples in ordered.items()}
    labels = {split: [label for _, label in examples] for split, examples in ordered.items()}
    return Listing(class_names, images=paths, names=paths, labels=labels)


def _folders(root: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(root) if entry.is_dir())


def _image_files(folder: Path) -> list[str]:
    return [entry.path for entry in os.scandir(folder) if entry.name.lower().endswith(IMAGE_FILES)]
