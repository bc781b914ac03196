"""Multilayer perceptrons of `nbcore_flax`, called as those of NeuroBayes are."""

from __future__ import annotations

import jax

import nbcore_flax
from nbcore_neurobayes.elsewhere import names_of

__getattr__ = names_of(__name__)


class FlaxMLP(nbcore_flax.FlaxMLP):
    """`nbcore_flax.FlaxMLP`; `enable_dropout` says whether dropout is on.

    Examples:
        >>> import jax, jax.numpy as jnp
        >>> net = FlaxMLP([8, 8], 2, "silu", hidden_dropout=0.1)
        >>> variables = net.init(jax.random.key(0), jnp.ones((5, 3)))
        >>> net.apply(variables, jnp.ones((5, 3)), enable_dropout=False).shape
        (5, 2)
    """

    def __call__(self, x: jax.Array, enable_dropout: bool = True) -> jax.Array:
        """Return logits `(examples, target_dim)`; dropout draws from the stream `"dropout"`."""
        return super().__call__(x, train=enable_dropout)


class FlaxMLP2Head(nbcore_flax.FlaxMLP2Head):
    """`nbcore_flax.FlaxMLP2Head`: means, then log standard deviations, in one output."""

    def __call__(self, x: jax.Array, enable_dropout: bool = True) -> jax.Array:
        """Return `(examples, 2 * target_dim)`; dropout draws from the stream `"dropout"`."""
        return super().__call__(x, train=enable_dropout)
