"""Declarations of backends and selectors, and checks of what they declare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any, Literal

from nbcore.common.hookspecs import Spec
from nbcore.errors import did_you_mean

PluginKind = Literal["backend", "selector", "network"]

CAPABILITIES: dict[str, str] = {
    "exact": "draws converge to the target without a bias from step size or minibatches",
    "minibatch": "each step reads a minibatch of the data",
    "adaptive": "warmup tunes the sampler",
    "fixed_cost": "every step costs the same, so that chains can be vectorized",
    "independent": "draws do not depend on the draws before",
}
"""Capabilities that a backend can declare."""

NEEDS: dict[str, str] = {
    "data": "inputs X",
    "gradients": "moments of the gradients of batches",
    "trajectory": "moments of the weights over the SWA snapshots",
    "curvature": "per-example gradients and Jacobians on X and y",
}
"""Needs that a selector can declare."""

_WORDS: dict[PluginKind, tuple[str, Mapping[str, str]]] = {
    "backend": ("capabilities", CAPABILITIES),
    "selector": ("needs", NEEDS),
    "network": ("capabilities", {}),
}


def fault_of_specs(kind: PluginKind, specs: Any) -> str:
    """Return the fault of what a hook returned, and its remedy; empty if there is none.

    Args:
        kind: what the hook registers.
        specs: what it returned.

    Examples:
        >>> fault_of_specs("backend", [Spec("mine", "my_plugin.samplers:Mine")])
        ''
        >>> fault_of_specs("backend", "mine")
        "returned 'mine'. Return a list: [Spec('name', 'module:Class')]"
    """
    if not isinstance(specs, Sequence) or isinstance(specs, str):
        return f"returned {specs!r}. Return a list: [Spec('name', 'module:Class')]"
    for number, spec in enumerate(specs):
        if not isinstance(spec, Spec):
            return (
                f"returned {spec!r} in place {number} of its list, which is not a Spec. "
                "Type: Spec('name', 'module:Class')"
            )
        if any(spec.name == other.name for other in specs[:number]):
            return f"returned two Specs named {spec.name!r}. Give each its own name"
        fault = _fault_of_spec(kind, spec)
        if fault:
            return f"returned a Spec {fault}"
    return ""


def _fault_of_spec(kind: PluginKind, spec: Spec) -> str:
    for field in ("name", "target", "extra"):
        value = getattr(spec, field)
        if not isinstance(value, str) or not (value or field == "extra"):
            return (
                f"with {field}={value!r}, which is not a name. Type: Spec('name', 'module:Class')"
            )
    module, _, cls = spec.target.partition(":")
    if not (module and cls):
        return (
            f"named {spec.name!r} with target={spec.target!r}. Type the module and the class: "
            "target='my_plugin.samplers:MySampler'"
        )
    fault = _fault_of_words(kind, spec.capabilities)
    return f"named {spec.name!r} with capabilities={fault}" if fault else ""


def _fault_of_words(kind: PluginKind, declared: Any) -> str:
    word, known = _WORDS[kind]
    possible = f"Possible: {', '.join(known) or 'none'}"
    if not isinstance(declared, frozenset):
        return f"{declared!r}, which is not a frozenset. Type: frozenset({{...}}). {possible}"
    unknown = sorted(str(name) for name in declared if name not in known)
    if not unknown:
        return ""
    hint = did_you_mean(unknown[0], known)
    return f"{sorted(map(str, declared))}: unknown {word}: {unknown}.{hint} {possible}"


def fault_of_class(kind: PluginKind, made: Any, spec: Spec | None = None) -> str:
    """Return the fault of what a backend or a selector declares, or an empty string.

    Args:
        kind: kind of plugin; networks are not checked.
        made: an instance of the class.
        spec: what its plugin announces, if it was found by its name there.

    Examples:
        >>> from dataclasses import dataclass
        >>> @dataclass
        ... class Mine:
        ...     name = "mine"
        ...     capabilities = frozenset({"exact"})
        >>> fault_of_class("backend", Mine()).partition(". ")[2]
        'Type: @dataclass(frozen=True)'
    """
    if kind == "network":
        return ""
    cls, (word, _) = type(made), _WORDS[kind]
    name, declared = getattr(made, "name", None), getattr(made, word, None)
    if not isinstance(name, str) or not name:
        return f"{cls.__name__}.name is {name!r}. Type: name: ClassVar[str] = 'my-{kind}'"
    if spec is not None and name != spec.name:
        return (
            f"{cls.__name__}.name is {name!r}, and its Spec says {spec.name!r}. "
            "Type the same name in both"
        )
    fault = _fault_of_words(kind, declared)
    if fault:
        return f"{cls.__name__}.{word} is {fault}"
    # A property depends on options; what it says by default is left to the conformance kit.
    fixed = isinstance(getattr(cls, word, None), frozenset)
    if spec is not None and fixed and declared != spec.capabilities:
        return (
            f"{cls.__name__}.{word} is {sorted(declared or ())}, and the capabilities of its Spec "
            f"are {sorted(spec.capabilities)}. Type the same words in both"
        )
    return _fault_of_options(kind, made)


def _fault_of_options(kind: PluginKind, made: Any) -> str:
    cls = type(made)
    if is_dataclass(cls) and not getattr(cls, "__dataclass_params__").frozen:  # noqa: B009
        return (
            f"{cls.__name__} keeps its options in a dataclass that is not frozen. "
            "Type: @dataclass(frozen=True)"
        )
    if kind == "backend":
        try:
            hash(made)
        except TypeError as error:
            return (
                f"the options of {cls.__name__} cannot be hashed ({error}), and compiled programs "
                "are found by them. Keep a tuple instead of a list, a dict or an array"
            )
    return ""
