"""The contract of a sampler: options in a frozen dataclass, pure functions in a `Kernel`."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, ClassVar, NamedTuple, Protocol, cast

from nbcore.common import plugins
from nbcore.common.declarations import fault_of_class
from nbcore.errors import OptionError
from nbcore.posterior.stats import Stats
from nbcore.targets.target import Target


def nothing_shared(key: Any, target: Target, position: Any) -> Any:
    """Return `()`: the sampler computes nothing once per run."""
    del key, target, position
    return ()


def always_fit(shared: Any) -> None:
    """Raise nothing: sampling is always possible."""
    del shared


def not_linearized(shared: Any) -> None:
    """Return `None`: draws predict by the network itself."""
    del shared


class Kernel(NamedTuple):
    """A sampler as pure, jittable functions for one chain; states are pytrees of arrays.

    Step `t` gets its own key; the driver owns chains, progress, chunks and thinning. `tune` runs
    once between warmup and sampling, for samplers that tune in bulk.

    Args:
        init: `(key, target, shared, position) -> state`.
        warmup: `(key, target, shared, state, t) -> (state, stats)`, t = 0 .. num_warmup - 1.
        step: `(key, target, shared, state, t) -> (state, stats)`, t = 0, 1, ...
        position: `state -> position`.
        shared: `(key, target, position) -> shared`, once per run, before the chains start.
        tune: `(key, target, shared, state) -> (state, stats)`, or None.
        check: `shared -> None`, once per run and outside of jit: raises a `SamplingError` if
            `shared` shows that sampling is impossible.
        linearized_at: `shared -> position | None`, once per run: the position at which the network
            is linearized when the draws predict, for approximations that are built from it.
    """

    init: Callable[[Any, Target, Any, Any], Any]
    warmup: Callable[[Any, Target, Any, Any, Any], tuple[Any, Stats]]
    step: Callable[[Any, Target, Any, Any, Any], tuple[Any, Stats]]
    position: Callable[[Any], Any]
    shared: Callable[[Any, Target, Any], Any] = nothing_shared
    tune: Callable[[Any, Target, Any, Any], tuple[Any, Stats]] | None = None
    check: Callable[[Any], None] = always_fit
    linearized_at: Callable[[Any], Any] = not_linearized


class Backend(Hashable, Protocol):
    """A sampler: a frozen dataclass whose fields are its options.

    A backend may also have `expected_gradients`, the approximate number of gradients of a step (1
    by default), and `minibatch_size(num_examples)`, the number of examples that a gradient reads
    (all by default), for the estimate of run time. If it is neither exact nor independent, it may
    have `bias_tolerance`, the bias of means and deviations at its default options in posterior
    standard deviations (0.25 by default), to which the conformance kit holds it.
    """

    name: ClassVar[str]
    capabilities: ClassVar[frozenset[str]]

    def kernel(self, num_warmup: int) -> Kernel:
        """Return the pure functions of the sampler for a warmup of this many steps."""
        ...


def list_backends() -> dict[str, plugins.Spec]:
    """Return the backends that are installed, by name, without importing their libraries.

    Examples:
        >>> "sgld" in list_backends()
        True
    """
    return plugins.specs("backend")


def get_backend(backend: str | Backend, **options: Any) -> Backend:
    """Return a backend by name, with options.

    Args:
        backend: a name from `nb.list_backends()`, or a backend, which is returned as it is.
        options: fields of the backend's dataclass, such as `target_acceptance_rate=0.9`.

    Raises:
        UnknownBackendError: no backend has this name; the nearest names are suggested.
        MissingExtraError: the library behind it is not installed.
        OptionError: an option is unknown, or options were given beside an instance, or the
            object is no backend.

    Examples:
        >>> get_backend("numpyro-nuts", target_acceptance_rate=0.9).target_acceptance_rate
        0.9
    """
    if isinstance(backend, str):
        return cast("Backend", plugins.build("backend", backend, options))
    if options:
        raise OptionError(
            f"Options {', '.join(options)} were given beside a {type(backend).__name__} instance. "
            "Set them on the instance."
        )
    if isinstance(backend, type) or not callable(getattr(backend, "kernel", None)):
        raise OptionError(
            f"A backend is a name ({', '.join(list_backends())}) or an object with "
            f"kernel(num_warmup); got {backend!r}."
            + (f" Type: {backend.__name__}()" if isinstance(backend, type) else "")
        )
    fault = fault_of_class("backend", backend)
    if fault:
        raise OptionError(f"A {type(backend).__name__} is no backend: {fault}.")
    return backend
