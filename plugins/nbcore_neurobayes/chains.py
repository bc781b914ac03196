"""Draws, statistics and diagnostics of a posterior under the names of NumPyro's `MCMC`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

import nbcore

THRESHOLD = 1.15
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
    """

    posterior: nbcore.NetworkPosterior

    def get_samples(self, group_by_chain: bool = False) -> dict[str, np.ndarray]:
        """Return draws by leaf path, the unconstrained parameters, and the noise as `"sig"`.

        Args:
            group_by_chain: whether chains are an axis of their own, before the draws.
        """
        found = dict(self.posterior.flat_draws())
        noise = self.posterior.constrained()["likelihood"].get("noise")
        if noise is not None:
            scaler = self.posterior.scaler
            found["sig"] = noise if scaler is None else noise * scaler.scale
        return {name: _grouped(draws, group_by_chain) for name, draws in found.items()}

    def get_extra_fields(self, group_by_chain: bool = False) -> dict[str, np.ndarray]:
        """Return the statistics of each draw, all of them."""
        stats = self.posterior.stats._asdict()
        fields = {name: _grouped(stats[own], group_by_chain) for name, own in FIELDS.items()}
        return {**fields, "potential_energy": -fields["potential_energy"]}

    def print_summary(self) -> None:
        """Print mean, deviation, ESS and R-hat of every number."""
        print(self.posterior.summary())


def _grouped(draws: Any, group_by_chain: bool) -> np.ndarray:
    array = np.asarray(draws)
    return array if group_by_chain else array.reshape(-1, *array.shape[2:])


def diagnostics_of(posterior: nbcore.Posterior) -> dict[str, Any]:
    """Print a table by layer; return R-hats overall and by layer, and the numbers above 1.15."""
    table = posterior.summary().columns
    print(posterior.summary("layer"))
    rhat = table["r_hat"]
    layers = dict.fromkeys(table["layer"])
    bad = np.flatnonzero(rhat > THRESHOLD)
    return {
        "overall": {**_rhats(rhat), "total_params": len(rhat)},
        "by_layer": {
            name: {**_rhats(rhat[chosen]), "num_params": int(chosen.sum())}
            for name, chosen in ((n, table["layer"] == n) for n in layers)
        },
        "worst_params": [{"param": table["name"][i], "max_rhat": float(rhat[i])} for i in bad],
    }


def _rhats(rhat: np.ndarray) -> dict[str, float]:
    return {
        "rhat_mean": float(rhat.mean()),
        "rhat_max": float(rhat.max()),
        "percent_bad": float(100 * np.mean(rhat > THRESHOLD)),
    }
