"""Arrays of pixels and labels in `.npz` files."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from training.listing.listing import TEST_SPLITS, UNSPLIT, Listing, check_classes, renamed

# Words in the keys of a file.
_IMAGES = ("x", "image", "images", "data")
_LABELS = ("y", "label", "labels", "target", "targets")
_CLASS_NAMES = ("class_names", "classes", "label_names")
_EXPECTED = (
    "Expected x_train, y_train, x_test and y_test; or train_images, train_labels and so on; or, in "
    "train.npz and test.npz, images and labels"
)


@dataclass(frozen=True)
class _Part:
    """The images of a split in a file.

    Attributes:
        images: uint8 `(images, height, width, channels)`.
        labels: `(images,)`: numbers, or names of classes.
        name: The file and the key.
    """

    images: np.ndarray
    labels: np.ndarray
    name: str


def list_arrays(paths: Sequence[Path]) -> Listing:
    """List the images in one or several `.npz` files.

    Keys are those of `keras.datasets`: `x_train`, `y_train`, `x_test`, `y_test`. `train_images`,
    `train_labels` and the like are taken, too; so are `images` and `labels`, or `x` and `y`, where
    the name of the file tells the split, as in `train.npz` or `test_2.npz`, or there is none.
    `class_names` may name the classes.

    Args:
        paths: The files. Those of a split are put together in this order.

    Returns:
        The listing, of pixels. Of files that tell no split, its only split is `UNSPLIT`.

    Raises:
        ValueError: If a file is damaged or does not hold uint8 images and their labels.
    """
    parts: dict[str, list[_Part]] = {}
    class_names: list[str] | None = None
    for path in paths:
        arrays = _load(path)
        named = next((arrays[key] for key in _CLASS_NAMES if key in arrays), None)
        if named is not None:
            class_names = [str(name) for name in _decoded(f"{path}, names of classes", named)]
        for split, part in _parts(path, arrays):
            parts.setdefault(split, []).append(part)
    splits = renamed(parts) or parts
    if UNSPLIT in parts and len(parts) > 1:
        raise ValueError(
            f"{str(parts[UNSPLIT][0].name)!r} tells no split, but other arrays of the set do. "
            f"{_EXPECTED}."
        )
    where = str(paths[0] if len(paths) == 1 else paths[0].parent)
    if not splits:
        raise ValueError(f"No images found in {where!r}. {_EXPECTED}.")
    labels = {
        split: np.concatenate([each.labels for each in found]) for split, found in splits.items()
    }
    class_names, numbers = _numbered(where, class_names, labels)
    check_classes(where, class_names, numbers, "Labels count from 0, without a gap.")
    return Listing(
        tuple(class_names),
        images={split: _together(found) for split, found in splits.items()},
        names={
            split: [f"{each.name}[{place}]" for each in found for place in range(len(each.images))]
            for split, found in splits.items()
        },
        labels=numbers,
    )


def _load(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            keys = [key for key in file.files if _role(key) or key in _CLASS_NAMES]
            return {key: _read(file, key) for key in keys}
    # Readers of damaged archives raise whatever they meet.
    except Exception as error:
        raise ValueError(f"{str(path)!r} cannot be read: {error}") from error


def _read(file: Mapping[str, np.ndarray], key: str) -> np.ndarray:
    try:
        return file[key]
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise
        kind = (
            "such as images of unlike shapes, not pixels"
            if _role(key) == "images"
            else "such as texts of pandas, which `astype(str)` makes names that can be read"
        )
        raise ValueError(f"{key!r} holds Python objects, {kind}") from error


def _words(text: str) -> list[str]:
    return re.split(r"[^a-z]+", text.lower())


def _role(key: str) -> str | None:
    """Return whether a key is that of images or of labels."""
    words = _words(key)
    roles = {"images": _IMAGES, "labels": _LABELS}
    return next((role for role, known in roles.items() if set(words) & {*known}), None)


def _split(text: str) -> str | None:
    """Return the split that a key, or the name of a file, tells."""
    words = _words(text)
    return next((split for split in ("train", *TEST_SPLITS) if split in words), None)


def _parts(path: Path, arrays: dict[str, np.ndarray]) -> Iterator[tuple[str, _Part]]:
    """Find the images and labels of each split in a file."""
    found: dict[str, dict[str, str]] = {}
    for key in arrays:
        role = _role(key)
        if role and key not in _CLASS_NAMES:
            split = _split(key) or _split(path.stem) or UNSPLIT
            keys = found.setdefault(split, {})
            if role in keys:
                raise ValueError(
                    f"{str(path)!r} has two arrays of {role} for the {split} split: "
                    f"{keys[role]!r} and {key!r}. {_EXPECTED}."
                )
            keys[role] = key
    for split, keys in found.items():
        if len(keys) < 2:
            shapes = ", ".join(f"{key} {array.shape}" for key, array in arrays.items())
            ((role, key),) = keys.items()
            raise ValueError(
                f"{str(path)!r} has {key!r}, but no {({'images', 'labels'} - {role}).pop()} to go "
                f"with it. {_EXPECTED}. Received: {shapes}"
            )
        name = f"{path}, {keys['images']}"
        images = _checked_images(name, arrays[keys["images"]])
        labels = _checked_labels(f"{path}, {keys['labels']}", arrays[keys["labels"]], len(images))
        yield split, _Part(images, labels, name)


def _checked_images(name: str, images: np.ndarray) -> np.ndarray:
    """Return images as uint8 `(images, height, width, channels)`."""
    if images.ndim == 3:
        images = images[..., np.newaxis]
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or not images.size:
        first = images.ndim == 4 and images.shape[1] in (1, 3)
        hint = " Move the channels last: `np.moveaxis(images, 1, -1)`." if first else ""
        raise ValueError(
            f"{name}: expected images (images, height, width, channels) of 1 or 3 channels, or "
            f"(images, height, width). Received the shape {images.shape}.{hint}"
        )
    if images.dtype == np.uint8:
        return np.ascontiguousarray(images)
    low, high = images.min(), images.max()
    if not np.issubdtype(images.dtype, np.integer) or low < 0 or high > 255:
        raise ValueError(
            f"{name}: expected uint8 pixels in 0..255. Received: {images.dtype} in {low}..{high}. "
            "Of pixels in 0..1, `np.round(images * 255).astype('uint8')` makes them."
        )
    return images.astype(np.uint8)


def _checked_labels(name: str, labels: np.ndarray, count: int) -> np.ndarray:
    """Return labels as a vector of numbers or names."""
    if labels.shape == (count, 1):
        labels = labels[:, 0]
    elif labels.ndim == 2 and len(labels) == count and _is_one_hot(labels):
        labels = labels.argmax(axis=-1)
    if labels.shape != (count,):
        raise ValueError(
            f"{name}: expected a label for each of {count} images, as a number or one-hot. "
            f"Received the shape {labels.shape}"
        )
    if labels.dtype.kind in "US":
        return _decoded(name, labels)
    whole = labels.astype(np.int64) if labels.dtype.kind in "biuf" else None
    if whole is None or (whole != labels).any() or whole.min() < 0:
        raise ValueError(
            f"{name}: expected labels that are whole numbers from 0, or names. "
            f"Received: {labels.dtype}, beginning with {labels[:3].tolist()}"
        )
    return whole


def _decoded(name: str, words: np.ndarray) -> np.ndarray:
    """Return words that are stored as bytes as text; any other array stays as it is."""
    if words.dtype.kind != "S":
        return words
    try:
        return np.char.decode(words, "utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{name}: expected text, or bytes in UTF-8. {error}") from error


def _is_one_hot(labels: np.ndarray) -> bool:
    if labels.dtype.kind not in "biuf":
        return False
    return bool(((labels == 0) | (labels == 1)).all() and (labels.sum(axis=-1) == 1).all())


def _numbered(
    where: str, class_names: list[str] | None, labels: dict[str, np.ndarray]
) -> tuple[list[str], dict[str, list[int]]]:
    """Return the names of the classes, and the labels as numbers."""
    kinds = {each.dtype.kind for each in labels.values()}
    every = np.concatenate([*labels.values()])
    if kinds == {"U"}:
        class_names = class_names or sorted(set(every.tolist()))
        unknown = sorted({*every.tolist()} - {*class_names})
        if unknown:
            raise ValueError(f"{where!r}: labels that are no class names: {unknown[:5]}")
        places = {name: place for place, name in enumerate(class_names)}
        return class_names, {
            split: [places[name] for name in each.tolist()] for split, each in labels.items()
        }
    if "U" in kinds:
        raise ValueError(f"{where!r}: labels are numbers in one split, names in the other.")
    class_names = class_names or [str(number) for number in range(every.max() + 1)]
    if every.max() >= len(class_names):
        raise ValueError(
            f"{where!r}: there are {len(class_names)} class names, but the label {every.max()}."
        )
    return class_names, {split: each.tolist() for split, each in labels.items()}


def _together(parts: Sequence[_Part]) -> np.ndarray:
    """Join the images of a split."""
    shapes = {part.name: part.images.shape[1:] for part in parts}
    if len({*shapes.values()}) > 1:
        raise ValueError(f"The images of a split must be of one shape. Received: {shapes}")
    return np.concatenate([part.images for part in parts]) if len(parts) > 1 else parts[0].images
