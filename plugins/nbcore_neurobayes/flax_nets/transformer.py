"""The transformer of `nbcore_flax`, called as that of NeuroBayes is."""

from __future__ import annotations

import jax

import nbcore_flax
from nbcore_neurobayes.elsewhere import names_of

__getattr__ = names_of(__name__)


class FlaxTransformer(nbcore_flax.FlaxTransformer):
    """`nbcore_flax.FlaxTransformer`; `enable_dropout` says whether dropout is on."""

    def __call__(self, x: jax.Array, enable_dropout: bool = True) -> jax.Array:
        """Return logits `(examples, target_dim)`; dropout draws from the stream `"dropout"`."""
        return super().__call__(x, train=enable_dropout)
