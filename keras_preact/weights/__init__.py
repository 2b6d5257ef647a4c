"""Weights of the nets: for now, those in a file of the user's."""

from keras_preact.weights.input_channels import adapt_kernel
from keras_preact.weights.loader import load_weights
from keras_preact.weights.named import named_weights, set_named_weights

__all__ = ["adapt_kernel", "load_weights", "named_weights", "set_named_weights"]
