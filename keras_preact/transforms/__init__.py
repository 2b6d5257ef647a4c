"""Surgery on a built model."""

from keras_preact.transforms.freezing import freeze
from keras_preact.transforms.head import replace_head
from keras_preact.transforms.stacking import stack, unroll

__all__ = ["freeze", "replace_head", "stack", "unroll"]
