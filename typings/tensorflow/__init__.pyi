# The checker's own stubs of TensorFlow give every dimension the type `int | None` and lack modules.
from typing import Any

def __getattr__(name: str) -> Any: ...
