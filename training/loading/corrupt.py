"""Images that cannot be read."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

logger = logging.getLogger(__name__)


class CorruptImages:
    """Counts and names unreadable images, and stops the run at a limit.

    Args:
        limit: Number of unreadable images that are skipped.
        num_examples: Number of images in the split; at least one must be readable.
    """

    def __init__(self, limit: int, num_examples: int) -> None:
        self.names: list[str] = []
        self._limit = min(limit, num_examples - 1)

    def add(self, name: str, reason: str) -> None:
        """Count an image, once however often it is met.

        Args:
            name: Path of the image, or the record it is in.
            reason: The fault of the image.

        Raises:
            ValueError: If there are more unreadable images than the limit.
        """
        if name in self.names:
            return
        self.names.append(name)
        logger.warning("Unreadable image %d: %s (%s)", len(self.names), name, reason)
        if len(self.names) > self._limit:
            raise ValueError(
                f"{len(self.names)} unreadable images, but only {self._limit} may be skipped "
                "(`max_corrupt_images`, and one image at least must be readable): "
                + ", ".join(self.names)
            )


def unreadable(error: Exception, images: Any) -> str | None:
    """Say in one line which images or records stopped a pipeline.

    Args:
        error: Error of a pipeline of `tf.data`, whose text has the traceback of what it ran.
        images: The source of the images.

    Returns:
        The line; None for an error of another kind.
    """
    text = str(error)
    if too_many := re.search(r"\d+ unreadable images, but only .*", text):
        return too_many[0]
    if type(error).__name__ != "DataLossError":
        return None
    for name in images.splits:
        if damage := images.split(name).damage():
            return damage
    return text


@contextmanager
def named(images: Any) -> Iterator[None]:
    """Name what cannot be read of the images that a block reads.

    Args:
        images: The source of the images.

    Raises:
        ValueError: If a pipeline in it was stopped by images or records; see `unreadable`.
    """
    try:
        yield
    except Exception as error:
        if not (reason := unreadable(error, images)):
            raise
        raise ValueError(reason) from error
