"""Type of tensors in annotations."""

from __future__ import annotations

from typing import Any, TypeAlias

# A symbolic Keras tensor, or a tensor of the back end: no type has both for all back ends.
Tensor: TypeAlias = Any
