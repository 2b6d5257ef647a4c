"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

PARTIAL = "partial-"


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Write a file under a temporary name, and rename it once it is complete.

    A process killed at any moment leaves either the old file or the new one.

    Args:
        path: Where the file ends up; an older one there is replaced.

    Yields:
        The temporary path to write to, in the same folder and with the same ending.
    """
    path = Path(path)
    partial = path.with_name(PARTIAL + path.name)
    yield partial
    with open(partial, "rb") as file:
        os.fsync(file.fileno())
    os.replace(partial, path)
