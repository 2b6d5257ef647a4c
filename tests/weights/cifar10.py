"""The test images of CIFAR-10, from the archive of its binary version."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np

ARCHIVE = Path(__file__).resolve().parents[3] / "shared" / "data" / "cifar-10-batches-bin.tar.xz"


def read_test_images() -> tuple[np.ndarray, np.ndarray]:
    """Return the images, uint8 (10000, 32, 32, 3), and their labels, uint8 (10000,)."""
    with tarfile.open(ARCHIVE) as archive:
        # A file that is asked for by its name is read once all files are listed, which takes twice
        # as long: nothing in such an archive can be skipped.
        content = next(
            archive.extractfile(member).read() for member in archive if "test_batch" in member.name
        )
    records = np.frombuffer(content, np.uint8).reshape(10_000, 1 + 3 * 32 * 32)
    return records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), records[:, 0]
