"""Sharing of nets: the folder that the Hugging Face Hub expects, written, read and uploaded."""

from keras_preact.hub.folder import from_config_folder, to_config_folder
from keras_preact.hub.upload import push_to_hub

__all__ = ["from_config_folder", "push_to_hub", "to_config_folder"]
