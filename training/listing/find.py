"""Sets whose images are listed as a whole, by the name that a user gives."""

from __future__ import annotations

from pathlib import Path

from training.listing.arrays import list_arrays
from training.listing.cifar import find_cifar
from training.listing.digits import list_digits
from training.listing.folders import list_class_folders
from training.listing.listing import Listing


def find_listing(name: str) -> Listing | None:
    """List the images of a set.

    Args:
        name: `digits`; a folder of class folders, of CIFAR's binary files or of `.npz` files; or
            an `.npz` file.

    Returns:
        The listing; None if the name is no folder and none of these.

    Raises:
        ValueError: If what lies there is no set of labeled images.
        FileNotFoundError: If some of its files are missing.
    """
    if name == "digits":
        return list_digits()
    path = Path(name).expanduser()
    if path.is_dir():
        return find_cifar(path) or _find_arrays(path) or list_class_folders(path)
    return list_arrays([path]) if _is_array_file(path) else None


def _find_arrays(root: Path) -> Listing | None:
    """List the `.npz` files of a folder that has no folders of images beside them."""
    entries = [each for each in root.iterdir() if not each.name.startswith(".")]
    files = sorted(filter(_is_array_file, entries))
    return list_arrays(files) if files and not any(each.is_dir() for each in entries) else None


def _is_array_file(path: Path) -> bool:
    return path.suffix == ".npz" and path.is_file()
