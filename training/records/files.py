"""Files of runs and searches."""

from keras_preact.files import PARTIAL, read_json, read_text, replacing, write_json

__all__ = ["PARTIAL", "read_json", "read_text", "replacing", "write_json"]
