"""Files that a run leaves: checkpoints, tables and figures, each written as a whole."""
