"""Training jobs, run from a checkout: `python -m training.train`, `python -m training.evaluate`."""

import os
from importlib import util
from pathlib import Path

# TensorFlow turns its oneDNN kernels on by itself only where the processor has AVX-512; they are
# the faster ones without it too. It reads this when it is first imported.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

# Imported by its path: `import keras_preact` would import TensorFlow before this is in place.
_spec = util.spec_from_file_location(
    "training.quiet_start", Path(__file__).parents[1] / "keras_preact" / "quiet_start.py"
)
quiet_start = util.module_from_spec(_spec)
_spec.loader.exec_module(quiet_start)
quiet_start.install()
