"""The sampler of an estimator, and its numbers of steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jax

from nbcore.common.progress import Progress
from nbcore.distributions.likelihoods import Likelihood
from nbcore.estimators.options import SamplingOptions
from nbcore.posterior.posterior import NetworkPosterior
from nbcore.sampling.backend import Backend, get_backend
from nbcore.sampling.driver import check_steps
from nbcore.sampling.restarts import sample_with_restarts
from nbcore.targets.marginalize import Marginalize, check_possible, marginalized
from nbcore.targets.target import NetworkTarget

AT_NETWORKS = ("auto", "trained")
"""Starts for which several trained networks are one each for a chain."""
FEW_GRADIENTS = 100
"""Gradients of a search for the mode, about."""


@dataclass(frozen=True)
class SamplerPreset:
    """A sampler together with the numbers of steps that suit it.

    A preset is used as a whole or not at all, because steps that suit one sampler do not suit
    another: if a call of `fit` names the sampler, the warmup, the steps or the thinning, then the
    values that it leaves out are those of the general preset, `SamplerPreset()`, and not those of
    the preset of the estimator.

    Args:
        backend: a sampler from `nb.list_backends()`.
        backend_options: its options.
        num_warmup: warmup steps of each chain.
        num_samples: steps of each chain after warmup, of which every `thin`-th is kept:
            `num_samples // thin` draws, as in Stan and NumPyro.
        num_chains: number of chains.
        thin: see `num_samples`.
        marginalize: whether weights are integrated out, see `nb.marginalize`.

    Examples:
        >>> own = SamplerPreset("blackjax-mclmc", num_samples=50_000, thin=50)
        >>> own.unless_given(num_warmup=None, num_samples=None) == own
        True
        >>> own.unless_given(num_warmup=None, num_samples=200) == SamplerPreset(num_samples=200)
        True
    """

    backend: str | Backend = "numpyro-nuts"
    backend_options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    num_warmup: int = 1000
    num_samples: int = 1000
    num_chains: int = 4
    thin: int = 1
    marginalize: Marginalize = False

    def unless_given(self, **values: Any) -> SamplerPreset:
        """Return this preset, or the general one with the values that were given.

        Args:
            values: fields of the preset, `None` if not given.
        """
        given = {name: value for name, value in values.items() if value is not None}
        return replace(SamplerPreset(), **given) if given else self


@dataclass(frozen=True)
class Sampler:
    """A sampler that is ready to run: nothing is left open.

    Args:
        backend: the sampler.
        num_warmup: warmup steps of each chain.
        num_samples: steps of each chain after warmup, of which every `thin`-th is kept:
            `num_samples // thin` draws, as in Stan and NumPyro.
        num_chains: number of chains.
        thin: see `num_samples`.
        marginalize: whether weights are integrated out.
        options: how the chains are run.
    """

    backend: Backend
    num_warmup: int
    num_samples: int
    num_chains: int
    thin: int
    marginalize: Marginalize
    options: SamplingOptions

    @staticmethod
    def of(
        preset: SamplerPreset,
        backend: str | Backend | None,
        num_warmup: int | None,
        num_samples: int | None,
        num_chains: int | None,
        options: SamplingOptions,
    ) -> Sampler:
        """Return the sampler that was asked for, completed by a preset.

        Raises:
            UnknownBackendError, OptionError: there is no such sampler.
        """
        used = preset.unless_given(
            backend=backend, num_warmup=num_warmup, num_samples=num_samples, thin=options.thin
        )
        chosen = get_backend(used.backend, **dict(used.backend_options))
        asked = options.marginalize
        return Sampler(
            chosen, used.num_warmup, used.num_samples,
            preset.num_chains if num_chains is None else num_chains, used.thin,
            used.marginalize if asked is None else asked, options,
        )  # fmt: skip

    @property
    def num_starts(self) -> int:
        """Number of trained networks at which the chains could start, one each."""
        return self.num_chains if self.options.init in AT_NETWORKS else 1

    @property
    def num_gradients(self) -> float:
        """About how many gradients are taken in all, those of a search for the mode included."""
        a_step = float(getattr(self.backend, "expected_gradients", 1.0))
        return FEW_GRADIENTS + a_step * (self.num_warmup + self.num_samples) * self.num_chains

    def check(self, likelihood: Likelihood) -> None:
        """Check that the sampler can run with a likelihood, before anything is trained.

        Raises:
            OptionError: a number of steps or chains is impossible.
            TargetError: weights are to be integrated out, and cannot be.
        """
        check_steps(self.num_warmup, self.num_samples, self.num_chains, self.thin)
        check_possible(self.marginalize, likelihood, self.backend.capabilities)

    def sample(
        self,
        target: NetworkTarget,
        member: int,
        init: Any,
        key: jax.Array,
        progress: bool | Progress,
    ) -> NetworkPosterior:
        """Sample a target.

        Args:
            target: the log density.
            member: number of the frozen network, which names its checkpoint.
            init: where chains start, instead of at the trained weights; or `None`.
            key: random key.
            progress: whether to report, or a function that takes a `Report`.
        """
        options, folder = self.options, self.options.checkpoint
        return sample_with_restarts(
            marginalized(target, self.marginalize, self.backend.capabilities),
            self.backend,
            key=key,
            max_num_restarts=options.max_num_restarts,
            min_acceptance_rate=options.min_acceptance_rate,
            num_warmup=self.num_warmup,
            num_samples=self.num_samples,
            num_chains=self.num_chains,
            thin=self.thin,
            init=options.init if init is None or options.init not in AT_NETWORKS else init,
            chain_method=options.chain_method,
            progress=progress,
            checkpoint=None if folder is None else Path(folder, f"member-{member}"),
            mesh=options.mesh,
        )
