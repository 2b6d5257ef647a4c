"""Surgery on a built model."""

from keras_preact.transforms.fold import fold
from keras_preact.transforms.precision import with_dtype
from keras_preact.transforms.stacking import stack, unroll

__all__ = ["fold", "stack", "unroll", "with_dtype"]
