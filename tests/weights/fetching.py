"""Fetches a file of weights in a process of its own: `python -m tests.weights.fetching URL`."""

import hashlib
import sys

from keras_preact.preprocessing import Preprocessing
from keras_preact.weights import Entry
from keras_preact.weights.download import fetch

entry = Entry(
    name="keras_preact/served",
    builder="PreActResNet20",
    url=sys.argv[1],
    training_data="noise",
    preprocessing=Preprocessing(),
    reference="none",
)
print("fetching", flush=True)
path = fetch(entry, lambda path: None)
print("md5", hashlib.md5(path.read_bytes()).hexdigest(), flush=True)
