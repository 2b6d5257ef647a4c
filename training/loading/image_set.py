"""Small sets of images, decoded into memory, without TensorFlow."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL

from keras_preact.files import locked, replacing
from keras_preact.preprocessing import Preprocessing, Preprocessor
from training.listing.find import find_listing
from training.listing.listing import Listing, check_splits
from training.loading.corrupt import CorruptImages

SPLITS = ("train", "test")
# On the device, int32 numbers the pixels. ImageNet would take hours to decode, and 190 GiB.
MAX_PIXELS = 2**31 - 1


@dataclass(frozen=True)
class ImageSet:
    """Labeled images in memory.

    Attributes:
        name: The name that the user gave for the set.
        class_names: Name of each class, in the order of the labels.
        images: All images, those of the training split first: uint8
            `(images, input_size, input_size, channels)`.
        labels: Class of each image, int64 `(images,)`; of several labels the row of `label_sets`.
        train_images: Number of images of the training split.
        left_out: What there is beside the images, in words.
        held_out: Share of the images that was held out for testing, if a part was.
        label_sets: See `training.listing.listing.Listing`.
    """

    name: str
    class_names: tuple[str, ...]
    images: np.ndarray
    labels: np.ndarray
    train_images: int
    left_out: tuple[str, ...] = ()
    held_out: float | None = None
    label_sets: np.ndarray | None = None

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits."""
        return SPLITS

    def places(self, split: str) -> range:
        """Return the indices of the images of a split, `"train"` or `"test"`, among all images."""
        if split == "train":
            return range(self.train_images)
        return range(self.train_images, len(self.images))

    def num_examples(self, split: str) -> int:
        """Return the number of readable images in a split."""
        return len(self.places(split))


def load_image_set(
    name: str,
    preprocessing: Preprocessing,
    *,
    max_corrupt_images: int = 0,
    validation_split: float | None = None,
) -> ImageSet:
    """Decode a small set of images into memory.

    Images decoded from files are kept below `$KERAS_HOME`, or `~/.keras`, for the next time that
    the same images, unchanged, are wanted at the same size. Where nothing can be kept, a line on
    standard error says so, and they are decoded every time.

    Args:
        name: `digits`, the 1,797 handwritten digits that come with scikit-learn; a folder
            `root/{train,test}/{class}/*.jpg` (or `.jpeg`, `.png`), where `test` may also be called
            `validation`, `val` or `valid`; CIFAR's binary files, or `.npz` files, as for
            `training.sources.open_source`.
        preprocessing: How they are resized and cropped.
        max_corrupt_images: Unreadable images of a split that are left out before an error is
            raised.
        validation_split: As for `training.sources.open_source`.

    Returns:
        The images, those of image files in alphabetical order.

    Raises:
        ValueError: If there is no such set, a split is missing, the set is too large, or too many
            images are unreadable.
        FileNotFoundError: If there is no such folder.
    """
    listing = find_listing(name, validation_split)
    if listing is None:
        raise _not_found(name)
    check_splits(name, listing)
    images, unreadable = _decoded(name, listing, preprocessing)
    names, labels = (_both(each) for each in (listing.names, listing.labels))
    train_images = len(listing.names["train"])
    corrupt = {
        split: CorruptImages(max_corrupt_images, len(listing.names[split])) for split in SPLITS
    }
    for place, reason in unreadable.items():
        corrupt["train" if place < train_images else "test"].add(names[place], reason)
    return ImageSet(
        name,
        listing.class_names,
        np.delete(images, list(unreadable), axis=0) if unreadable else images,
        np.delete(labels, list(unreadable)).astype(np.int64),
        train_images - len(corrupt["train"].names),
        listing.left_out,
        listing.held_out,
        listing.label_sets,
    )


def _both(column: Mapping[str, Iterable[Any]]) -> list[Any]:
    """Return the values of both splits, one after the other."""
    return [value for split in SPLITS for value in column[split]]


def _not_found(name: str) -> Exception:
    path = Path(name).expanduser()
    kind = ValueError if path.exists() or path.name == name else FileNotFoundError
    held = "holds TFRecord shards or a set of TensorFlow Datasets"
    return kind(
        "Images on the device come from `digits` or from a folder with train/CLASS/*.jpg and "
        "test/CLASS/*.jpg, CIFAR's binary files or .npz files. "
        f"Received: {name!r}, which {held if path.is_dir() else 'is no folder'}"
    )


def _decoded(
    name: str, listing: Listing, preprocessing: Preprocessing
) -> tuple[np.ndarray, dict[int, str]]:
    """Decode all images, or read them from the cache, and say which ones are unreadable and why."""
    sources = _both(listing.images)
    shape = (preprocessing.input_size, preprocessing.input_size, preprocessing.channels)
    side = preprocessing.input_size
    pixels = len(sources) * side**2
    if pixels > MAX_PIXELS:
        raise ValueError(
            f"Images on the device have {MAX_PIXELS:,} pixels in all, or fewer. Received: "
            f"{len(sources):,} images of {side} x {side} pixels in {name!r}, {pixels:,} pixels"
        )
    if isinstance(listing.images["train"], np.ndarray):
        return _decode(sources, preprocessing, shape)
    return _cached(_cache_file(sources, preprocessing), sources, preprocessing, shape)


def _cached(
    cache: Path, sources: list[str], preprocessing: Preprocessing, shape: tuple[int, int, int]
) -> tuple[np.ndarray, dict[int, str]]:
    """Read decoded images from their cache, or decode and keep them, in one process at a time."""
    decoded = None
    try:
        if found := _read_cache(cache):
            return found
        cache.parent.mkdir(parents=True, exist_ok=True)
        with locked(cache):
            # Another process may have decoded them meanwhile.
            if found := _read_cache(cache):
                return found
            print(f"Decoding {len(sources)} images; they are kept in {cache}.", flush=True)
            decoded = images, unreadable = _decode(sources, preprocessing, shape)
            with replacing(cache) as partial:
                np.savez(partial, images=images, unreadable=json.dumps(unreadable))
    except OSError as error:
        print(
            f"{len(sources)} decoded images cannot be kept in {cache}: {error}. For a cache, set "
            "the environment variable KERAS_HOME to a folder that can be written.",
            file=sys.stderr,
        )
    return decoded or _decode(sources, preprocessing, shape)


def _read_cache(cache: Path) -> tuple[np.ndarray, dict[int, str]] | None:
    """Read decoded images and the faults of the others; None if there are none, or damaged ones."""
    if not cache.exists():
        return None
    try:
        with np.load(cache, allow_pickle=False) as arrays:
            reasons = json.loads(str(arrays["unreadable"]))
            return arrays["images"], {int(place): reason for place, reason in reasons.items()}
    # Readers of damaged archives raise whatever they meet.
    except Exception as error:
        print(f"{cache} is damaged, and is written anew: {error}", file=sys.stderr)
        return None


def _decode(
    sources: list[Any], preprocessing: Preprocessing, shape: tuple[int, int, int]
) -> tuple[np.ndarray, dict[int, str]]:
    preprocessor = Preprocessor(preprocessing)
    images = np.zeros((len(sources), *shape), np.uint8)

    def read(place: int) -> str | None:
        try:
            images[place] = preprocessor.resize_and_crop(sources[place])
        except (OSError, ValueError) as error:
            return str(error)
        return None

    with ThreadPoolExecutor() as pool:
        reasons = pool.map(read, range(len(sources)))
        return images, {place: reason for place, reason in enumerate(reasons) if reason}


def _cache_file(paths: list[str], preprocessing: Preprocessing) -> Path:
    """Name the cache file after the files, their sizes and times, and the preprocessing."""
    digest = hashlib.sha256(f"Pillow {PIL.__version__} {preprocessing}".encode())
    for path in paths:
        status = os.stat(path)
        digest.update(f"{os.path.abspath(path)} {status.st_size} {status.st_mtime_ns}\n".encode())
    home = Path(os.environ.get("KERAS_HOME") or Path("~", ".keras")).expanduser()
    return home / "datasets" / "keras_preact" / f"{digest.hexdigest()[:32]}.npz"
