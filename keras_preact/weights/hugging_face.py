"""Files of a repository on the Hugging Face Hub, by `hf://user/repo` or `hf://user/repo@revision`."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from types import ModuleType
from typing import Any, TypeGuard

from keras_preact.images.preprocessing import Preprocessing
from keras_preact.weights.download import DownloadError

SCHEME = "hf://"
CONFIG = "config.json"
# The weights in a folder of this package's or timm's.
WEIGHTS = "model.safetensors"
# In which weights may be, the first that there is; the others are those of keras_hub's presets.
_WEIGHTS = (WEIGHTS, "task.weights.h5", "model.weights.h5")
# By field of `Preprocessing`, timm's name of it.
_TIMM_VALUES = {
    "mean": "mean",
    "std": "std",
    "crop_fraction": "crop_pct",
    "interpolation": "interpolation",
}
_ADDRESS = re.compile(r"(?:hf://)?(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>\S+))?")


def is_address(name: str | os.PathLike) -> TypeGuard[str]:
    """Return whether a name is the address of a repository."""
    return isinstance(name, str) and name.startswith(SCHEME)


def repository(address: str) -> tuple[str, str | None]:
    """Split an address.

    Args:
        address: `hf://user/repo`, with or without `@revision`. The scheme may be left out.

    Returns:
        `user/repo`, and the revision.

    Raises:
        ValueError: If it is no such address.
    """
    match = _ADDRESS.fullmatch(address)
    if not match:
        raise ValueError(
            "A repository on the Hugging Face Hub is named as 'hf://user/repo' or "
            f"'hf://user/repo@revision'. Received: {address!r}"
        )
    return match["repo"], match["revision"]


def fetch_weights(address: str) -> Path:
    """Return the path of a repository's weights, downloaded unless they are in the Hub's cache.

    Raises:
        ImportError: If the package huggingface_hub is not installed.
        ValueError: If the address is none, or the repository has no weights that are read here.
        keras_preact.weights.DownloadError: If they cannot be downloaded.
    """
    for name in _WEIGHTS:
        if path := fetch(address, name):
            return path
    raise ValueError(f"{address!r} has none of the files {_WEIGHTS}")


def fetch(address: str, name: str) -> Path | None:
    """Return the path of a file of a repository, downloaded unless it is in the Hub's cache.

    Args:
        address: The repository.
        name: Path of the file in it.

    Returns:
        The path; None if the repository has no such file.

    Raises:
        ImportError: If the package huggingface_hub is not installed.
        ValueError: If the address is none.
        keras_preact.weights.DownloadError: If the file cannot be downloaded.
    """
    repo, revision = repository(address)
    hub = library(address)
    try:
        return Path(hub.hf_hub_download(repo, name, revision=revision))
    # Without a connection, LocalEntryNotFoundError is one of these too.
    except hub.errors.LocalEntryNotFoundError as error:
        raise DownloadError(f"{name!r} of {address!r} cannot be downloaded: {error}") from error
    except hub.errors.EntryNotFoundError:
        return None
    except (hub.errors.HfHubHTTPError, OSError) as error:
        raise DownloadError(f"{name!r} of {address!r} cannot be downloaded: {error}") from error


def library(purpose: str) -> ModuleType:
    """Return the package huggingface_hub.

    Raises:
        ImportError: If it is not installed. The message names the purpose.
    """
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError as error:
        raise ImportError(
            f"{purpose!r} needs the package huggingface_hub: `pip install huggingface_hub`."
        ) from error
    return huggingface_hub


def read_config(folder: str | os.PathLike) -> dict[str, Any]:
    """Read what `keras_preact.to_config_folder` wrote of a net in a `config.json`.

    Args:
        folder: A folder, or the address of a repository.

    Returns:
        The net's entry, `"keras_preact"`.

    Raises:
        ImportError: If the package huggingface_hub is not installed.
        ValueError: If there is no such file, or it is not of this package.
        keras_preact.weights.DownloadError: If it cannot be downloaded.
    """
    config = _config(folder)
    if "keras_preact" not in config:
        raise ValueError(
            f"The {CONFIG} of {os.fspath(folder)!r} was not written by "
            "`keras_preact.to_config_folder`. Weights of other libraries load into a net that is "
            'built by name: `PreActResNet50(weights="hf://timm/…")`.'
        )
    return config["keras_preact"]


def read_preprocessing(folder: str | os.PathLike) -> Preprocessing:
    """Read the preprocessing of a net of this package or of timm from its `config.json`.

    Args:
        folder: A folder, or the address of a repository.

    Raises:
        ImportError: If the package huggingface_hub is not installed.
        ValueError: If there is no such file, or it tells no preprocessing.
        keras_preact.weights.DownloadError: If it cannot be downloaded.
    """
    config = _config(folder)
    if "keras_preact" in config:
        return Preprocessing(**config["keras_preact"]["preprocessing"])
    values = config.get("pretrained_cfg", {})
    if not {"input_size", *_TIMM_VALUES.values()} <= values.keys():
        raise ValueError(f"The {CONFIG} of {os.fspath(folder)!r} tells no preprocessing of images")
    own = {name: values[theirs] for name, theirs in _TIMM_VALUES.items()}
    return Preprocessing(input_size=values["input_size"][-1], **own)


def read_image_size(address: str) -> tuple[int, int] | None:
    """Read height and width of the images of a net of this package or of timm.

    Args:
        address: The repository.

    Returns:
        Height and width, in pixels; None if there is no `config.json` that tells them.

    Raises:
        ImportError: If the package huggingface_hub is not installed.
        keras_preact.weights.DownloadError: If it cannot be downloaded.
    """
    try:
        config = _config(address)
    except ValueError:
        return None
    if "keras_preact" in config:
        # Every net in such a folder takes the square images of its preprocessing.
        side = config["keras_preact"]["preprocessing"]["input_size"]
        return side, side
    size = config.get("pretrained_cfg", {}).get("input_size")
    return tuple(size[-2:]) if size else None


def timm_preprocessing(preprocessing: Preprocessing) -> dict[str, Any]:
    """Return a preprocessing under timm's names."""
    own = preprocessing.get_config()
    size = own["input_size"]
    return {
        "input_size": [preprocessing.channels, size, size],
        **{theirs: own[name] for name, theirs in _TIMM_VALUES.items()},
    }


def _config(folder: str | os.PathLike) -> dict[str, Any]:
    """Read the `config.json` of a folder, or of a repository by its address."""
    path = fetch(str(folder), CONFIG) if is_address(folder) else Path(folder) / CONFIG
    if path is None or not path.is_file():
        raise ValueError(f"{os.fspath(folder)!r} has no {CONFIG}")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{str(path)!r} is damaged: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{str(path)!r} holds no configuration of a net")
    return config
