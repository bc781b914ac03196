"""Which sampler a model uses, and for how many steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from nbcore.sampling.backend import Backend, get_backend
from nbcore.targets.marginal import Marginalize


@dataclass(frozen=True)
class Run:
    """A sampler and its steps.

    Args:
        backend: a sampler from `nb.list_backends()`, or an instance.
        backend_options: options of a sampler that was given by name.
        num_warmup: warmup steps of each chain.
        num_samples: steps of each chain after warmup.
        thin: keep every `thin`-th step.
        marginalize: whether weights are integrated out, see `nb.marginalize`; `"auto"` is where
            they can be.

    Examples:
        >>> default = Run("blackjax-mclmc", num_samples=50_000, thin=50)
        >>> default.unless(num_warmup=None, num_samples=None) == default
        True
        >>> default.unless(num_warmup=None, num_samples=200) == Run(num_samples=200)
        True
    """

    backend: str | Backend = "numpyro-nuts"
    backend_options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    num_warmup: int = 1000
    num_samples: int = 1000
    thin: int = 1
    marginalize: Marginalize = False

    def unless(self, **asked: Any) -> Run:
        """Return this run; where something is asked for, that and the common defaults instead.

        Steps that suit one sampler do not suit another, so that parts of two runs are not mixed.

        Args:
            asked: fields, `None` where nothing was said.
        """
        said = {name: value for name, value in asked.items() if value is not None}
        return replace(Run(), **said) if said else self

    def sampler(self) -> Backend:
        """Return the sampler, with its options.

        Raises:
            UnknownBackendError, OptionError: there is no such sampler, or no such option.
        """
        return get_backend(self.backend, **dict(self.backend_options))
