"""Callbacks of a run, each of which serves any `model.fit`."""
