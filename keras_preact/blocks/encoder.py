"""Transformer encoder on the last maps of a net.

It is the encoder of ViT (arXiv:2010.11929). A dense layer turns each pixel of the maps into a
token. A class token goes before them, and learned positions are added. Each block adds attention
between the tokens, then a perceptron on each token. A layer normalization comes before both:
pre-activation again, with tokens for maps. One more normalization follows the last block.
"""

from __future__ import annotations

from typing import Any

import keras

from keras_preact.blocks.layer_factory import LayerFactory
from keras_preact.blocks.nesting import nested
from keras_preact.layers import Conv2D, TokenAttention, TokenEmbedding
from keras_preact.messages import require
from keras_preact.spec.fields import Fields
from keras_preact.tensor import Tensor

# Of ViT's layer normalizations, in the authors' code and in timm.
_EPSILON = 1e-6
# Glorot's initialization, as if queries, keys and values had one layer each.
_QKV = {"scale": 2.0, "mode": "fan_avg", "distribution": "uniform"}


def encoder(x: Tensor, make: LayerFactory) -> Tensor:
    """Apply the encoder of the net, if it has one.

    Args:
        x: The last maps, `(batch, height, width, channels)`, or with the channels first.
        make: Makes the layers.

    Returns:
        Tokens `(batch, 1 + height * width, encoder_width)`, the class token first. Without an
        encoder, the maps.
    """
    depth = make.net.encoder_depth
    if not depth:
        return x
    x = _tokens(x, make)
    for block in range(1, depth + 1):
        rate = make.net.encoder_drop_path * (block - 1) / max(depth - 1, 1)
        x = _block(x, rate, make, f"encoder_block{block}")
    return _norm(x, make, "encoder_norm")


def _tokens(x: Tensor, make: LayerFactory) -> Tensor:
    proj = Conv2D(
        make.net.encoder_width,
        1,
        kernel_initializer="lecun_normal",
        data_format=make.data_format,
        dtype=make.dtype,
        name="encoder_proj",
    )
    tokens = TokenEmbedding(make.data_format, dtype=make.dtype, name="encoder_tokens")
    return _dropout(tokens(proj(x)), make, "encoder_dropout")


def _block(x: Tensor, rate: float, make: LayerFactory, name: str) -> Tensor:
    if not make.nests:
        return _layers(x, rate, make, name)
    inputs = keras.Input(x.shape[1:], dtype=make.dtype.compute_dtype, name=f"{name}_input")
    return nested(x, keras.Model(inputs, _layers(inputs, rate, make, name), name=name), make)


def _layers(x: Tensor, rate: float, make: LayerFactory, name: str) -> Tensor:
    branch = make.drop_path(_attention(x, make, name), rate, name=f"{name}_drop_path1")
    x = make.add(x, branch, name=f"{name}_add1")
    branch = make.drop_path(_perceptron(x, make, name), rate, name=f"{name}_drop_path2")
    return make.add(x, branch, name=f"{name}_add2")


def _attention(x: Tensor, make: LayerFactory, name: str) -> Tensor:
    width, heads = make.net.encoder_width, make.net.encoder_heads
    qkv = keras.initializers.VarianceScaling(**_QKV)
    x = _norm(x, make, f"{name}_norm1")
    x = _dense(x, 3 * width, make, f"{name}_qkv", kernel_initializer=qkv)
    x = TokenAttention(heads, dtype=make.dtype, name=f"{name}_attention")(x)
    x = _dense(x, width, make, f"{name}_proj")
    return _dropout(x, make, f"{name}_dropout1")


def _perceptron(x: Tensor, make: LayerFactory, name: str) -> Tensor:
    x = _norm(x, make, f"{name}_norm2")
    x = _dense(x, encoder_mlp_width(make.net), make, f"{name}_mlp1")
    x = keras.layers.Activation("gelu", dtype=make.dtype, name=f"{name}_act")(x)
    x = _dropout(x, make, f"{name}_dropout2")
    x = _dense(x, make.net.encoder_width, make, f"{name}_mlp2")
    return _dropout(x, make, f"{name}_dropout3")


def _norm(x: Tensor, make: LayerFactory, name: str) -> Tensor:
    return keras.layers.LayerNormalization(epsilon=_EPSILON, dtype=make.dtype, name=name)(x)


def _dense(x: Tensor, units: int, make: LayerFactory, name: str, **options: Any) -> Tensor:
    return keras.layers.Dense(units, dtype=make.dtype, name=name, **options)(x)


def _dropout(x: Tensor, make: LayerFactory, name: str) -> Tensor:
    rate = make.net.encoder_dropout
    return keras.layers.Dropout(rate, dtype=make.dtype, name=name)(x) if rate else x


def encoder_mlp_width(net: Fields) -> int:
    """Return the features inside the encoder's perceptrons."""
    return int(net.encoder_width * net.encoder_mlp_ratio)


def check(net: Fields) -> None:
    """Check that the heads share the features, and that the perceptrons have some.

    Raises:
        ValueError: If they do not.
    """
    require(
        not net.encoder_depth or net.encoder_width % net.encoder_heads == 0,
        "encoder_heads",
        f"a divisor of `encoder_width`, {net.encoder_width}",
        net.encoder_heads,
    )
    require(
        encoder_mlp_width(net) >= 1,
        "encoder_mlp_ratio",
        f"large enough to leave a feature of {net.encoder_width}",
        net.encoder_mlp_ratio,
    )
