"""A few training images of each class, drawn anew as often as one likes."""

from __future__ import annotations

import dataclasses

import numpy as np

from training.listing.listing import Listing, chosen


def few_images(listing: Listing, shots: int, draw: int, seed: int = 0) -> Listing:
    """Keep a few training images of each class; all test images stay.

    Args:
        listing: Images of one class each, with a training split.
        shots: Images of each class.
        draw: Number of the draw, which decides which ones.
        seed: Decides it too: draws of another seed are others.

    Returns:
        The listing with those.

    Raises:
        ValueError: If a class has fewer, or the images have several labels.
    """
    if listing.label_sets is not None:
        raise ValueError("Images with several labels have no classes to draw a few images of each.")
    labels = np.asarray(listing.labels["train"])
    random = np.random.default_rng((draw, seed))
    places: list[int] = []
    for number, name in enumerate(listing.class_names):
        members = np.flatnonzero(labels == number)
        if len(members) < shots:
            raise ValueError(
                f"Class {name!r} must have at least {shots} training images. Received: "
                f"{len(members)}"
            )
        places += sorted(random.choice(members, shots, replace=False).tolist())
    return dataclasses.replace(
        listing,
        images={**listing.images, "train": chosen(listing.images["train"], places)},
        names={**listing.names, "train": chosen(listing.names["train"], places)},
        labels={**listing.labels, "train": labels[places].tolist()},
    )
