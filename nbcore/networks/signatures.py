"""Signatures of models: the arguments that switch training on, take keys, or are refused."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from nbcore.errors import NetworkError

_TRUE_IN_TRAINING = ("train", "training", "is_training", "enable_dropout")
_TRUE_IN_EVALUATION = ("deterministic", "inference")


def mode_flags(call: Callable[..., Any], train: bool) -> dict[str, Any]:
    """Return the keyword arguments that switch a call to training or to evaluation.

    Examples:
        >>> mode_flags(lambda x, is_training: x, train=False)
        {'is_training': False}
    """
    known = inspect.signature(call).parameters
    flags = {"use_running_average": True}
    flags |= dict.fromkeys(_TRUE_IN_TRAINING, train)
    flags |= dict.fromkeys(_TRUE_IN_EVALUATION, not train)
    return {name: value for name, value in flags.items() if name in known}


def check_reads_one_input(name: str, call: Callable[..., Any], *, first: int = 0) -> None:
    """Check that a call reads its inputs as one argument.

    Args:
        name: what is called, for the message.
        call: the call.
        first: how many arguments come before the inputs, such as parameters.

    Raises:
        NetworkError: further arguments are required.

    Examples:
        >>> check_reads_one_input("apply", lambda params, x, train: x, first=1)
    """
    try:
        parameters = list(inspect.signature(call).parameters.values())[first:]
    except (TypeError, ValueError):  # a builtin, which does not say what it reads
        return
    given = {"key", *mode_flags(call, True)}
    required = [
        p.name
        for p in parameters
        if p.default is p.empty
        and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        and p.name not in given
    ]
    if len(required) > 1:
        names = ", ".join(required)
        raise NetworkError(
            f"{name} reads {len(required)} arguments ({names}), and a network reads one, X. X may "
            "be a pytree of arrays with a shared leading axis: take one argument and unpack it, "
            f"({names}) = inputs, and give X=({names})."
        )
