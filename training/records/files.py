"""Atomic writes."""

from __future__ import annotations

import json
import os
from typing import Any

from keras_preact.files import PARTIAL, replacing

__all__ = ["PARTIAL", "replacing", "write_json"]


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Write a value as indented JSON, whole or not at all."""
    with replacing(path) as partial:
        partial.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")
