"""Surgery on a built model."""

from keras_preact.transforms.stacking import stack, unroll

__all__ = ["stack", "unroll"]
