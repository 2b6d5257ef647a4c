"""A served model and a photograph."""

import io
import subprocess
import sys
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from keras_preact.serving.export import export_savedmodel
from tests.savedmodels.files import CLASS_NAMES, PREPROCESSING, encoded, pixels


@pytest.fixture(scope="session")
def net(small_net):
    return small_net(input_shape=(32, 32, 3), classes=len(CLASS_NAMES))


@pytest.fixture(scope="session")
def exported(net, tmp_path_factory):
    """Version 1 of the served model `net`."""
    return export_savedmodel(
        net,
        tmp_path_factory.mktemp("models") / "net" / "1",
        preprocessing=PREPROCESSING,
        class_names=CLASS_NAMES,
        max_pixels=10**7,
    )


@pytest.fixture(scope="session")
def photo():
    """Return a photograph as a JPEG file."""
    return (resources.files("sklearn.datasets.images") / "china.jpg").read_bytes()


@pytest.fixture(scope="session")
def picture(photo):
    """Return the photograph, small, as a PIL image."""
    return Image.open(io.BytesIO(photo)).resize((60, 40))


@dataclass(frozen=True)
class WithoutKeras:
    """Answers of a process that can import neither Keras nor this package.

    Attributes:
        folder: Folder of `SIGNATURE.npz`, the outputs of each signature, and of `INDEX.image`.
        files: The image files that were sent, the last of which is none.
        predicted: Standard output of `savedmodels.predict` for the first image.
    """

    folder: Path
    files: list[bytes]
    predicted: str


PROGRAM = """
import pathlib, sys
sys.modules["keras"] = sys.modules["keras_preact"] = None
import numpy as np
from savedmodels.c_api import ServedModel
from savedmodels.predict import main
folder = pathlib.Path(sys.argv[2])
model = ServedModel(sys.argv[1])
paths = sorted(folder.glob("*.image"))
for name in model.signatures:
    if name in ("serving_default", "single_pass"):
        inputs = {"images": np.load(folder / "images.npy")}
    else:
        inputs = {"image_bytes": [path.read_bytes() for path in paths]}
    np.savez(folder / f"{name}.npz", **model.run(inputs, name))
sys.exit(main([sys.argv[1], str(paths[0])]))
"""


@pytest.fixture(scope="session")
def without_keras(exported, photo, picture, tmp_path_factory):
    """Every signature and the command of prediction, in one process without Keras."""
    folder = tmp_path_factory.mktemp("without_keras")
    sent = [photo, encoded(picture, "PNG"), b"no image"]
    for index, file in enumerate(sent):
        (folder / f"{index}.image").write_bytes(file)
    np.save(folder / "images.npy", pixels(sent[:2]))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(exported), str(folder)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return WithoutKeras(folder, sent, done.stdout)
