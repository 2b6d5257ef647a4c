"""CIFAR-10 and CIFAR-100 in their own binary format.

A record is the label, one byte (CIFAR-100: the coarse label, then the fine one), and 3,072 bytes of
pixels: the red, the green and the blue plane, each of 32 rows of 32 pixels
(https://www.cs.toronto.edu/~kriz/cifar.html).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from training.listing.listing import Listing, check_classes, read_class_names

PLANES = (3, 32, 32)


@dataclass(frozen=True)
class _Form:
    """Files of one of the two sets.

    Attributes:
        names: File with the names of the classes, one per line.
        files: Names of the files of each split.
        label_bytes: Bytes before the pixels, of which the last is the label.
    """

    names: str
    files: dict[str, tuple[str, ...]]
    label_bytes: int


CIFAR10 = _Form(
    "batches.meta.txt",
    {
        "train": tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
        "test": ("test_batch.bin",),
    },
    label_bytes=1,
)
CIFAR100 = _Form(
    "fine_label_names.txt", {"train": ("train.bin",), "test": ("test.bin",)}, label_bytes=2
)


def find_cifar(root: Path) -> Listing | None:
    """List CIFAR-10 or CIFAR-100 if a folder holds the binary files of one of them.

    Args:
        root: The folder, as the archive unpacks it.

    Returns:
        The listing, of pixels in the order of the files, with the fine labels of CIFAR-100; None
        if there are no such files.

    Raises:
        FileNotFoundError: If some of the files are missing.
        ValueError: If a file is damaged.
    """
    for form in (CIFAR10, CIFAR100):
        if any((root / name).is_file() for names in form.files.values() for name in names):
            return _list_form(root, form)
    return None


def _list_form(root: Path, form: _Form) -> Listing:
    class_names = _class_names(root / form.names)
    images, names, labels = {}, {}, {}
    for split, files in form.files.items():
        missing = [name for name in files if not (root / name).is_file()]
        if len(missing) == len(files):
            continue
        if missing:
            raise FileNotFoundError(
                f"{str(root)!r} holds a part of CIFAR's {split} split: {', '.join(missing)} missing"
            )
        records = [_records(root / name, form, len(class_names)) for name in files]
        names[split] = [
            f"{root / name}, record {number}"
            for name, part in zip(files, records, strict=True)
            for number in range(len(part))
        ]
        together = np.concatenate(records)
        labels[split] = together[:, form.label_bytes - 1].tolist()
        planes = together[:, form.label_bytes :].reshape(-1, *PLANES)
        images[split] = np.ascontiguousarray(planes.transpose(0, 2, 3, 1))
    check_classes(str(root), class_names, labels, "Unpack the archive again.")
    return Listing(class_names, images, names, labels)


def _class_names(path: Path) -> tuple[str, ...]:
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no {str(path)!r}, which names the classes of CIFAR's binary files, one per "
            "line. It is in the same archive."
        )
    return tuple(read_class_names(path))


def _records(path: Path, form: _Form, classes: int) -> np.ndarray:
    """Read the records of a file: uint8 `(records, bytes)`."""
    size = form.label_bytes + int(np.prod(PLANES))
    content = np.fromfile(path, np.uint8)
    if not len(content) or len(content) % size:
        raise ValueError(
            f"{str(path)!r} is no complete file of CIFAR: expected records of {size} bytes. "
            f"Received: {len(content)} bytes"
        )
    records = content.reshape(-1, size)
    _check_labels(path, records[:, form.label_bytes - 1], classes)
    return records


def _check_labels(path: Path, labels: Sequence[int] | np.ndarray, classes: int) -> None:
    if max(labels) >= classes:
        raise ValueError(
            f"{str(path)!r} is no file of CIFAR in its binary format: expected labels below "
            f"{classes}. Received: {max(labels)}"
        )
