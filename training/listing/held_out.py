"""Images that are held out of a set for testing."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from pathlib import Path

import numpy as np

from training.listing.listing import Listing, check_classes, check_label_sets, chosen

DEFAULT_SHARE = 0.2


def hold_out(listing: Listing, root: Path, share: float) -> Listing:
    """Hold out a share of the images of each class, or with each label, for testing.

    A hash decides about each image: of its path within the set, or of its pixels where it is no
    file. So an image stays on its side when others are added or removed, or when the set is moved;
    the share of a class is that of its hashes, and not exact. Two images of a class or more have at
    least one on either side.

    Args:
        listing: Images without a test split.
        root: The folder of the set.
        share: Share of the images, above 0. With 1 all images are for testing.

    Returns:
        The listing with the splits `"train"` and `"test"`.

    Raises:
        ValueError: If there is a test split only, the share is out of its range, or a class has one
            image only; of labels, if one has no image left for training.
    """
    if not 0 < share <= 1:
        raise ValueError(f"`validation_split` must be in (0, 1]. Received: {share}")
    (split,) = listing.images
    if split == "test":
        raise ValueError(
            f"{str(root)!r} has a test split only: there are no training images to hold out. "
            f"Received: validation_split={share}"
        )
    images, labels = listing.images[split], np.asarray(listing.labels[split])
    ranks = np.array([_rank(image, root) for image in images])
    tested = ranks < share
    if share < 1:
        for places in _members(listing, labels):
            _keep_both(tested, ranks, places)
    sides = {"train": np.flatnonzero(~tested), "test": np.flatnonzero(tested)}
    sides = {side: places for side, places in sides.items() if len(places)}
    labels = {side: labels[places].tolist() for side, places in sides.items()}
    if listing.label_sets is not None:
        check_label_sets(str(root), listing.class_names, labels, listing.label_sets)
    else:
        advice = "To hold some out, every class needs two images or more."
        check_classes(str(root), listing.class_names, labels, advice)
    return dataclasses.replace(
        listing,
        images={side: chosen(images, places) for side, places in sides.items()},
        names={side: chosen(listing.names[split], places) for side, places in sides.items()},
        labels=labels,
        held_out=share,
    )


def _members(listing: Listing, labels: np.ndarray) -> list[np.ndarray]:
    """Return the places of the images of each class, the class of the fewest images last.

    An image with several labels is of several classes, so that the last one has the last word.
    """
    if listing.label_sets is None:
        members = [labels == number for number in range(len(listing.class_names))]
    else:
        members = listing.label_sets[labels].T
    return sorted(map(np.flatnonzero, members), key=len, reverse=True)


def _rank(image: str | np.ndarray, root: Path) -> float:
    """Return a number in 0..1 that only the image decides."""
    if isinstance(image, str):
        content = Path(os.path.relpath(image, root)).as_posix().encode()
    else:
        content = image.tobytes()
    return int.from_bytes(hashlib.sha256(content).digest()[:6], "big") / 2**48


def _keep_both(tested: np.ndarray, ranks: np.ndarray, places: np.ndarray) -> None:
    """See to it that a class with two images or more has at least one on either side."""
    if len(places) < 2:
        tested[places] = False
        return
    ordered = places[ranks[places].argsort()]
    tested[ordered[0]] = True
    tested[ordered[-1]] = False
