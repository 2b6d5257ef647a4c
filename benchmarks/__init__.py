"""Side by side with peers: each module is a script that prints a table."""

# Its commands start as those of `training` do.
import training  # noqa: F401
