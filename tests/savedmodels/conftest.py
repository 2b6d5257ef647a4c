"""A served model and a photograph."""

import io
from importlib import resources

import pytest
from PIL import Image

from keras_preact.serving.export import export_savedmodel
from tests.savedmodels.files import CLASS_NAMES, PREPROCESSING


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
    """A photograph as a JPEG file."""
    return (resources.files("sklearn.datasets.images") / "china.jpg").read_bytes()


@pytest.fixture(scope="session")
def picture(photo):
    """The photograph, small, as a PIL image."""
    return Image.open(io.BytesIO(photo)).resize((60, 40))
