"""Checks and subjects: the checks that a backend, a selector, a likelihood, ... has to pass."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, is_dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

from nbcore.common import plugins
from nbcore.common.hookspecs import Spec
from nbcore.errors import MissingExtraError, OptionError, did_you_mean

if TYPE_CHECKING:
    import pytest

SubjectKind = Literal["backend", "selector", "network", "likelihood", "prior"]


@dataclass(frozen=True)
class Installed:
    """A backend or a selector that is installed; imported when a check needs it.

    Args:
        kind: `"backend"` or `"selector"`.
        spec: what its plugin announces.
    """

    kind: Literal["backend", "selector"]
    spec: Spec

    def build(self) -> Any:
        """Return it, with its default options.

        Raises:
            MissingExtraError: the library behind it is not installed.
        """
        return plugins.build(self.kind, self.spec.name, {})


@dataclass(frozen=True)
class Check:
    """One rule that subjects of a kind are held to; call it with a subject.

    Args:
        name: its name, as in the ids of the tests.
        kind: what it is a rule for.
        function: the rule; raises a `ConformanceError` if it is broken.
        applies: which capabilities (needs of a selector) a subject must declare, as a predicate.
        options: which options a subject must have.
        slow: whether it takes more than about ten seconds.
    """

    name: str
    kind: SubjectKind
    function: Callable[[Any], None]
    applies: Callable[[frozenset[str]], bool]
    options: frozenset[str] = frozenset()
    slow: bool = False

    def __call__(self, subject: Any) -> None:
        """Hold a subject to the rule.

        The subject is imported only now, and the test is skipped if its library is missing, or if
        it lacks an option that the rule is about.
        """
        if isinstance(subject, Installed):
            import pytest  # noqa: PLC0415  no dependency of the library

            try:
                subject = subject.build()
            except MissingExtraError as error:
                pytest.skip(str(error))
            if not self.suits(subject):
                pytest.skip(f"{subject.name} has no option {', '.join(sorted(self.options))}")
        self.function(subject)

    def suits(self, subject: Any) -> bool:
        """Say whether a subject has the options that the rule is about."""
        if not self.options:
            return True
        return is_dataclass(subject) and self.options <= {f.name for f in fields(subject) if f.init}

    def __repr__(self) -> str:
        """Return the name."""
        return self.name


_MODULES = (
    "backend_contract", "backend_honesty", "backend_truth", "likelihood_checks", "network_checks",
    "prior_checks", "reference_checks", "selector_checks",
)  # fmt: skip
_CHECKS: list[Check] = []


def check(
    kind: SubjectKind,
    *,
    applies: Callable[[frozenset[str]], bool] = lambda _: True,
    options: frozenset[str] = frozenset(),
    slow: bool = False,
) -> Callable[[Callable[[Any], None]], Callable[[Any], None]]:
    """Make a function `check_...` a rule for a kind of subjects.

    Args:
        kind: `"backend"`, `"selector"`, `"network"`, `"likelihood"` or `"prior"`.
        applies: which declared capabilities it applies to; all by default.
        options: which options it is about; subjects without them are left out.
        slow: whether it takes more than about ten seconds.
    """

    def register(function: Callable[[Any], None]) -> Callable[[Any], None]:
        name = function.__name__.removeprefix("check_")
        _CHECKS.append(Check(name, kind, function, applies, options, slow))
        return function

    return register


def checks_for(subject: Any) -> list[Check]:
    """Return the checks that a subject has to pass, chosen by what it declares.

    Raises:
        OptionError: there are no checks for such an object.

    Examples:
        >>> import nbcore as nb
        >>> len(checks_for(nb.get_backend("sgld"))) > 5
        True
    """
    _load_checks()
    kind, _, declared = _described(subject)
    chosen = [c for c in _CHECKS if c.kind == kind and c.applies(declared)]
    return [c for c in chosen if isinstance(subject, Installed) or c.suits(subject)]


def cases(subjects: Iterable[Any]) -> list[Any]:
    """Return a pytest parameter set for every pair of a subject and one of its checks.

    Args:
        subjects: as for `parametrize_with_checks`.
    """
    import pytest  # noqa: PLC0415  no dependency of the library

    found: list[Any] = []
    for subject in subjects:
        _, name, _ = _described(subject)
        for one in checks_for(subject):
            marks = [pytest.mark.slow] if one.slow else []
            found.append(pytest.param(subject, one, id=f"{name}-{one.name}", marks=marks))
    return found


def parametrize_with_checks(subjects: Iterable[Any]) -> pytest.MarkDecorator:
    """Parametrize a test over every check that the subjects have to pass.

    The test takes `subject` and `check` and calls `check(subject)`. Statistical checks that take
    more than about ten seconds have the marker `slow`: `pytest -m "not slow"` leaves them out.

    Args:
        subjects: backends, selectors, `NetworkCase`s (a model and example inputs),
            `LikelihoodCase`s (a likelihood, example outputs and targets), `PriorCase`s, or what
            `installed` returns.

    Raises:
        OptionError: an object is none of these.

    Examples:
        >>> import nbcore as nb
        >>> from nbcore.testing import parametrize_with_checks
        >>> @parametrize_with_checks([nb.get_backend("sgld", batch_size=64)])
        ... def test_my_backend(subject, check):
        ...     check(subject)
    """
    import pytest  # noqa: PLC0415  no dependency of the library

    return pytest.mark.parametrize(("subject", "check"), cases(subjects))


def installed(kind: Literal["backend", "selector"], name: str | None = None) -> list[Installed]:
    """Return the installed backends or selectors, those of third parties included.

    Args:
        kind: `"backend"` or `"selector"`.
        name: only the one with this name.

    Raises:
        OptionError: nothing has this name.

    Examples:
        >>> [subject.spec.name for subject in installed("backend", "sgld")]
        ['sgld']
    """
    specs = plugins.specs(kind)
    if name is not None and name not in specs:
        raise OptionError(
            f"No {kind} is named {name!r}.{did_you_mean(name, specs)} "
            f"Possible: {', '.join(specs) or 'none'}."
        )
    return [Installed(kind, spec) for key, spec in specs.items() if name in (None, key)]


def _described(subject: Any) -> tuple[SubjectKind, str, frozenset[str]]:
    """Return kind, name and declared capabilities of a subject."""
    if isinstance(subject, Installed):
        return subject.kind, subject.spec.name, subject.spec.capabilities
    if not isinstance(subject, type):
        name = getattr(subject, "name", type(subject).__name__)
        if callable(getattr(subject, "kernel", None)):
            return "backend", _labeled(name, subject), _set(subject, "capabilities")
        if any(callable(getattr(subject, f, None)) for f in ("score", "choose")):
            return "selector", _labeled(name, subject), _set(subject, "needs")
        if hasattr(subject, "model") and hasattr(subject, "X"):
            return "network", str(name), frozenset()
        if hasattr(subject, "likelihood") and hasattr(subject, "outputs"):
            return "likelihood", str(name), frozenset()
        if hasattr(subject, "prior") and hasattr(subject, "is_positive"):
            declared = {"positive"} if subject.is_positive else {"weights"}
            return "prior", str(name), frozenset(declared)
    raise OptionError(
        "Checks are for backends (kernel), selectors (score or choose) and the NetworkCase(model, "
        "X), LikelihoodCase(likelihood, outputs, y) and PriorCase(prior) of nbcore.testing; got "
        f"{subject!r}."
    )


def _set(subject: Any, attribute: str) -> frozenset[str]:
    return frozenset(cast("Iterable[str]", getattr(subject, attribute, ())))


def _labeled(name: str, subject: Any) -> str:
    """Return the name, with the options that differ from their defaults."""
    if not is_dataclass(subject):
        return name
    given = [
        f"{f.name}={getattr(subject, f.name)}"
        for f in fields(subject)
        if f.init and getattr(subject, f.name) != f.default
    ]
    return f"{name}({','.join(given)})" if given else name


def _load_checks() -> None:
    """Import the modules that register checks: they import jax, which collecting need not."""
    for module in _MODULES:
        importlib.import_module(f"nbcore.testing.{module}")
