"""Sets whose images are listed as a whole, by the name that a user gives."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from training.listing.arrays import list_arrays
from training.listing.cifar import find_cifar
from training.listing.digits import list_digits
from training.listing.folders import list_class_folders
from training.listing.held_out import DEFAULT_SHARE, hold_out
from training.listing.labels_csv import find_labeled_files
from training.listing.listing import UNSPLIT, Listing
from training.listing.shards import holds_records


def find_listing(
    name: str, validation_split: float | None = None, default_split: float = DEFAULT_SHARE
) -> Listing | None:
    """List the images of a set.

    Args:
        name: `digits`; a folder of class folders, of images with `labels.csv`, of CIFAR's binary
            files or of `.npz` files; or an `.npz` file.
        validation_split: Share of the images that is held out for testing; 1 for all. Of a set with
            a test split it is a share of the training images, and that split is set aside.
        default_split: The same, where it is not given, of a set without any split.

    Returns:
        The listing; None if the name is none of these, as that of a folder of TFRecord shards.

    Raises:
        ValueError: If what lies there is no set of labeled images.
        FileNotFoundError: If some of its files are missing.
    """
    listing = _find(name)
    if listing is None:
        return None
    if validation_split is None and UNSPLIT in listing.images:
        validation_split = default_split
    return listing if validation_split is None else _split(name, listing, validation_split)


def add_source_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of a set beside its name.

    Args:
        parser: Where to add them.
    """
    parser.add_argument(
        "--data-dir", metavar="DIR", help="where TensorFlow Datasets keeps its sets"
    )
    add_validation_split(parser)


def add_validation_split(parser: argparse.ArgumentParser) -> None:
    """Add the option of a set whose images are listed.

    Args:
        parser: Where to add it.
    """
    parser.add_argument(
        "--validation-split",
        type=float,
        metavar="X",
        help="share of the images that is held out for testing, by the hashes of their names; of "
        "those for training where there is a test split, which is then set aside (default: "
        f"{DEFAULT_SHARE} where there is no split at all)",
    )


def _find(name: str) -> Listing | None:
    if name == "digits":
        return list_digits()
    path = Path(name).expanduser()
    if path.is_dir() and not holds_records(path):
        return (
            find_cifar(path)
            or _find_arrays(path)
            or find_labeled_files(path)
            or list_class_folders(path)
        )
    return list_arrays([path]) if _is_array_file(path) else None


def _split(name: str, listing: Listing, validation_split: float) -> Listing:
    """Hold out a part of a set's images, of those for training where it has a split."""
    if {*listing.images} == {"train", "test"}:
        listing = _without_test(listing)
    return hold_out(listing, Path(name).expanduser(), validation_split)


def _without_test(listing: Listing) -> Listing:
    """Set the test split of a set aside, for instance while a net is chosen by other images."""
    count = len(listing.images["test"])
    by_split = {
        field: {"train": getattr(listing, field)["train"]}
        for field in ("images", "names", "labels")
    }
    left_out = (*listing.left_out, f"{count} images of its own test split")
    return dataclasses.replace(listing, **by_split, left_out=left_out)


def _find_arrays(root: Path) -> Listing | None:
    """List the `.npz` files of a folder that has no folders of images beside them."""
    entries = [each for each in root.iterdir() if not each.name.startswith(".")]
    files = sorted(filter(_is_array_file, entries))
    return list_arrays(files) if files and not any(each.is_dir() for each in entries) else None


def _is_array_file(path: Path) -> bool:
    return path.suffix == ".npz" and path.is_file()
