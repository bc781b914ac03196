"""The order in which layers are called, read off the traced network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from jax.extend import core as jex

from nbcore.networks.layers import Layer
from nbcore.networks.tracing import Traced, body_of


def in_call_order(
    layers: Iterable[Layer], apply: Callable[[Any, Any], Any], params: Any, example: Any
) -> tuple[Layer, ...]:
    """Sort layers by the first use of their leaves in the traced network, and mark the outputs.

    Args:
        layers: layers in any order.
        apply: `(params, x) -> outputs`; traced, never run.
        params: pytree of arrays.
        example: input with a leading example axis.

    Returns:
        The layers with `order` and `is_output` set; layers that are never used come last.
    """
    return ordered(layers, Traced.of(apply, params, example))


def ordered(layers: Iterable[Layer], traced: Traced) -> tuple[Layer, ...]:
    """Sort layers by the first use of their leaves in a traced network; see `in_call_order`."""
    layers = tuple(layers)
    owner = {leaf.path: i for i, layer in enumerate(layers) for leaf in layer.leaves}
    owners = [owner.get(path) for path in traced.paths]
    num_inputs = len(traced.jaxpr.invars) - len(owners)
    trace = _Trace(frozenset(i for i, layer in enumerate(layers) if layer.weights))
    results = trace.walk(traced.jaxpr, [_param(o) for o in owners] + [_INPUT] * num_inputs)
    ends = frozenset[int]().union(*(value.ends for value in results))
    first_use = {o: n for n, o in reversed(list(enumerate(trace.used)))}
    ranked = sorted(range(len(layers)), key=lambda i: (first_use.get(i, len(trace.used)), i))
    return tuple(
        replace(layers[i], order=n, is_output=i in ends and not trace.passes_on(i, ends))
        for n, i in enumerate(ranked)
    )


@dataclass(frozen=True)
class _Value:
    """The dependencies of a traced value.

    Args:
        layers: the layers it depends on.
        has_input: whether it depends on the network's input.
        ends: the weight layers that data passed last on the way to this value.
    """

    layers: frozenset[int]
    has_input: bool
    ends: frozenset[int] = frozenset()


_INPUT = _Value(frozenset(), True)


_NOTHING = _Value(frozenset(), False)


def _param(owner: int | None) -> _Value:
    return _NOTHING if owner is None else _Value(frozenset([owner]), False)


class _Trace:
    """Walks a jaxpr and records in which order layers meet data, and which follow which."""

    def __init__(self, has_weights: frozenset[int]) -> None:
        self.has_weights = has_weights
        self.used: list[int] = []
        self.followed_by: set[tuple[int, int]] = set()

    def passes_on(self, layer: int, others: frozenset[int]) -> bool:
        """Whether its results meet others that never pass theirs on to it."""
        pairs = self.followed_by
        return any((layer, b) in pairs and (b, layer) not in pairs for b in others)

    def walk(self, jaxpr: jex.Jaxpr, inputs: Sequence[_Value]) -> list[_Value]:
        values: dict[Any, _Value] = dict(zip(jaxpr.invars, inputs, strict=True))

        def read(atom: Any) -> _Value:
            return _NOTHING if isinstance(atom, jex.Literal) else values.get(atom, _NOTHING)

        for eqn in jaxpr.eqns:
            ins = [read(v) for v in eqn.invars]
            outs = self._inner(eqn, ins) or [self._meet(ins)] * len(eqn.outvars)
            values.update(zip(eqn.outvars, outs, strict=True))
        return [read(v) for v in jaxpr.outvars]

    def _meet(self, ins: list[_Value]) -> _Value:
        data = [v for v in ins if v.has_input]
        ends = frozenset[int]().union(*(v.ends for v in data))
        if data:
            met = frozenset[int]().union(*(v.layers for v in ins if not v.has_input))
            for layer in sorted(met):
                self.used.append(layer)
                before = frozenset[int]().union(*(v.layers for v in data)) - {layer}
                self.followed_by.update((b, layer) for b in before)
            ends = (met & self.has_weights) or ends
        return _Value(frozenset[int]().union(*(v.layers for v in ins)), bool(data), ends)

    def _inner(self, eqn: jex.JaxprEqn, ins: list[_Value]) -> list[_Value] | None:
        """Walk into calls, loops and branches; None if the equation has no such body."""
        params, name = eqn.params, eqn.primitive.name
        if name == "while":
            cond = params["cond_nconsts"]
            return self._loop(params["body_jaxpr"].jaxpr, ins[cond:], params["body_nconsts"])
        if name == "scan":
            consts, carry = params["num_consts"], params["num_carry"]
            return self._loop(params["jaxpr"].jaxpr, ins, consts, carry)
        if name == "cond":
            outs = [self.walk(b.jaxpr, ins[1:]) for b in params["branches"]]
            return [self._meet([ins[0], *vs]) for vs in zip(*outs, strict=True)]
        body = body_of(eqn)
        return None if body is None else self.walk(body, ins)

    def _loop(
        self, body: jex.Jaxpr, ins: list[_Value], consts: int, carry: int | None = None
    ) -> list[_Value]:
        carry = len(ins) - consts if carry is None else carry
        first = self.walk(body, ins)
        merged = [self._meet([a, b]) for a, b in zip(ins[consts:], first[:carry], strict=False)]
        return self.walk(body, [*ins[:consts], *merged, *ins[consts + carry :]])
