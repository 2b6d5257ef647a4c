"""Paths of SavedModels as TensorFlow takes them."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

# Characters of TensorFlow's patterns of file names.
_PATTERN = set("*?[]\\")


@contextlib.contextmanager
def literal(folder: Path) -> Iterator[Path]:
    """Give a folder a path in which no character means another.

    TensorFlow looks for the variables of a SavedModel by pattern, so that it finds none below a
    folder such as `runs [1]`.

    Args:
        folder: Any folder.

    Yields:
        The folder itself, or a link to it, which is gone afterwards.
    """
    if not _PATTERN.intersection(str(folder)):
        yield folder
        return
    with tempfile.TemporaryDirectory() as temporary:
        link = Path(temporary) / "model"
        link.symlink_to(folder.absolute(), target_is_directory=True)
        yield link
