"""Which images a set has, before any of them is read."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
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
    found = {"train": splits.get("train"), "test": splits.get(test) if test else None}
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

    Hidden files and folders, which file managers, archives and notebooks leave, are skipped.

    Args:
        root: The folder; `test` may also be called one of `TEST_SPLITS`.

    Returns:
        The listing, of paths in alphabetical order.

    Raises:
        ValueError: If there are none, or a class has none in one of the splits.
    """
    found = {
        split: {folder: _image_files(root / split / folder) for folder in _folders(root / split)}
        for split in _folders(root)
        if split in ("train", *TEST_SPLITS)
    }
    splits = renamed({name: folders for name, folders in found.items() if any(folders.values())})
    if not splits:
        raise ValueError(
            f"No images found in {str(root)!r}. Expected train/CLASS/*.jpg (or .jpeg, .png) and "
            f"test/CLASS/*.jpg in it, where test may be called one of {list(TEST_SPLITS)}; or "
            f"TFRecord shards. It holds: {sorted(os.listdir(root))[:10]}"
        )
    class_names = tuple(sorted({name for folders in splits.values() for name in folders}))
    _check_classes(root, class_names, splits)
    numbers = {name: number for number, name in enumerate(class_names)}
    ordered = {
        split: sorted((path, numbers[name]) for name, paths in folders.items() for path in paths)
        for split, folders in splits.items()
    }
    paths = {split: [path for path, _ in examples] for split, examples in ordered.items()}
    labels = {split: [label for _, label in examples] for split, examples in ordered.items()}
    return Listing(class_names, images=paths, names=paths, labels=labels)


def _check_classes(
    root: Path, class_names: Sequence[str], splits: Mapping[str, Mapping[str, list[str]]]
) -> None:
    """Check that every class has images in every split.

    Raises:
        ValueError: If one has none. The message names it, and the split.
    """
    missing = {
        split: [name for name in class_names if not folders.get(name)]
        for split, folders in splits.items()
    }
    if any(missing.values()):
        lacks = "; ".join(
            f"{names} in the {split} split" for split, names in missing.items() if names
        )
        raise ValueError(
            f"Classes without images in {str(root)!r}: {lacks}. Every class needs images, which "
            f"end in one of {IMAGE_FILES} and lie in the class's folder itself, in each split; "
            "remove the folders of other classes."
        )


def _folders(root: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and _is_seen(entry))


def _image_files(folder: Path) -> list[str]:
    return [
        entry.path
        for entry in os.scandir(folder)
        if entry.name.lower().endswith(IMAGE_FILES) and _is_seen(entry)
    ]


def _is_seen(entry: os.DirEntry[str]) -> bool:
    """Return whether a file or folder is not hidden. macOS writes `__MACOSX` into archives."""
    return not entry.name.startswith(".") and entry.name != "__MACOSX"
