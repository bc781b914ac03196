"""Dataclasses as pytrees: leaves, static fields, paths, and types that JAX keeps apart."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import nbcore as nb
from nbcore.extend import register_pytree

LIKELIHOODS = [nb.Heteroskedastic(), nb.Categorical(), nb.Bernoulli(), nb.Poisson()]


@register_pytree
@dataclass(frozen=True)
class Scaled:
    scale: Any
    shift: Any
    name: str = field(default="sd", metadata={"static": True})


def test_fields_are_leaves_and_static_fields_are_structure() -> None:
    flat, structure = jax.tree.flatten(Scaled(1.0, {"a": 2.0}))
    assert flat == [1.0, 2.0]
    assert jax.tree.unflatten(structure, [3.0, 4.0]) == Scaled(3.0, {"a": 4.0})
    assert structure == jax.tree.structure(Scaled(5.0, {"a": 6.0}))
    assert structure != jax.tree.structure(Scaled(1.0, {"a": 2.0}, "other"))
    paths = [jax.tree_util.keystr(p) for p, _ in jax.tree.leaves_with_path(Scaled(1.0, [2.0]))]
    assert paths == [".scale", ".shift[0]"]


@pytest.mark.parametrize("pair", list(itertools.combinations(LIKELIHOODS, 2)), ids=str)
def test_likelihoods_without_parameters_have_different_structures(pair: tuple[Any, Any]) -> None:
    first, second = map(jax.tree.structure, pair)
    assert first != second


def test_a_compiled_function_never_takes_one_type_for_another() -> None:
    types = [register_pytree(make_dataclass(f"T{i}", [], frozen=True)) for i in range(100)]
    traced: list[type] = []

    @jax.jit
    def function(node: Any, x: jax.Array) -> jax.Array:
        traced.append(type(node))
        return x

    for one in types:
        function.lower(one(), jnp.ones(()))
    assert traced == types


def test_no_pytree_of_ours_is_registered_in_the_way_that_mixes_types_up() -> None:
    root = Path(nb.__file__).parents[1]
    sources = [f for room in ("nbcore", "backends", "plugins") for f in (root / room).rglob("*.py")]
    users = {file.stem for file in sources if "register_dataclass" in file.read_text()}
    assert users <= {"pytrees"}
