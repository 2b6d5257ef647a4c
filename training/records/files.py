"""Atomic writes."""

from keras_preact.files import PARTIAL, replacing, write_json

__all__ = ["PARTIAL", "replacing", "write_json"]
