"""The keyed permutation is one: for every size and key, and about uniform."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nbcore.targets.permutation import permuted


def many(count: int, num_keys: int) -> np.ndarray:
    """Permutations of 0 .. count - 1 under several keys, `(num_keys, count)`."""
    keys = jax.random.split(jax.random.key(count), num_keys)
    each = jax.vmap(permuted, in_axes=(0, None, None))
    return np.asarray(jax.jit(each, static_argnums=2)(keys, jnp.arange(count), count))


def test_it_is_a_bijection_for_every_count():
    places = jnp.arange(200)
    for count in (*range(1, 35), 63, 64, 65, 127, 128, 129, 199, 200):
        # one shape for all counts, so few compilations
        found = permuted(jax.random.key(count), places % count, count)
        assert np.array_equal(np.sort(found[:count]), np.arange(count)), count


@pytest.mark.parametrize("count", [5, 16, 17])
def test_it_is_a_bijection_for_many_keys(count):
    assert (np.sort(many(count, 2000), axis=1) == np.arange(count)).all()


def test_large_counts_are_read_at_single_places():
    count = 2**31 - 5
    places = jnp.array([0, 1, 12345, count - 1])
    found = np.asarray(permuted(jax.random.key(1), places, count))
    assert len(set(found.tolist())) == 4
    assert ((found >= 0) & (found < count)).all()


def test_the_key_decides():
    first, second = (permuted(jax.random.key(k), jnp.arange(50), 50) for k in (0, 1))
    again = permuted(jax.random.key(0), jnp.arange(50), 50)
    assert (first == again).all()
    assert (first != second).sum() > 25


@pytest.mark.parametrize("count", [5, 17])
def test_every_element_comes_to_every_place_about_equally_often(count):
    draws = 4000
    found = many(count, draws)
    for place in (0, count // 2, count - 1):
        observed = np.bincount(found[:, place], minlength=count)
        expected = draws / count
        chi_square = ((observed - expected) ** 2 / expected).sum()
        # mean count - 1, variance 2 (count - 1): within 5 standard deviations
        assert chi_square < (count - 1) + 5 * np.sqrt(2 * (count - 1))


def test_neighbors_are_about_independent():
    count, draws = 8, 4000
    found = many(count, draws)
    table = np.zeros((count, count))
    np.add.at(table, (found[:, 0], found[:, 1]), 1)
    assert np.trace(table) == 0
    expected = draws / (count * (count - 1))
    off = table[~np.eye(count, dtype=bool)]
    dof = count * (count - 1) - 1
    assert ((off - expected) ** 2 / expected).sum() < dof + 5 * np.sqrt(2 * dof)
