"""Draws, statistics and diagnostics of a posterior under the names of NumPyro's `MCMC`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np

import nbcore

FIELDS = {
    "accept_prob": "acceptance_rate",
    "diverging": "is_divergent",
    "num_steps": "num_gradients",
    "energy": "energy",
    "potential_energy": "log_density",
}


@dataclass(frozen=True)
class Chains:
    """What scripts read of `model.mcmc`.

    Args:
        posterior: the posterior.
        all_draws: a function that returns draws of each site `(chains, draws, ...)`.
    """

    posterior: nbcore.NetworkPosterior
    all_draws: Callable[[], Mapping[str, np.ndarray]] = field(repr=False)

    @property
    def num_chains(self) -> int:
        """Number of chains."""
        return self.posterior.num_chains

    @property
    def num_warmup(self) -> int:
        """Number of warmup steps of each chain."""
        return self.posterior.info.settings["num_warmup"]

    @property
    def num_samples(self) -> int:
        """Number of draws of each chain."""
        return self.posterior.num_draws

    @property
    def last_state(self) -> Any:
        """The last draw `z` of each site, and its statistics; with several chains one of each."""
        one = self.num_chains == 1

        def last(values: Any) -> Any:
            return np.asarray(values)[0, -1] if one else np.asarray(values)[:, -1]

        fields = self.get_extra_fields(group_by_chain=True)
        step_size = last(self.posterior.stats.step_size)
        return SimpleNamespace(
            z={name: last(values) for name, values in self.all_draws().items()},
            adapt_state=SimpleNamespace(step_size=step_size),
            **{name: last(values) for name, values in fields.items()},
        )

    def get_samples(self, group_by_chain: bool = False) -> dict[str, np.ndarray]:
        """Return the draws of each site, see `BNN.get_samples`.

        Args:
            group_by_chain: whether chains are an axis of their own, before the draws.
        """
        return {name: _grouped(draws, group_by_chain) for name, draws in self.all_draws().items()}

    def get_extra_fields(self, group_by_chain: bool = False) -> dict[str, np.ndarray]:
        """Return the statistics of each draw, all of them."""
        stats = self.posterior.stats._asdict()
        fields = {name: _grouped(stats[own], group_by_chain) for name, own in FIELDS.items()}
        return {**fields, "potential_energy": -fields["potential_energy"]}

    def print_summary(self, prob: float = 0.9, exclude_deterministic: bool = True) -> None:
        """Print mean, deviation, ESS and R-hat of every parameter."""
        del prob, exclude_deterministic
        print(self.posterior.summary())


def _grouped(draws: Any, group_by_chain: bool) -> np.ndarray:
    array = np.asarray(draws)
    return array if group_by_chain else array.reshape(-1, *array.shape[2:])
