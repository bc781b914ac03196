"""The folder of a posterior: arrays as safetensors, everything else as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nbcore.common import storage
from nbcore.common.packing import pack, unpack
from nbcore.common.storage import Arrays
from nbcore.distributions import likelihoods
from nbcore.distributions.likelihoods import Likelihood
from nbcore.errors import NetworkError, OptionError, ShapeError
from nbcore.networks.input_scaling import InputScaler
from nbcore.networks.names import Names
from nbcore.networks.network import Network, as_network
from nbcore.networks.standardized import input_scaler, with_scaler
from nbcore.networks.stored import example_of, form_of
from nbcore.posterior.run_info import RunInfo
from nbcore.posterior.scaler import Scaler
from nbcore.posterior.stats import Stats
from nbcore.subsets.split import ParameterSplit, Weights
from nbcore.subsets.subset import ProbabilisticSubset


@dataclass(frozen=True)
class StoredPosterior:
    """Contents of the folder of a posterior.

    Args:
        arrays: draws, statistics and parameters, by name.
        facts: JSON data; those of a network have its subset, likelihood and scaler.
    """

    arrays: Arrays
    facts: dict[str, Any]

    @staticmethod
    def read(folder: str | Path) -> StoredPosterior:
        """Read a folder.

        Raises:
            RunFolderError: the folder holds no posterior, or a damaged one.
        """
        return StoredPosterior(*storage.read_folder(Path(folder)))

    @staticmethod
    def of_density(draws: Any, stats: Stats, info: RunInfo) -> StoredPosterior:
        """Describe the draws of a plain density, a pytree of dicts, lists, tuples and arrays."""
        structure, arrays = pack(draws)
        return _described(arrays, stats, info, {"structure": structure})

    @staticmethod
    def of_network(
        draws: Arrays,
        stats: Stats,
        info: RunInfo,
        network: Network,
        split: ParameterSplit,
        likelihood: Likelihood,
        scaler: Scaler | None,
        linearized_at: Weights | None,
        names: Names,
    ) -> StoredPosterior:
        """Describe the draws of a network's weights; the frozen ones are stored once."""
        tree, params = pack(split.params)
        step = input_scaler(network)
        facts = {
            "inputs": form_of(network),
            "input_scaler": None if step is None else step.to_data(),
            "tree": tree,
            "subset": split.subset.to_json(),
            "whole": split.whole,
            "likelihood": likelihoods.to_data(likelihood),
            "scaler": None if scaler is None else scaler.to_data(),
            "names": names.to_data(),
        }
        described = _described(draws, stats, info, facts)
        described.arrays.update({f"params/{name}": array for name, array in params.items()})
        indices = {f"indices/{path}": np.asarray(chosen) for path, chosen in split.indices.items()}
        described.arrays.update(indices)
        at = (linearized_at or {}).items()
        described.arrays.update({f"linearized_at/{path}": np.asarray(w) for path, w in at})
        return described

    def write(self, folder: str | Path, *, overwrite: bool) -> None:
        """Write a folder, whole or not at all.

        Raises:
            RunFolderError: the folder already holds a posterior, or anything else.
        """
        storage.write_folder(Path(folder), self.arrays, self.facts, overwrite=overwrite)

    @property
    def is_of_network(self) -> bool:
        """Whether the draws are weights of a network."""
        return "subset" in self.facts

    @property
    def stats(self) -> Stats:
        """Statistics of each draw."""
        return Stats(**storage.below(self.arrays, "stats/"))

    @property
    def info(self) -> RunInfo:
        """How the draws were made."""
        return RunInfo(**self.facts["info"])

    @property
    def scaler(self) -> Scaler | None:
        """Units of y."""
        return Scaler.from_data(self.facts["scaler"]) if self.facts["scaler"] else None

    @property
    def names(self) -> Names:
        """Names of features and classes."""
        return Names.from_data(self.facts["names"])

    @property
    def linearized_at(self) -> Weights | None:
        """Weights at which the network is linearized, if it is."""
        found = storage.below(self.arrays, "linearized_at/")
        return {path: jnp.asarray(w) for path, w in found.items()} or None

    def density_draws(self) -> Any:
        """Return the draws of a plain density."""
        draws = storage.below(self.arrays, "draws/")
        return jax.tree.map(np.asarray, unpack(self.facts["structure"], draws))

    def likelihood(self, given: Likelihood | None) -> Likelihood:
        """Return the likelihood, or that which is given instead.

        Raises:
            OptionError: it was not one of nbcore's own, and none is given.
        """
        if given is not None:
            return given
        if self.facts["likelihood"] is None:
            raise OptionError("The likelihood was not one of nbcore's own. Type: likelihood=...")
        return likelihoods.from_data(self.facts["likelihood"])

    def network(self, model: Network | Any) -> Network:
        """Return the network of a model, made for the inputs that were fitted."""
        network = as_network(model, example=example_of(self.facts["inputs"]))
        step = self.facts["input_scaler"]
        return with_scaler(network, None if step is None else InputScaler.from_data(step))

    def split(self, network: Network) -> ParameterSplit:
        """Return the stochastic and frozen weights, as they were sampled.

        Raises:
            ShapeError: the network has other weights.
        """
        subset = ProbabilisticSubset.from_json(self.facts["subset"])
        params = unpack(self.facts["tree"], storage.below(self.arrays, "params/"))
        whole, indices = tuple(self.facts["whole"]), storage.below(self.arrays, "indices/")
        try:
            return ParameterSplit.restore(subset, network, params, whole, indices)
        except NetworkError:
            raise
        except Exception as error:  # a framework has errors of its own for weights that do not fit
            raise ShapeError(
                f"The stored weights do not fit this network ({error}). Load with the network that "
                "was sampled."
            ) from error

    def network_draws(self, split: ParameterSplit) -> dict[str, Any]:
        """Return the draws of a network's weights and of the parameters, as a position.

        Raises:
            ShapeError: the split has other stochastic weights.
        """
        draws: dict[str, Any] = {"weights": {}, "likelihood": {}, "prior": {}}
        for name, values in storage.below(self.arrays, "draws/").items():
            part, _, rest = name.partition("/")
            is_parameter = part in ("likelihood", "prior") and name not in split.paths
            draws[part if is_parameter else "weights"][rest if is_parameter else name] = values
        if sorted(draws["weights"]) != list(split.paths):
            raise ShapeError(
                f"The stored draws are of {sorted(draws['weights'])}; this network's subset has "
                f"{list(split.paths)}. Load with the network that was sampled."
            )
        return draws


def _described(
    draws: Arrays, stats: Stats, info: RunInfo, facts: dict[str, Any]
) -> StoredPosterior:
    arrays = {f"draws/{name}": array for name, array in draws.items()}
    arrays |= {f"stats/{name}": array for name, array in stats._asdict().items()}
    return StoredPosterior(arrays, {**facts, "info": asdict(info)})
