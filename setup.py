"""The package `keras_preact`: what `pip install` needs to know."""

import os
import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "keras_preact" / "version.py").read_text())[1]

# Address of the repository's files, such as https://github.com/OWNER/keras_preact/blob/v0.2.0; the
# build of a release sets it.
FILES = os.environ.get("KERAS_PREACT_FILES", "")


def description_for_index() -> str:
    """Return the README with absolute links, since a package index has no files of the repository.

    Without the address of the files, links to them become their text, and pictures are left out.
    """
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    links = r"\[([^\]]*)\]\((?!https?:)([^)]+)\)"
    if FILES:
        text = re.sub("!" + links, rf"![\1]({FILES}/\2?raw=true)", text)
        return re.sub(links, rf"[\1]({FILES}/\2)", text)
    return re.sub(links, r"\1", re.sub(rf"!{links}\n\n", "", text))


# The second holds the protocol buffers of the warm-up requests in an export.
TENSORFLOW = ["tensorflow", "tensorflow-serving-api"]
# KerasTuner does not ask for what it imports: how chief and workers talk, what a Bayesian search
# needs, and what looks for TensorBoard's callback in every trial.
TUNE = ["keras-tuner", "grpcio", "scikit-learn", "scipy", "tensorboard"]
TRAIN = [
    *TUNE,
    "matplotlib",
    "plotly",
    "rich",
    "tomli-w",
    *TENSORFLOW,
    # tensorflow-datasets 4.9.10 imports it, but does not ask for it.
    "importlib_resources",
    "tensorflow-datasets",
]
# Other formats than SavedModel: what Keras writes them with, and what runs them.
FORMATS = ["ai-edge-litert", "onnx", "onnxruntime", "openvino", "tf2onnx"]
# The documentation site, and what runs its notebooks.
NOTEBOOKS = ["ipykernel", "nbclient", "nbformat"]
DOCS = ["mkdocs-jupyter", "mkdocs-material", "mkdocstrings[python]", *NOTEBOOKS]
TEST = [
    *TRAIN,
    *FORMATS,
    *NOTEBOOKS,
    "hypothesis",
    "jax",
    "pytest",
    "pytest-xdist",
    "ruff",
    "torch",
    # Needed by timm and keras-hub, which the Makefile installs without their dependencies.
    "huggingface-hub",
    "kagglehub",
    "pillow",
    "pyyaml",
    "regex",
    "requests",
    "sentencepiece",
    # Of the blocks of code in the documentation.
    "sybil",
    "tokenizers",
]

setup(
    name="keras_preact",
    version=VERSION,
    description="Pre-activation residual networks for Keras",
    long_description=description_for_index(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    # Only what the wheel needs: training, savedmodels and benchmarks are run from a checkout.
    packages=find_packages(include=["keras_preact", "keras_preact.*"]),
    package_data={"": ["data/*"], "keras_preact": ["py.typed"]},
    python_requires=">=3.11",
    # filelock and safetensors are imported only where published weights are loaded.
    install_requires=["filelock", "h5py", "keras>=3.12", "numpy", "safetensors"],
    extras_require={
        "tensorflow": TENSORFLOW,
        "and-cuda": ["tensorflow[and-cuda]", *TENSORFLOW[1:]],
        # Of keras_preact.Preprocessor. Version 13 resizes tall images in another order.
        "images": ["pillow>=13"],
        # Of the pictures of python -m keras_preact.show.
        "show": ["matplotlib"],
        # Of keras_preact.tuning.
        "tune": TUNE,
        # Of keras_preact.push_to_hub and weights="hf://user/repo".
        "hub": ["huggingface-hub"],
        "formats": FORMATS,
        "train": TRAIN,
        "docs": [*TRAIN, *DOCS],
        "test": TEST,
    },
    classifiers=[
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
)
