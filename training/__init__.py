"""Training jobs, run from a checkout: `python -m training.train`, `python -m training.evaluate`."""

import os
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

# TensorFlow turns its oneDNN kernels on by itself only where the processor has AVX-512; they are
# the faster ones without it too. It reads this when it is first imported.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

# Imported by its path: `import keras_preact` would import TensorFlow before this is in place.
_loader = SourceFileLoader(
    "training.quiet_start", str(Path(__file__).parents[1] / "keras_preact" / "quiet_start.py")
)
quiet_start = ModuleType(_loader.name)
_loader.exec_module(quiet_start)
quiet_start.install()
