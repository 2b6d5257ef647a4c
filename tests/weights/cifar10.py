"""Images of CIFAR-10, from the archive of its binary version."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np

ARCHIVE = Path(__file__).resolve().parents[3] / "shared" / "data" / "cifar-10-batches-bin.tar.xz"


# Of an image: its label, and the pixels of each color.
_BYTES = 1 + 3 * 32 * 32


def read_images(batch: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Read the first images of a file of the archive.

    Args:
        batch: `"data_batch_1"` to `"data_batch_5"`, or `"test_batch"`, in which order they stand in
            the archive: the later ones take seconds to get at.
        count: How many, of 10,000.

    Returns:
        The images, uint8 (count, 32, 32, 3), and their labels, uint8 (count,).
    """
    with tarfile.open(ARCHIVE) as archive:
        # A file that is asked for by its name is read once all files are listed, which takes twice
        # as long: nothing in such an archive can be skipped.
        content = next(
            archive.extractfile(member).read(count * _BYTES)
            for member in archive
            if batch in member.name
        )
    records = np.frombuffer(content, np.uint8).reshape(count, _BYTES)
    return records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), records[:, 0]
