"""Figures drawn with matplotlib, which is imported with the first of them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from keras_preact.files import replacing


def new_figure(**options: Any) -> Any:
    """Create an empty figure.

    Args:
        **options: As for `matplotlib.figure.Figure`.

    Returns:
        The figure, which belongs to no window.

    Raises:
        ImportError: If matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "Pictures need matplotlib. Install it with `pip install keras_preact[show]`."
        ) from error
    return Figure(**options)


def plain(text: str) -> str:
    """Write a text, such as a name, so that it is drawn as it is.

    Args:
        text: The text, in which matplotlib would take for TeX what is between two dollar signs.

    Returns:
        The text to hand to matplotlib.
    """
    return text.replace("$", r"\$")


def save_figure(figure: Any, path: str | os.PathLike, dots_per_inch: int = 150) -> None:
    """Write a figure to a file, whole or not at all.

    Args:
        figure: Result of `new_figure`.
        path: The file; its ending, such as `.svg` or `.png`, says what kind it is. Folders that
            are missing are made.
        dots_per_inch: Resolution of a picture made of dots.

    Raises:
        ValueError: If the file's kind is not known.
    """
    import matplotlib

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The same figure gives the same file, to the byte.
    metadata = {"Date": None} if path.suffix == ".svg" else None
    with matplotlib.rc_context({"svg.hashsalt": "keras_preact"}), replacing(path) as partial:
        figure.savefig(partial, dpi=dots_per_inch, metadata=metadata, facecolor="white")
