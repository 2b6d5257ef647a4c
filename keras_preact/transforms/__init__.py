"""Surgery on a built model."""

from keras_preact.transforms.feature_pyramid import FeaturePyramid, feature_pyramid
from keras_preact.transforms.fold import fold
from keras_preact.transforms.freezing import freeze
from keras_preact.transforms.growth import deepen, widen
from keras_preact.transforms.head import replace_head
from keras_preact.transforms.image_encoder import ImageEncoder, as_image_encoder
from keras_preact.transforms.inputs import adapt_input_channels, resize_input
from keras_preact.transforms.precision import with_dtype
from keras_preact.transforms.stacking import stack, unroll
from keras_preact.transforms.winograd import winograd

__all__ = [
    "FeaturePyramid",
    "ImageEncoder",
    "adapt_input_channels",
    "as_image_encoder",
    "deepen",
    "feature_pyramid",
    "fold",
    "freeze",
    "replace_head",
    "resize_input",
    "stack",
    "unroll",
    "widen",
    "winograd",
    "with_dtype",
]
