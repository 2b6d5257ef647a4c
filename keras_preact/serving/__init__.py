"""What a SavedModel holds for a server; `keras_preact.export` writes it."""
