"""Type of tensors in annotations."""

from __future__ import annotations

from typing import Any, TypeAlias

# A symbolic Keras tensor, a tensor of the backend, or, as an argument, an array that converts to
# one. No type has them all.
Tensor: TypeAlias = Any
