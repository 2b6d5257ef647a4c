"""The handwritten digits that come with scikit-learn."""

from __future__ import annotations

import numpy as np

from training.listing.listing import Listing


def list_digits() -> Listing:
    """List the digits of scikit-learn, 8x8 and gray; a fifth of each class is for testing.

    Returns:
        The listing, of pixels.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    # The pixels are counts of 0..16.
    pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., np.newaxis]
    parts = train_test_split(
        range(len(pixels)), test_size=0.2, random_state=0, stratify=digits.target
    )
    splits = dict(zip(("train", "test"), parts, strict=True))
    return Listing(
        tuple(str(digit) for digit in digits.target_names),
        images={split: pixels[part] for split, part in splits.items()},
        names={split: [f"digit {index}" for index in part] for split, part in splits.items()},
        labels={split: digits.target[part].tolist() for split, part in splits.items()},
    )
