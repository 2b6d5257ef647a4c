"""Which images a set has, before any of them is read."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from keras_preact.files import read_text

# Names of the split that a run is validated on; the first one found wins. A set's own
# "test" comes last because its labels may be withheld, as ImageNet's are.
TEST_SPLITS = ("validation", "val", "valid", "test")
# Name of the only split of a set that comes without any.
UNSPLIT = "all"


@dataclass(frozen=True)
class Listing:
    """The images of a set, by split: `"train"` and `"test"`, either of which may be missing.

    Attributes:
        class_names: Name of each class, in the order of the labels.
        images: Paths of files, or pixels `(images, height, width, channels)`, uint8, of 1 or 3
            channels.
        names: Name of each image in messages.
        labels: Class of each image, 0 for the first; of several labels the row of `label_sets`.
        left_out: What there is beside the images, and how often, in words.
        held_out: Share of the images that was held out for testing, if a part was.
        label_sets: Where an image has any number of labels: the sets of them that occur, 0 and 1,
            uint8 `(sets, classes)`. None where it has one class.
    """

    class_names: tuple[str, ...]
    images: Mapping[str, list[str] | np.ndarray]
    names: dict[str, list[str]]
    labels: dict[str, list[int]]
    left_out: tuple[str, ...] = field(default=(), compare=False)
    held_out: float | None = None
    label_sets: np.ndarray | None = None


class Images(Protocol):
    """Facts about the images of a set, wherever they are."""

    @property
    def name(self) -> str:
        """The name that the user gave for the set."""
        ...

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of each class, in the order of the labels."""
        ...

    @property
    def left_out(self) -> tuple[str, ...]:
        """What there is beside the images; see `Listing`."""
        ...

    @property
    def held_out(self) -> float | None:
        """Share of the images that was held out for testing; see `Listing`."""
        ...

    @property
    def label_sets(self) -> np.ndarray | None:
        """The sets of labels, where an image has any number of them; see `Listing`."""
        ...

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits: `"train"`, `"test"` or both."""
        ...

    def num_examples(self, split: str) -> int:
        """Return the number of images in a split."""
        ...


def summary(images: Images) -> str:
    """Say in a line how many images a set has, and what of it is left out."""
    counts = " and ".join(
        f"{images.num_examples(split)} for {'training' if split == 'train' else 'testing'}"
        for split in images.splits
    )
    kind = "classes" if images.label_sets is None else "labels"
    line = f"{images.name}: {len(images.class_names)} {kind}, images: {counts}"
    if images.held_out == 1:
        line += " (there is no split: all of them)"
    elif images.held_out:
        line += f" ({images.held_out:.0%} held out, by the hashes of their names)"
    return f"{line}. Left out: {', '.join(images.left_out)}." if images.left_out else f"{line}."


def is_same_set(one: str, other: str) -> bool:
    """Return whether two names, as a user gives them, are of one set: `photos` and `./photos/`."""
    first, second = (Path(name).expanduser().resolve() for name in (one, other))
    return first == second


def renamed(splits: Mapping[str, Any]) -> dict[str, Any]:
    """Rename the splits of a set to `"train"` and `"test"`."""
    test = next((name for name in TEST_SPLITS if name in splits), None)
    found = {"train": splits.get("train"), "test": splits.get(test) if test else None}
    return {role: split for role, split in found.items() if split is not None}


def chosen(values: Sequence[Any] | np.ndarray, places: Sequence[int] | np.ndarray) -> Any:
    """Return the values at some places, of the same kind: a list, or an array."""
    return values[places] if isinstance(values, np.ndarray) else [values[place] for place in places]


def check_splits(name: str, listing: Listing) -> None:
    """Check that a set has a training and a test split.

    Args:
        name: The name that the user gave for the set.
        listing: Its images.

    Raises:
        ValueError: If one is missing. The message names it.
    """
    missing = [split for split in ("train", "test") if split not in listing.names]
    if not missing:
        return
    advice = ""
    if listing.held_out == 1:
        advice = " `--validation-split 1` holds out all images, and leaves none for training."
    elif missing == ["test"]:
        advice = " `--validation-split 0.2` makes a part of the training images the test split."
    raise ValueError(
        f"{name!r} has no {missing[0]!r} split. It has: {list(listing.names)}.{advice}"
    )


def read_class_names(path: Path) -> list[str]:
    """Read the names of classes, one per line in the order of the labels.

    Args:
        path: The file. Empty lines at its end do not count.

    Returns:
        The names.

    Raises:
        ValueError: If another line is empty: all labels after it would move.
    """
    names = [line.strip() for line in read_text(path).rstrip().splitlines()]
    if "" in names:
        raise ValueError(
            f"{str(path)!r} must name a class in every line. Line {names.index('') + 1} is empty."
        )
    return names


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
        raise ValueError(
            f"Classes without images in {name!r}: {lacks}. {advice}{_look_alikes(class_names)}"
        )


def check_label_sets(
    name: str,
    class_names: Sequence[str],
    labels: Mapping[str, Sequence[int]],
    label_sets: np.ndarray,
) -> None:
    """Check that every label can be learned, and that some can be tested.

    Args:
        name: Name of the set.
        class_names: Name of each label.
        labels: Row of `label_sets` of each image, by split.
        label_sets: See `Listing`.

    Raises:
        ValueError: If no image of a split has a label, or labels have no training images.
    """
    counts = {
        split: label_sets[np.asarray(rows, np.int64)].sum(axis=0) for split, rows in labels.items()
    }
    for split, each in counts.items():
        if not each.any():
            raise ValueError(f"No image in the {split} split of {name!r} has a label.")
    if "train" in counts and not counts["train"].all():
        missing = [
            each for each, count in zip(class_names, counts["train"], strict=True) if not count
        ]
        raise ValueError(
            f"Labels without training images in {name!r}: {missing}. Every label needs some; where "
            f"a part of the images is held out, two or more.{_look_alikes(class_names)}"
        )


def _look_alikes(names: Sequence[str]) -> str:
    """Return a sentence on names of classes that read alike; none if there are none."""
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault(unicodedata.normalize("NFC", name).casefold(), []).append(name)
    found = [ascii(name) for group in alike.values() if len(group) > 1 for name in group]
    return f" These differ in case or Unicode form only: {', '.join(found)}." if found else ""
