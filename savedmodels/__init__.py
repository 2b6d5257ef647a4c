"""Exporting trained nets for serving, and predicting with what was exported."""
