"""R-hat of every layer, from draws by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpyro.diagnostics import split_gelman_rubin

from nbcore.errors import OptionError

__all__ = ["MCMCDiagnostics"]


class MCMCDiagnostics:
    """R-hat of the weights overall and by layer.

    Args:
        threshold_rhat: R-hat above which a parameter counts as bad.

    Examples:
        >>> draws = np.random.default_rng(0).normal(size=(2, 200, 3))
        >>> found = MCMCDiagnostics().analyze_samples({"nn/Dense0.bias": draws})
        >>> found["by_layer"]["Dense0"]["num_params"]
        3
    """

    def __init__(self, threshold_rhat: float = 1.15) -> None:
        self.threshold_rhat = threshold_rhat
        self.results: dict[str, Any] | None = None

    def analyze_samples(self, mcmc_samples: Mapping[str, Any]) -> dict[str, Any]:
        """Return R-hat overall and by layer, and of the parameters that are above the threshold.

        Args:
            mcmc_samples: draws `(chains, draws, ...)` by name, `model.get_samples(True)`.
        """
        each = {
            name: np.ravel(np.asarray(split_gelman_rubin(np.asarray(draws))))
            for name, draws in mcmc_samples.items()
            if _layer_of(name)
        }
        layers = dict.fromkeys(_layer_of(name) for name in each)
        by_layer = {
            layer: np.concatenate([r for name, r in each.items() if _layer_of(name) == layer])
            for layer in layers
        }
        every = np.concatenate(list(each.values()))
        self.results = {
            "overall": {**self._of(every), "total_params": len(every)},
            "by_layer": {k: {**self._of(r), "num_params": len(r)} for k, r in by_layer.items()},
            "worst_params": [
                {"param": name, "max_rhat": float(r.max()), "percent_bad": self._percent_bad(r)}
                for name, r in each.items()
                if self._percent_bad(r)
            ],
        }
        return self.results

    def print_summary(self) -> None:
        """Print the results.

        Raises:
            OptionError: nothing was analyzed yet.
        """
        if self.results is None:
            raise OptionError("Nothing was analyzed yet. Type: analyze_samples(samples)")
        overall = self.results["overall"]
        print(f"{'layer':<28} {'parameters':>10} {'mean R-hat':>10} {'max R-hat':>10} {'bad':>6}")
        lines = {
            **self.results["by_layer"],
            "all": {**overall, "num_params": overall["total_params"]},
        }
        for name, line in lines.items():
            print(
                f"{name:<28} {line['num_params']:>10,} {line['rhat_mean']:>10.3f} "
                f"{line['rhat_max']:>10.3f} {line['percent_bad']:>5.1f}%"
            )

    def run_diagnostics(self, mcmc_samples: Mapping[str, Any]) -> dict[str, Any]:
        """Analyze draws, print the results and return them."""
        results = self.analyze_samples(mcmc_samples)
        self.print_summary()
        return results

    def _of(self, rhat: np.ndarray) -> dict[str, float]:
        return {
            "rhat_mean": float(rhat.mean()),
            "rhat_max": float(rhat.max()),
            "percent_bad": self._percent_bad(rhat),
        }

    def _percent_bad(self, rhat: np.ndarray) -> float:
        return float(100 * np.mean(rhat > self.threshold_rhat))


def _layer_of(name: str) -> str:
    """Return the layer of a site; an empty text if it is no weight."""
    if name.endswith("_prob"):
        return name.removesuffix("_prob").rpartition("_")[0]
    module, slash, inner = name.partition("/")
    if not slash:
        return ""
    return inner.rpartition(".")[0] if module == "nn" else module
