"""Architecture of a net: its fields, what follows from them, and what they must agree on."""

from keras_preact.architecture.architecture import Architecture
from keras_preact.architecture.scaling import compound_scale
from keras_preact.spec.fields import RULES
from keras_preact.spec.unit import Unit

__all__ = ["RULES", "Architecture", "Unit", "compound_scale"]
