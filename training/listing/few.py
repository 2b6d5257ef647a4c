"""A few training images of each class, drawn anew as often as one likes."""

from __future__ import annotations

import dataclasses

import numpy as np

from training.listing.listing import Listing


def few_images(listing: Listing, shots: int, draw: int) -> Listing:
    """Keep a few training images of each class; all test images stay.

    Args:
        listing: Images of one class each, with a training split.
        shots: Images of each class.
        draw: Number of the draw, which decides which ones.

    Returns:
        The listing with those.

    Raises:
        ValueError: If a class has fewer, or the images have several labels.
    """
    if listing.label_sets is not None:
        raise ValueError("Images with several labels have no classes to draw a few images of each.")
    labels = np.asarray(listing.labels["train"])
    random = np.random.default_rng(draw)
    chosen = []
    for number, name in enumerate(listing.class_names):
        places = np.flatnonzero(labels == number)
        if len(places) < shots:
            raise ValueError(
                f"Class {name!r} must have at least {shots} training images. Received: "
                f"{len(places)}"
            )
        chosen += sorted(random.choice(places, shots, replace=False).tolist())
    images = listing.images["train"]
    kept = images[chosen] if isinstance(images, np.ndarray) else [images[each] for each in chosen]
    return dataclasses.replace(
        listing,
        images={**listing.images, "train": kept},
        names={**listing.names, "train": [listing.names["train"][each] for each in chosen]},
        labels={**listing.labels, "train": labels[chosen].tolist()},
    )
