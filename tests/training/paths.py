"""Folders that tests of several folders name."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
# Data sets beside the repository, where they are.
DATA = ROOT.parent / "shared" / "data"
