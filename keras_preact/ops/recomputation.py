"""Maps that the backward pass computes again, from tensors that it keeps anyway.

A norm keeps its input. Its output, the activation of that, and so the input of the next
convolution, follow from there in one pass over memory, which is little beside a convolution.
`set_source` says of maps what they follow from. `recomputed` applies a function to maps so that its
gradient keeps their source in place of them. Maps without a source are kept, as ever.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_preact.ops.custom_gradient import depends_on, value_of
from keras_preact.tensor import Tensor

_ATTRIBUTE = "_keras_preact_source"
# Of tensors that take no attributes: JAX's in a trace.
_SOURCES: dict[int, Source] = {}


class Source:
    """The way from kept tensors to maps.

    Args:
        kept: Tensors, or for `before` nothing.
        step: Function of the kept tensors, or of the maps that `before` leads to.
        before: First part of the way.
    """

    def __init__(
        self,
        kept: Sequence[Tensor],
        step: Callable[..., Tensor],
        before: Source | None = None,
    ) -> None:
        self.kept = tuple(kept)
        self._step = step
        self._before = before
        self._computed: tuple[Any, Tensor] | None = None

    def then(self, function: Callable[[Tensor], Tensor]) -> Source:
        """Return the way to what a function makes of the maps."""
        return Source(self.kept, function, before=self)

    def compute(self, *kept: Tensor) -> Tensor:
        """Return the maps that follow from tensors in the place of the kept ones."""
        return self._step(*(kept if self._before is None else [self._before.compute(*kept)]))

    def compute_after(self, upstream: Tensor) -> Tensor:
        """Return the maps, on TensorFlow: not before a gradient is known, and once in a graph.

        The first gradient that asks is the one that is waited for. In a backward pass the others
        are known soon after.
        """
        import tensorflow as tf

        # Eagerly, maps that are remembered would wait in memory.
        graph = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
        if self._computed is not None and self._computed[0] is graph:
            return self._computed[1]
        if self._before is None:
            maps = self._step(*_after(upstream, self.kept))
        else:
            maps = self._step(self._before.compute_after(upstream))
        if graph is not None:
            self._computed = graph, maps
        return maps


def set_source(maps: Tensor, source: Source) -> None:
    """Say what maps follow from."""
    try:
        setattr(maps, _ATTRIBUTE, source)
    except AttributeError:
        _SOURCES[id(maps)] = source
        weakref.finalize(maps, _SOURCES.pop, id(maps))


def source_of(maps: Tensor) -> Source | None:
    """Return what `set_source` said of maps, or None."""
    return getattr(maps, _ATTRIBUTE, None) or _SOURCES.get(id(maps))


def recomputed(function: Callable[..., Tensor], maps: Tensor, *others: Any) -> Tensor:
    """Apply a function, of whose maps the backward pass keeps the source only, where they have one.

    Args:
        function: Function of the maps and the others, without variables or random numbers. If there
            are no others it is cheap: the backward pass may compute it again.
        maps: Maps, perhaps with a source.
        *others: Further tensors, such as a kernel, that the function is differentiated by.

    Returns:
        What the function returns, a tensor.
    """
    source = source_of(maps)
    if source is None:
        return function(maps, *others)
    return _WAYS[keras.backend.backend()](function, source, maps, *others)


def _on_tensorflow(
    function: Callable[..., Tensor], source: Source, maps: Tensor, *others: Any
) -> Tensor:
    import tensorflow as tf

    @tf.custom_gradient
    def apply(maps: Tensor, *others: Tensor) -> Tensor:
        def gradient(upstream: Tensor) -> list[Tensor]:
            # Copies: a tape would differentiate the lists that a loop keeps its tensors in as well.
            arguments = [source.compute_after(upstream), *map(tf.identity, others)]
            with tf.GradientTape() as tape:
                tape.watch(arguments)
                # Graphs leave out what no gradient needs of it.
                outputs = function(*arguments)
            return tape.gradient(outputs, arguments, upstream)

        return function(maps, *others), gradient

    return apply(maps, *map(value_of, others))


def _after(upstream: Tensor, kept: Sequence[Tensor]) -> list[Tensor]:
    """Return kept tensors as of when a gradient is known.

    XLA knows no such delay, and would find that it has computed the same before. For it, values per
    channel depend on the gradient itself: on its first element, times nothing.
    """
    import tensorflow as tf

    first = tf.reshape(upstream, (-1,))[0]
    # Not a product with zero, which is no number for an infinite gradient.
    nothing = tf.where(tf.math.is_nan(first), first, tf.zeros_like(first))
    late = [depends_on(upstream, each) for each in kept]
    return [each + tf.cast(nothing, each.dtype) if each.shape.rank == 1 else each for each in late]


def _on_jax(function: Callable[..., Tensor], source: Source, maps: Tensor, *others: Any) -> Tensor:
    # The gradient goes straight to what is kept. Beside the maps themselves, XLA computes the
    # same a second time, and leaves one of both out.
    count = len(source.kept)

    def apply(*arguments: Tensor) -> Tensor:
        return function(source.compute(*arguments[:count]), *arguments[count:])

    return keras.remat(apply)(*source.kept, *map(value_of, others))


def _on_torch(
    function: Callable[..., Tensor], source: Source, maps: Tensor, *others: Any
) -> Tensor:
    if not others:
        return _torch_function().apply(function, source, maps, *source.kept)
    import torch

    own, start, strides = maps.untyped_storage(), maps.storage_offset(), maps.stride()
    address = own.data_ptr()

    def pack(tensor: Tensor) -> Any:
        if tensor.untyped_storage().data_ptr() != address:
            return tensor
        return tensor.size(), tensor.stride(), tensor.storage_offset() - start

    def unpack(packed: Any) -> Tensor:
        if isinstance(packed, torch.Tensor):
            return packed
        with torch.no_grad():
            again = source.compute(*source.kept)
            if again.stride() != strides:
                again = again.new_empty_strided(again.size(), strides).copy_(again)
        return again.as_strided(*packed)

    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        return function(maps, *others)


@functools.cache
def _torch_function() -> Any:
    import torch

    class Elementwise(torch.autograd.Function):
        """Function of maps that keeps their source."""

        @staticmethod
        def forward(context: Any, function: Any, source: Source, maps: Any, *kept: Any) -> Any:
            context.function, context.compute = function, source.compute
            context.save_for_backward(*kept)
            return function(maps)

        @staticmethod
        def backward(context: Any, upstream: Any) -> Any:
            twice = torch.is_grad_enabled()
            again = context.compute(*context.saved_tensors)
            with torch.enable_grad():
                maps = again if twice else again.requires_grad_()
                outputs = context.function(maps)
                (gradient,) = torch.autograd.grad(outputs, maps, upstream, create_graph=twice)
            return None, None, gradient, *(None for _ in context.saved_tensors)

    return Elementwise


_WAYS = {"tensorflow": _on_tensorflow, "jax": _on_jax, "torch": _on_torch}
