"""Image files in class folders."""

from __future__ import annotations

import os
from pathlib import Path

from training.listing.listing import TEST_SPLITS, Listing, check_classes, renamed

IMAGE_FILES = (".jpg", ".jpeg", ".png")
_ADVICE = (
    f"Every class needs images, which end in one of {IMAGE_FILES} and lie in the class's folder "
    "itself, in each split; remove the folders of other classes."
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
    numbers = {name: number for number, name in enumerate(class_names)}
    ordered = {
        split: sorted((path, numbers[name]) for name, paths in folders.items() for path in paths)
        for split, folders in splits.items()
    }
    paths = {split: [path for path, _ in examples] for split, examples in ordered.items()}
    labels = {split: [label for _, label in examples] for split, examples in ordered.items()}
    check_classes(str(root), class_names, labels, _ADVICE)
    return Listing(class_names, images=paths, names=paths, labels=labels)


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
