"""Encoder-only transformers for tokens and for continuous sequences, with one head and with two."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from nbcore import Padding
from nbcore.errors import OptionError, ShapeError, TokenError
from nbcore_flax.heads import refuse_classes, two_heads
from nbcore_flax.options import ACTIVATIONS, check_choice, check_counts, check_rates

POOLINGS = ("mean", "sum")


class FlaxTransformer(nn.Module):
    """An encoder-only transformer; returns logits.

    Embeddings of tokens and of positions, then blocks

    `h = LayerNorm1(x + Attention(x))`, `x' = LayerNorm2(h + MLP(h))`,

    then the mean (or sum) over the sequence, then
    `FinalDense2(activation(FinalDense1(pooled)))`. Layers: `TokenEmbed`, `PosEmbed`,
    `Block{i}_Attention`, `Block{i}_LayerNorm1`, `Block{i}_MLP_dense1`, `Block{i}_MLP_dense2`,
    `Block{i}_LayerNorm2`, `FinalDense1`, `FinalDense2`.

    With `pad_token_id`, padding is masked in attention and in pooling: outputs do not depend on
    how many padding tokens follow a sequence.

    Args:
        vocab_size: number of tokens; None for continuous sequences.
        d_model: width of the embeddings and of the blocks.
        nhead: number of attention heads; divides `d_model`.
        num_layers: number of blocks.
        dim_feedforward: hidden width of the blocks and of the head.
        activation: `"tanh"`, `"silu"`, `"relu"` or `"gelu"`.
        dropout_rate: dropout in attention, MLPs and head, in training only.
        target_dim: number of outputs (of classes in a classification).
        classification: whether the outputs are logits of classes; it changes no output, since
            softmax happens once, in the likelihood.
        max_seq_length: longest sequence.
        pad_token_id: the token that fills sequences up, None if there is none.
        pooling: `"mean"` or `"sum"` over the sequence.
        input_dim: number of features per step of a continuous sequence, which `TokenEmbed` then
            embeds linearly; None for tokens.

    Raises:
        OptionError: an option has an impossible value.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> net = FlaxTransformer(vocab_size=9, d_model=8, nhead=2, num_layers=1, pad_token_id=0)
        >>> tokens = jnp.array([[3, 1, 4, 0], [1, 5, 0, 0]])
        >>> params = net.init(jax.random.key(0), tokens)
        >>> net.apply(params, tokens).shape
        (2, 1)

    References:
        Vaswani et al. (2017), Attention is all you need, section 3.1 (the encoder).
    """

    vocab_size: int | None = None
    d_model: int = 256
    nhead: int = 8
    num_layers: int = 4
    dim_feedforward: int = 1024
    activation: str = "silu"
    dropout_rate: float = 0.1
    target_dim: int = 1
    classification: bool = False
    max_seq_length: int = 1024
    pad_token_id: int | None = None
    pooling: str = "mean"
    input_dim: int | None = None

    def __post_init__(self) -> None:
        _check_options(self)
        super().__post_init__()

    @property
    def padding(self) -> Padding | None:
        """How inputs are padded: along the sequence, with `pad_token_id`."""
        return None if self.pad_token_id is None else Padding(1, self.pad_token_id)

    def example_input(self, params: Mapping[str, Any]) -> jax.Array:
        """Return a short sequence."""
        if self.input_dim is not None:
            return jnp.zeros((1, 1, self.input_dim))
        return jnp.zeros((1, 1), jnp.int32)

    def check_inputs(self, x: Any) -> None:
        """Raise on inputs that the network cannot read; warn if they look padded.

        Args:
            x: tokens `(examples, length)`, or steps `(examples, length, input_dim)`.

        Raises:
            ShapeError: wrong number of axes, features per step, or no step at all.
            TokenError: tokens that are not integers, outside the vocabulary, or too many of them.
        """
        x = np.asarray(x)
        self._check_form(x)
        if self.input_dim is None:
            _check_vocabulary(x, self.vocab_size or 0)
            if self.pad_token_id is None:
                _warn_if_padded(x)

    def _check_form(self, x: Any) -> None:
        """Check what shape and dtype tell, which is known while tracing too."""
        name, wanted = type(self).__name__, "(examples, length)"
        if self.input_dim is not None:
            wanted = f"(examples, length, {self.input_dim})"
        if (
            x.ndim != (2 if self.input_dim is None else 3)
            or x.shape[1] == 0
            or (self.input_dim is not None and x.shape[2] != self.input_dim)
        ):
            raise ShapeError(f"{name} got inputs of shape {x.shape}; it needs {wanted}.")
        if self.input_dim is None and not jnp.issubdtype(x.dtype, jnp.integer):
            raise TokenError(
                f"{name} got tokens of dtype {x.dtype}; tokens are integers. Type "
                "X.astype('int32'), or give the network input_dim= for continuous sequences."
            )
        if x.shape[1] > self.max_seq_length:
            raise TokenError(
                f"{name} got sequences of length {x.shape[1]}; the longest possible is "
                f"max_seq_length={self.max_seq_length}. Make the network with "
                f"max_seq_length={x.shape[1]}, or cut the sequences: X[:, :{self.max_seq_length}]."
            )

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Return the outputs `(examples, target_dim)`.

        Args:
            x: tokens `(examples, length)`, or steps `(examples, length, input_dim)`.
            train: whether dropout is on (drawn from the random stream `"dropout"`).

        Raises:
            ShapeError: wrong number of axes or of features per step.
            TokenError: tokens that are not integers, or too many of them.
        """
        self._check_form(x)
        is_token = None if self.pad_token_id is None else x != self.pad_token_id
        mask = None if is_token is None else is_token[:, None, None, :]
        x = self._embed(x)
        for i in range(self.num_layers):
            x = self._block(x, mask, f"Block{i}", train)
        return self._head(self._hidden(self._pool(x, is_token), "FinalDense1", train))

    def _head(self, x: jax.Array) -> jax.Array:
        return nn.Dense(self.target_dim, name="FinalDense2")(x)

    def _embed(self, x: jax.Array) -> jax.Array:
        if self.input_dim is not None:
            embedded = nn.Dense(self.d_model, name="TokenEmbed")(x)
        else:
            embedded = nn.Embed(self.vocab_size or 0, self.d_model, name="TokenEmbed")(x)
        positions = jnp.arange(x.shape[1])
        return embedded + nn.Embed(self.max_seq_length, self.d_model, name="PosEmbed")(positions)

    def _block(self, x: jax.Array, mask: jax.Array | None, name: str, train: bool) -> jax.Array:
        attention = nn.MultiHeadDotProductAttention(
            num_heads=self.nhead,
            qkv_features=self.d_model,
            dropout_rate=self.dropout_rate,
            deterministic=not train,
            name=f"{name}_Attention",
        )
        x = nn.LayerNorm(name=f"{name}_LayerNorm1")(x + attention(x, mask=mask))
        hidden = self._hidden(x, f"{name}_MLP_dense1", train)
        hidden = nn.Dense(self.d_model, name=f"{name}_MLP_dense2")(hidden)
        return nn.LayerNorm(name=f"{name}_LayerNorm2")(x + hidden)

    def _hidden(self, x: jax.Array, name: str, train: bool) -> jax.Array:
        x = ACTIVATIONS[self.activation](nn.Dense(self.dim_feedforward, name=name)(x))
        return nn.Dropout(self.dropout_rate, deterministic=not train)(x)

    def _pool(self, x: jax.Array, is_token: jax.Array | None) -> jax.Array:
        if is_token is None:
            return x.mean(axis=1) if self.pooling == "mean" else x.sum(axis=1)
        total = jnp.where(is_token[:, :, None], x, 0).sum(axis=1)
        if self.pooling == "sum":
            return total
        # An example of padding alone has nothing to average; its mean is zero rather than NaN.
        return total / jnp.maximum(is_token.sum(axis=1), 1).astype(x.dtype)[:, None]


class FlaxTransformer2Head(FlaxTransformer):
    """An encoder-only transformer with a mean and a log standard deviation for each target.

    The layers of `FlaxTransformer` up to `FinalDense1`, then two linear layers side by side:
    `MeanHead` and `LogScaleHead`. Outputs `(examples, 2 * target_dim)`: the means first, then the
    unconstrained log standard deviations.

    Args:
        vocab_size, d_model, nhead, num_layers, dim_feedforward: as for `FlaxTransformer`.
        activation, dropout_rate: as for `FlaxTransformer`.
        target_dim: number of targets; there are twice as many outputs.
        classification: must be False.
        max_seq_length, pad_token_id, pooling, input_dim: as for `FlaxTransformer`.

    Raises:
        OptionError: an option has an impossible value.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> net = FlaxTransformer2Head(vocab_size=9, d_model=8, nhead=2, num_layers=1)
        >>> tokens = jnp.array([[3, 1, 4], [1, 5, 2]])
        >>> net.apply(net.init(jax.random.key(0), tokens), tokens).shape
        (2, 2)
    """

    def __post_init__(self) -> None:
        refuse_classes(self, "FlaxTransformer")
        super().__post_init__()

    def _head(self, x: jax.Array) -> jax.Array:
        return two_heads(x, self.target_dim)


def _check_options(net: FlaxTransformer) -> None:
    check_choice(net, "activation", ACTIVATIONS)
    check_choice(net, "pooling", POOLINGS)
    if (net.vocab_size is None) == (net.input_dim is None):
        raise OptionError(
            f"Got vocab_size={net.vocab_size}, input_dim={net.input_dim}. Give one of them: "
            "vocab_size= for tokens, input_dim= for continuous sequences."
        )
    check_counts(net, "vocab_size", "d_model", "nhead", "dim_feedforward")
    check_counts(net, "target_dim", "max_seq_length", "input_dim")
    check_rates(net, "dropout_rate")
    if net.num_layers < 0:
        raise OptionError(f"Got num_layers={net.num_layers}; it must be at least 0.")
    if net.d_model % net.nhead:
        near = max(net.nhead, round(net.d_model / net.nhead) * net.nhead)
        raise OptionError(
            f"Got d_model={net.d_model}, nhead={net.nhead}; each head takes an equal part of "
            f"d_model. Nearest possible: d_model={near}."
        )
    if net.pad_token_id is not None and not 0 <= net.pad_token_id < (net.vocab_size or 0):
        possible = f"0 … {net.vocab_size - 1}" if net.vocab_size else "None with input_dim"
        raise OptionError(f"Got pad_token_id={net.pad_token_id}. Possible: {possible}.")


def _check_vocabulary(x: np.ndarray, vocab_size: int) -> None:
    outside = (x < 0) | (x >= vocab_size)
    if outside.any():
        rows = np.flatnonzero(outside.any(axis=1))
        shown = ", ".join(map(str, rows[:5])) + (f" and {len(rows) - 5} more" * (len(rows) > 5))
        raise TokenError(
            f"X holds token {x[outside][0]} and the vocabulary has {vocab_size} tokens, "
            f"0 … {vocab_size - 1} (rows {shown}). Make the network with "
            f"vocab_size={max(int(x.max()) + 1, vocab_size)} or encode X with the tokenizer "
            "that the network was made for."
        )


def _warn_if_padded(x: np.ndarray) -> None:
    """Warn if sequences of different lengths seem to be filled up with one token."""
    for token in np.unique(x[:, -1]):
        is_it = x == token
        runs = np.cumprod(is_it[:, ::-1], axis=1).sum(axis=1)
        only_at_the_end = runs.sum() == is_it.sum()
        if only_at_the_end and runs.max() > 1 and runs.min() < runs.max():
            warnings.warn(
                f"X looks padded with token {token} ({np.count_nonzero(runs)} of {len(x)} rows "
                "end with it), and pad_token_id is None: padding will be read like any other "
                f"token. Make the network with pad_token_id={token} to mask it.",
                stacklevel=4,
            )
            return
