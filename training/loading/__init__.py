"""Images of a source, read, decoded and kept in memory; damaged ones are left out."""
