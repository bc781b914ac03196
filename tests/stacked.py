"""Networks whose layers are stacked in the same arrays, and the same networks without stacks."""

from __future__ import annotations

import functools
from typing import Any

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import nnx

import nbcore as nb

X = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)
SIZE = 3
"""Layers of the stack `blocks`, each a dense layer `(4, 4)` and tanh."""


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, _=None):
        return nn.tanh(nn.Dense(4, name="dense")(x)), None


def over(lift, *, axis=0, **options):
    return lift(Block, variable_axes={"params": axis}, split_rngs={"params": True}, **options)


class LinenScan(nn.Module):
    axis: int = 0
    reverse: bool = False

    @nn.compact
    def __call__(self, x):
        stack = over(nn.scan, axis=self.axis, length=SIZE, reverse=self.reverse)
        x, _ = stack(name="blocks")(nn.Dense(4, name="first")(x), None)
        return nn.Dense(1, name="out")(x)


class LinenVmap(nn.Module):
    axis: int = 0

    @nn.compact
    def __call__(self, x):
        stack = over(nn.vmap, axis=self.axis, in_axes=None, axis_size=SIZE)
        x, _ = stack(name="blocks")(nn.Dense(4, name="first")(x))
        return nn.Dense(1, name="out")(x.mean(axis=0))


class Unrolled(nn.Module):
    """The network of `LinenScan`, with its layers side by side."""

    reverse: bool = False

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(4, name="first")(x)
        blocks = [Block(name=f"blocks_{i}") for i in range(SIZE)]
        for block in reversed(blocks) if self.reverse else blocks:
            x, _ = block(x)
        return nn.Dense(1, name="out")(x)


def unrolled(params: Any, axis: int = 0) -> Any:
    """Return the parameters of `Unrolled`, given those of `LinenScan`."""
    rest = dict(params["params"])
    stack = rest.pop("blocks")
    layers = {
        f"blocks_{i}": jax.tree.map(functools.partial(jnp.take, indices=i, axis=axis), stack)
        for i in range(SIZE)
    }
    return {"params": {**rest, **layers}}


class NnxBlock(nnx.Module):
    def __init__(self, rngs):
        self.dense = nnx.Linear(4, 4, rngs=rngs)

    def __call__(self, x):
        return nnx.tanh(self.dense(x))


class Nnx(nnx.Module):
    def __init__(self, rngs, axis=0, scans=True):
        self.axis, self.scans = axis, scans
        self.first = nnx.Linear(3, 4, rngs=rngs)
        make = nnx.vmap(NnxBlock, in_axes=0, out_axes=axis)
        self.blocks = nnx.split_rngs(splits=SIZE)(make)(rngs)
        self.out = nnx.Linear(4, 1, rngs=rngs)

    def __call__(self, x):
        x = self.first(x)
        if self.scans:
            run = nnx.scan(lambda x, b: b(x), in_axes=(nnx.Carry, self.axis), out_axes=nnx.Carry)
            return self.out(run(x, self.blocks))
        each = nnx.vmap(lambda b, x: b(x), in_axes=(self.axis, None))(self.blocks, x)
        return self.out(each.mean(axis=0))


class EquinoxBlock(eqx.Module):
    dense: eqx.nn.Linear

    def __init__(self, key):
        self.dense = eqx.nn.Linear(4, 4, key=key)

    def __call__(self, x):
        return jnp.tanh(self.dense(x))


class Equinox(eqx.Module):
    first: eqx.nn.Linear
    blocks: EquinoxBlock
    out: eqx.nn.Linear
    mode: str = eqx.field(static=True)

    def __init__(self, key, mode="scan"):
        first, blocks, out = jax.random.split(key, 3)
        self.first, self.out = eqx.nn.Linear(3, 4, key=first), eqx.nn.Linear(4, 1, key=out)
        self.blocks = eqx.filter_vmap(EquinoxBlock)(jax.random.split(blocks, SIZE))
        self.mode = mode

    def __call__(self, x):
        x = self.first(x)
        arrays, rest = eqx.partition(self.blocks, eqx.is_array)
        if self.mode == "scan":
            x, _ = jax.lax.scan(lambda h, a: (eqx.combine(a, rest)(h), None), x, arrays)
        elif self.mode == "loop":
            for i in range(SIZE):
                x = eqx.combine(jax.tree.map(lambda a, i=i: a[i], arrays), rest)(x)
        else:
            x = eqx.filter_vmap(lambda block: block(x))(self.blocks).mean(axis=0)
        return self.out(x)


def haiku_stack(x):
    x = hk.Linear(4, name="first")(x)
    stack = hk.layer_stack(SIZE, name="blocks")
    return hk.Linear(1, name="out")(stack(lambda h: jnp.tanh(hk.Linear(4, name="dense")(h)))(x))


def init(key, x):
    def dense(key, *shape):
        kernel = jax.random.normal(key, shape) / 2
        return {"kernel": kernel, "bias": jnp.zeros((*shape[:-2], shape[-1]))}

    keys = jax.random.split(key, 3)
    return {
        "first": dense(keys[0], 3, 4),
        "blocks": {"dense": dense(keys[1], SIZE, 4, 4)},
        "out": dense(keys[2], 4, 1),
    }


def _dense(params, x):
    return x @ params["kernel"] + params["bias"]


def _scan(blocks, x):
    return jax.lax.scan(lambda h, b: (jnp.tanh(_dense(b, h)), None), x, blocks["dense"])[0]


def _loop(blocks, x):
    for i in range(SIZE):
        x = jnp.tanh(_dense(jax.tree.map(lambda a, i=i: a[i], blocks["dense"]), x))
    return x


def _fori(blocks, x):
    def step(i, h):
        return jnp.tanh(_dense(jax.tree.map(lambda a: a[i], blocks["dense"]), h))

    return jax.lax.fori_loop(0, SIZE, step, x)


def _while(blocks, x):
    def step(carry):
        i, h = carry
        part = jax.tree.map(lambda a: jax.lax.dynamic_index_in_dim(a, i, 0, False), blocks["dense"])
        return i + 1, jnp.tanh(_dense(part, h))

    return jax.lax.while_loop(lambda carry: carry[0] < SIZE, step, (0, x))[1]


def _vmap_of_two(blocks, x):
    def one(dense):
        return jnp.tanh(_dense(dense, jnp.tanh(_dense(dense, x))))

    return jax.vmap(one)(blocks["dense"]).mean(axis=0)


def _einsum(blocks, x):
    """Experts, without a transformation: gates weigh what each makes of features of its own."""
    dense = blocks["dense"]
    apart = jnp.tanh(x[:, None, :] * jnp.arange(1.0, 1 + SIZE)[:, None])
    each = jnp.tanh(jnp.einsum("bei,eio->beo", apart, dense["kernel"]) + dense["bias"])
    return jnp.einsum("be,beo->bo", jax.nn.softmax(each.sum(axis=2)), each)


def functions(stack):
    def apply(params, x):
        return _dense(params["out"], stack(params["blocks"], _dense(params["first"], x)))

    return init, apply


SEQUENTIAL = {
    "linen scan": LinenScan(),
    "linen scan, axis 1": LinenScan(axis=1),
    "linen scan, axis -1": LinenScan(axis=-1),
    "nnx scan": functools.partial(Nnx),
    "nnx scan, axis 1": functools.partial(Nnx, axis=1),
    "equinox scan": functools.partial(Equinox, mode="scan"),
    "equinox loop": functools.partial(Equinox, mode="loop"),
    "haiku layer_stack": hk.transform(haiku_stack),
    "functions scan": functions(_scan),
    "functions loop": functions(_loop),
    "functions fori_loop": functions(_fori),
    "functions while_loop": functions(_while),
}
PARALLEL = {
    "linen vmap": LinenVmap(),
    "linen vmap, axis 1": LinenVmap(axis=1),
    "nnx vmap": functools.partial(Nnx, scans=False),
    "equinox filter_vmap": functools.partial(Equinox, mode="vmap"),
    "functions vmap": functions(_vmap_of_two),
    "functions einsum": functions(_einsum),
}
MODELS = {**SEQUENTIAL, **PARALLEL}


@functools.cache
def network_and_params(name: str) -> tuple[nb.Network, Any]:
    network = nb.as_network(MODELS[name], example=X)
    return network, network.init(jax.random.key(0), X)
