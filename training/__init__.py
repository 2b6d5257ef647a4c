"""Training jobs, run from a checkout: `python -m training.train`, `python -m training.evaluate`."""

import os

# TensorFlow turns its oneDNN kernels on by itself only where the processor has AVX-512; they are
# the faster ones without it too. It reads this when it is first imported.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
