"""A transformer encoder on a net's last maps, as functions on tensors.

It is that of ViT (arXiv:2010.11929): each pixel of the maps becomes a token, by a dense layer; a
class token goes before them; learned positions are added. Each block adds attention between the
tokens, then a perceptron on each of them, both of what a layer normalisation gives: pre-activation
again, with tokens for maps. One more normalisation follows the last block.

The layers: `encoder_proj` (a 1x1 convolution), `encoder_tokens`, `encoder_dropout`; in block b,
counted from 1, `encoder_block{b}_norm1`, `_qkv`, `_attention`, `_proj`, `_dropout1`, `_drop_path1`,
`_add1`, `_norm2`, `_mlp1`, `_act`, `_dropout2`, `_mlp2`, `_dropout3`, `_drop_path2`, `_add2`; then
`encoder_norm`. In a net whose units are nested models, so are the blocks: `encoder_block{b}`.
"""

from __future__ import annotations

from typing import Any

import keras

from keras_preact.layers import Conv2D, TokenAttention, TokenEmbedding
from keras_preact.parts import Parts
from keras_preact.stages import nested, nests

# Of ViT's layer normalisations, in its authors' code and in timm.
_EPSILON = 1e-6
# Glorot's initialisation, as if queries, keys and values had a layer each.
_QKV = {"scale": 2.0, "mode": "fan_avg", "distribution": "uniform"}


def encoder(x: Any, parts: Parts) -> Any:
    """Apply the encoder that the architecture asks for; nothing where it has no blocks.

    Args:
        x: The last maps, `(batch, height, width, channels)`, or with the channels first.
        parts: Makes the layers.

    Returns:
        Tokens `(batch, 1 + height * width, encoder_width)`, the class token first; without an
        encoder the maps.
    """
    architecture = parts.architecture
    depth = architecture.encoder_depth
    if not depth:
        return x
    x = _tokens(x, parts)
    for block in range(1, depth + 1):
        rate = architecture.encoder_drop_path * (block - 1) / max(depth - 1, 1)
        x = _block(x, rate, parts, f"encoder_block{block}")
    return _norm(x, parts, "encoder_norm")


def _tokens(x: Any, parts: Parts) -> Any:
    proj = Conv2D(
        parts.architecture.encoder_width,
        1,
        kernel_initializer="lecun_normal",
        data_format=parts.data_format,
        dtype=parts.dtype,
        name="encoder_proj",
    )
    tokens = TokenEmbedding(parts.data_format, dtype=parts.dtype, name="encoder_tokens")
    return _dropout(tokens(proj(x)), parts, "encoder_dropout")


def _block(x: Any, rate: float, parts: Parts, name: str) -> Any:
    if not nests(parts.architecture):
        return _layers(x, rate, parts, name)
    inputs = keras.Input(x.shape[1:], dtype=parts.dtype.compute_dtype, name=f"{name}_input")
    return nested(x, keras.Model(inputs, _layers(inputs, rate, parts, name), name=name), parts)


def _layers(x: Any, rate: float, parts: Parts, name: str) -> Any:
    branch = parts.drop_path(_attention(x, parts, name), rate, name=f"{name}_drop_path1")
    x = parts.add(x, branch, name=f"{name}_add1")
    branch = parts.drop_path(_perceptron(x, parts, name), rate, name=f"{name}_drop_path2")
    return parts.add(x, branch, name=f"{name}_add2")


def _attention(x: Any, parts: Parts, name: str) -> Any:
    width, heads = parts.architecture.encoder_width, parts.architecture.encoder_heads
    qkv = keras.initializers.VarianceScaling(**_QKV)
    x = _norm(x, parts, f"{name}_norm1")
    x = _dense(x, 3 * width, parts, f"{name}_qkv", kernel_initializer=qkv)
    x = TokenAttention(heads, dtype=parts.dtype, name=f"{name}_attention")(x)
    x = _dense(x, width, parts, f"{name}_proj")
    return _dropout(x, parts, f"{name}_dropout1")


def _perceptron(x: Any, parts: Parts, name: str) -> Any:
    architecture = parts.architecture
    x = _norm(x, parts, f"{name}_norm2")
    x = _dense(x, architecture.encoder_mlp_width, parts, f"{name}_mlp1")
    x = keras.layers.Activation("gelu", dtype=parts.dtype, name=f"{name}_act")(x)
    x = _dropout(x, parts, f"{name}_dropout2")
    x = _dense(x, architecture.encoder_width, parts, f"{name}_mlp2")
    return _dropout(x, parts, f"{name}_dropout3")


def _norm(x: Any, parts: Parts, name: str) -> Any:
    return keras.layers.LayerNormalization(epsilon=_EPSILON, dtype=parts.dtype, name=name)(x)


def _dense(x: Any, units: int, parts: Parts, name: str, **options: Any) -> Any:
    return keras.layers.Dense(units, dtype=parts.dtype, name=name, **options)(x)


def _dropout(x: Any, parts: Parts, name: str) -> Any:
    rate = parts.architecture.encoder_dropout
    return keras.layers.Dropout(rate, dtype=parts.dtype, name=name)(x) if rate else x
