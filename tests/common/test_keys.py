"""Typed keys, old keys and seeds are the same keys; everything else is refused."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nbcore.common.keys import as_key, shuffled
from nbcore.errors import OptionError


@pytest.mark.parametrize(
    "key",
    [7, np.int64(7), jax.random.key(7), jax.random.PRNGKey(7), np.asarray(jax.random.PRNGKey(7))],
    ids=["int", "numpy int", "typed", "old", "old in numpy"],
)
def test_all_forms_give_the_same_numbers(key):
    found = as_key(key)
    assert jnp.issubdtype(found.dtype, jax.dtypes.prng_key)
    assert found == jax.random.key(7)


def test_no_key_is_key_zero():
    assert as_key(None) == as_key(0) == jax.random.key(0)


def test_a_key_may_be_traced():
    assert jax.jit(as_key)(jax.random.key(3)) == jax.random.key(3)
    assert jax.jit(as_key)(jax.random.PRNGKey(3)) == jax.random.key(3)


@pytest.mark.parametrize(
    "key", ["seed", 1.5, np.zeros(2), jax.random.split(jax.random.key(0)), np.zeros(3, np.uint32)]
)
def test_anything_else_says_what_a_key_is(key):
    with pytest.raises(OptionError, match=r"jax\.random\.key\(seed\)"):
        as_key(key)


@pytest.mark.parametrize("count", [1, 2, 40, 300, 1700])  # the last in two rounds
def test_the_order_is_that_of_a_permutation_of_jax(count):
    values = np.arange(count) % 5
    expected = jax.random.permutation(jax.random.key(count), values)
    np.testing.assert_array_equal(shuffled(jax.random.key(count), values), expected)
