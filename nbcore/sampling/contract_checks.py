"""Checks of what the functions of a kernel return, by abstract evaluation: nothing is compiled.

The driver evaluates `shared`, `init`, `position`, `warmup`, `tune` and `step` once on shapes and
dtypes. What does not fit is named: the function, what came, what was expected.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import random
import re
import threading
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from nbcore.common.dataflow import depends_on
from nbcore.common.keys import is_key
from nbcore.common.pytrees import register_pytree
from nbcore.errors import NbcoreError, PluginError
from nbcore.posterior.stats import Stats
from nbcore.sampling.backend import Backend, Kernel
from nbcore.targets.target import Target

ARGUMENTS = {
    "shared": "key, target, position",
    "init": "key, target, shared, position",
    "position": "state",
    "warmup": "key, target, shared, state, t",
    "tune": "key, target, shared, state",
    "step": "key, target, shared, state, t",
}
"""The functions of a kernel that are evaluated, and how the driver calls them."""

NUMBER, COUNT, FLAG = "a real number", "an integer", "a boolean"
FIELDS = {
    "log_density": NUMBER,
    "acceptance_rate": NUMBER,
    "is_divergent": FLAG,
    "num_gradients": COUNT,
    "tree_depth": COUNT,
    "step_size": NUMBER,
    "energy": NUMBER,
}
"""The fields of `Stats`, scalars, and what each holds."""


def check_kernel(kernel: Any, backend: Backend) -> None:
    """Raise unless `kernel(num_warmup)` returned a kernel.

    Args:
        kernel: what it returned.
        backend: the sampler.

    Raises:
        PluginError: it returned something else, or a field is no function.
    """
    who = f"{type(backend).__name__}.kernel(num_warmup)"
    if not isinstance(kernel, Kernel):
        raise PluginError(
            f"{who} returned {_described(kernel)}; expected an nb.Kernel. Type: "
            "return nb.Kernel(init, warmup, step, position)"
        )
    for name, function in kernel._asdict().items():
        if not callable(function) and not (name == "tune" and function is None):
            raise PluginError(
                f"{who} returned a Kernel whose {name} is {function!r}; expected a function "
                f"{name}({ARGUMENTS.get(name, 'shared')})."
            )


def check_contract(
    backend: Backend, kernel: Kernel, num_warmup: int, key: jax.Array, target: Target
) -> None:
    """Evaluate the functions of a kernel abstractly, and raise if one breaks the contract.

    Equal samplers on targets of equal structure, shapes and dtypes are checked once per process.

    Args:
        backend: the sampler.
        kernel: its functions.
        num_warmup: steps of warmup; without any, `warmup` is not evaluated.
        key: a random key.
        target: the log density.

    Raises:
        PluginError: a function takes other arguments, or returns something else than the driver
            expects; or a sampler that declares `exact` or `independent` does not read its key.
    """
    leaves, structure = jax.tree.flatten((key, target, target.start))
    shapes = tuple(_abstract(leaf) for leaf in leaves)
    _check_shapes(backend, kernel, num_warmup > 0, structure, shapes)


@functools.lru_cache(maxsize=256)
def _check_shapes(
    backend: Backend, kernel: Kernel, warms: bool, structure: Any, shapes: tuple[Any, ...]
) -> None:
    key, target, position = jax.tree.unflatten(structure, shapes)
    call = _Calls(backend, kernel)
    shared = call("shared", key, target, position).result
    state = call("init", key, target, shared, position).result
    call.check_position(call("position", state).result, position)
    t = _abstract(jnp.asarray(0))

    def check_step(name: str, *arguments: Any) -> Any:
        found = call(name, *arguments)
        call.check_state(name, call.checked_pair(name, found.result), state)
        return found.jaxpr

    if warms:
        check_step("warmup", key, target, shared, state, t)
    if kernel.tune is not None:
        check_step("tune", key, target, shared, state)
    jaxpr = check_step("step", key, target, shared, state, t)
    # The state may hold a stream of keys of its own, as integers or as keys.
    holds_keys = any(
        is_key(leaf) or jnp.issubdtype(leaf.dtype, jnp.unsignedinteger)
        for leaf in jax.tree.leaves(state)
    )
    if not holds_keys and backend.capabilities & {"exact", "independent"}:
        call.check_key_is_read(jaxpr, len(jax.tree.leaves(state)))


class Evaluated(NamedTuple):
    """What a function returned, as shapes and dtypes, and the jaxpr of the call."""

    result: Any
    jaxpr: Any


class _Calls:
    """Abstract calls of the functions of a kernel."""

    def __init__(self, backend: Backend, kernel: Kernel) -> None:
        self.backend, self.kernel = backend, kernel

    def __call__(self, name: str, *arguments: Any) -> Evaluated:
        function = getattr(self.kernel, name)
        arguments = tuple(_plain(a) if isinstance(a, Target) else a for a in arguments)
        self._check_arguments(name, function, arguments)
        before = _outside_state()
        closed, result = self._traced(name, function, arguments)
        if _outside_state() != before and not (
            # Other threads, such as those of a cluster, may have drawn: what was drawn while this
            # function was traced is another number in another trace.
            threading.active_count() > 1
            and _text(closed) == _text(self._traced(name, function, arguments)[0])
        ):
            raise self.error(
                name,
                "drew numbers from numpy.random or random while it was traced: the compiled "
                "program would repeat them in every step",
                "randomness from its key alone, such as jax.random.normal(key, shape)",
            )
        return Evaluated(result, closed.jaxpr)

    def _traced(self, name: str, function: Any, arguments: tuple[Any, ...]) -> tuple[Any, Any]:
        """Return the closed jaxpr of a call, and the shapes of its result."""
        try:
            traced = jax.make_jaxpr(self._with_arrays(name, function), return_shape=True)
            return traced(*arguments)
        except NbcoreError:
            raise
        except Exception as error:
            error.add_note(f"This happened in {self._who(name)}, evaluated on shapes and dtypes.")
            raise

    def error(self, name: str, got: str, expected: str) -> PluginError:
        """Return the error that names a function, what came, and what was expected."""
        return PluginError(f"{self._who(name)} {got}; expected {expected}.")

    def checked_pair(self, name: str, result: Any) -> Any:
        """Return the state of what `warmup`, `tune` or `step` returned, `(state, Stats)`."""
        wanted = "a pair: return state, nb.Stats(log_density, ...)"
        if type(result) is not tuple or len(cast("tuple[Any, ...]", result)) != 2:
            raise self.error(name, f"returned {_described(result)}", wanted)
        state, stats = cast("tuple[Any, Any]", result)
        if isinstance(state, Stats) and not isinstance(stats, Stats):
            raise self.error(name, "returned its Stats first, and the state second", wanted)
        if not isinstance(stats, Stats):
            raise self.error(name, f"returned {_described(stats)} in second place", wanted)
        for field, kind in FIELDS.items():
            self._check_field(name, field, kind, getattr(stats, field))
        return state

    def check_state(self, name: str, state: Any, of_init: Any) -> None:
        """Raise unless a state has structure, shapes and dtypes of that of `init`."""
        fault = _difference(state, of_init, "state")
        if fault:
            got, expected = fault
            raise self.error(
                name, f"returned {got}", f"{expected}, as init returned it: a state keeps its form"
            )

    def check_position(self, position: Any, start: Any) -> None:
        """Raise unless `position` returns the form of the position that chains start at."""
        fault = _difference(position, start, "position")
        if fault:
            got, expected = fault
            raise self.error(
                "position", f"returned {got}", f"{expected}, as in the position that init was given"
            )

    def check_key_is_read(self, jaxpr: Any, num_state: int) -> None:
        """Raise if nothing in the state after a step depends on the key, its first argument."""
        reached = depends_on(jaxpr, [n == 0 for n in range(len(jaxpr.invars))])
        if not any(reached[:num_state]):
            raise self.error(
                "step",
                "returned a state that does not depend on its key, so that every chain takes the "
                "same steps",
                "random numbers from its key, such as jax.random.normal(key, shape), and none "
                "from a key of its own or from numpy.random",
            )

    def _check_field(self, name: str, field: str, kind: str, value: Any) -> None:
        if value is None or jax.tree.structure(value).num_leaves != 1 or value.shape != ():
            what = _described(value)
        elif _kind(value.dtype) not in (kind, COUNT if kind == NUMBER else kind):
            what = _form(value)
        else:
            return
        raise self.error(
            name,
            f"returned Stats with {field}: {what}",
            f"{kind}, a scalar: of several values report one, such as their mean or sum",
        )

    def _with_arrays(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, with an error that names leaves which are no arrays."""

        def call(*arguments: Any) -> Any:
            result = function(*arguments)
            for path, leaf in jax.tree_util.tree_flatten_with_path(result)[0]:
                if not isinstance(leaf, jax.Array | np.ndarray | np.generic | bool | int | float):
                    raise self.error(
                        name,
                        f"returned {_described(leaf)} at {'result' + jax.tree_util.keystr(path)}",
                        "a pytree of arrays: functions and words belong into the closure of kernel",
                    )
            return result

        return call

    def _check_arguments(self, name: str, function: Any, arguments: tuple[Any, ...]) -> None:
        try:
            signature = inspect.signature(function)
        except (TypeError, ValueError):  # a function of C says nothing of its arguments
            return
        try:
            signature.bind(*arguments)
        except TypeError:
            raise PluginError(
                f"{type(self.backend).__name__} ({self.backend.name!r}): {name} takes {signature}; "
                f"the driver calls {name}({ARGUMENTS[name]})."
            ) from None

    def _who(self, name: str) -> str:
        return f"{type(self.backend).__name__} ({self.backend.name!r}): {name}({ARGUMENTS[name]})"


def _difference(got: Any, wanted: Any, what: str) -> tuple[str, str] | None:
    """Return how two pytrees of shapes differ, as what came and what was expected."""
    (mine, own), (theirs, other) = (_by_path(tree, what) for tree in (got, wanted))
    if mine.keys() == theirs.keys():
        for path, leaf in theirs.items():
            if (mine[path].shape, mine[path].dtype) != (leaf.shape, leaf.dtype):
                return f"{path} of {_form(mine[path])}", _form(leaf)
    if own == other:
        return None
    return f"a {what} of the structure {_structure(got)}", f"{_structure(wanted)}"


def _plain(target: Any) -> Any:
    """Return a target whose log density is quick to trace: the contract is one of the sampler."""
    if not dataclasses.is_dataclass(target):
        return target
    kind = _plain_type(type(target))
    return kind(**{f.name: getattr(target, f.name) for f in dataclasses.fields(target)})


@functools.cache
def _plain_type(kind: Any) -> Any:
    """Return the type of a target that has the normal density in place of its own."""

    def log_density(self: Any, position: Any) -> jax.Array:
        del self
        return -0.5 * jax.tree.reduce(lambda sum_, a: sum_ + jnp.sum(a**2), position, jnp.zeros(()))

    def minibatch_log_density(self: Any, position: Any, batch: Any) -> jax.Array:
        del batch
        return log_density(self, position)

    members = {"log_density": log_density, "minibatch_log_density": minibatch_log_density}
    plain = type(f"Plain{kind.__name__}", (kind,), members)
    return register_pytree(dataclasses.dataclass(frozen=True)(plain))


def _by_path(tree: Any, what: str) -> tuple[dict[str, Any], Any]:
    leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
    return {what + jax.tree_util.keystr(path): leaf for path, leaf in leaves}, structure


def _kind(dtype: Any) -> str:
    if dtype == jnp.bool_:
        return FLAG
    return COUNT if jnp.issubdtype(dtype, jnp.integer) else NUMBER


def _structure(tree: Any) -> str:
    return str(jax.tree.map(_form, tree)).replace("'", "")


def _form(leaf: Any) -> str:
    return f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"


def _described(value: Any) -> str:
    """Say what a value is: its type, and the form of its leaves."""
    if value is None:
        return "None"
    kind = type(value).__name__
    article = "an" if kind[0] in "aeiouAEIOU" else "a"
    leaves = jax.tree.leaves(value)
    if not all(hasattr(leaf, "dtype") for leaf in leaves):
        return f"{article} {kind}"
    if jax.tree_util.all_leaves([value]):
        return f"one array, {_form(value)}"
    size = f" of {len(value)}" if isinstance(value, tuple | list | dict) else ""
    return f"{article} {kind}{size}: {_structure(value)}"


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    array = leaf if isinstance(leaf, jax.Array) else jnp.asarray(leaf)
    return jax.ShapeDtypeStruct(array.shape, array.dtype)


def _text(closed: Any) -> str:
    """Return a closed jaxpr with its constants as text, without addresses in memory."""
    constants = [np.asarray(c).tolist() for c in closed.consts if not is_key(c)]
    return re.sub("0x[0-9a-f]+", "", f"{closed.jaxpr} {constants}")


def _outside_state() -> Any:
    """Return the state of the global generators of NumPy and Python."""
    name, keys, *rest = np.random.get_state()
    return name, np.asarray(keys).tobytes(), tuple(rest), random.getstate()
