"""Functions on tensors that layers are made of, and the choices between them."""
