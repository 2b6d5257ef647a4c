"""Weights of the nets: the catalogue of published ones, their download, and files."""

from keras_preact.input_channels import adapt_kernel
from keras_preact.named_weights import named_weights, set_named_weights
from keras_preact.weights.catalogue import Entry, find_entry, list_weights
from keras_preact.weights.conversion import convert, convert_in_order
from keras_preact.weights.download import DownloadError, cached_path
from keras_preact.weights.half_precision import save_half_precision
from keras_preact.weights.in_order import load_in_order
from keras_preact.weights.loader import load_weights
from keras_preact.weights.timm_export import TimmNet, export_timm

__all__ = [
    "DownloadError",
    "Entry",
    "TimmNet",
    "adapt_kernel",
    "cached_path",
    "convert",
    "convert_in_order",
    "export_timm",
    "find_entry",
    "list_weights",
    "load_in_order",
    "load_weights",
    "named_weights",
    "save_half_precision",
    "set_named_weights",
]
