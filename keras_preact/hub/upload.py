"""Upload of a net's folder to the Hugging Face Hub."""

from __future__ import annotations

import os
from pathlib import Path

from keras_preact.weights.hugging_face import CONFIG, WEIGHTS, library, repository

FILES = (CONFIG, WEIGHTS, "README.md")


def push_to_hub(
    folder: str | os.PathLike,
    repo: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    message: str = "Upload a net of keras_preact",
) -> str:
    """Upload a folder that `to_config_folder` wrote, into a repository that is made if need be.

    Args:
        folder: The folder.
        repo: `user/repo` or `hf://user/repo`; with `@revision`, the branch to commit to.
        private: Whether a new repository is private; by default, as the account is set.
        token: Access token; by default that of `hf auth login` or of `HF_TOKEN`.
        message: First line of the commit's message.

    Returns:
        The address, for `weights=` and `from_config_folder`.

    Raises:
        ImportError: If the package huggingface_hub is not installed.
        ValueError: If the folder lacks a file, or the repository's name is none.
        huggingface_hub.errors.HfHubHTTPError: If the Hub refuses.
    """
    folder = Path(folder)
    if missing := [name for name in FILES if not (folder / name).is_file()]:
        raise ValueError(
            f"`folder` must be one that `to_config_folder` wrote. {str(folder)!r} has no {missing}"
        )
    name, revision = repository(repo)
    api = library("push_to_hub").HfApi(token=token, library_name="keras_preact")
    url = api.create_repo(name, private=private, exist_ok=True)
    # Beside these may lie what a desktop or an editor left.
    api.upload_folder(
        repo_id=url.repo_id,
        folder_path=folder,
        revision=revision,
        commit_message=message,
        allow_patterns=list(FILES),
    )
    return f"hf://{url.repo_id}" + (f"@{revision}" if revision else "")
