"""Exporting trained nets for serving, and predicting with what was exported."""

# Its commands start as those of `training` do.
import training  # noqa: F401
