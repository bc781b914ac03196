"""Posteriors: draws of any log density, and draws of weights of a network, which predict."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, get_args, overload

import jax
import numpy as np

from nbcore.common.storage import told_as_damage
from nbcore.distributions.likelihoods import Likelihood
from nbcore.errors import OptionError
from nbcore.networks.inputs import num_examples
from nbcore.networks.names import Names
from nbcore.networks.network import Network
from nbcore.posterior.diagnostics import Diagnostics, diagnose
from nbcore.posterior.moments import PredictiveMoments, moments
from nbcore.posterior.prediction import Prediction
from nbcore.posterior.predictive import (
    flattened,
    log_likelihoods,
    network_outputs,
    observed_targets,
    predict,
    target_of,
)
from nbcore.posterior.run_info import RunInfo
from nbcore.posterior.scaler import Scaler
from nbcore.posterior.stats import Stats
from nbcore.posterior.stored import StoredPosterior
from nbcore.posterior.summary import By, Summary, by_layer, index_labels, summarize
from nbcore.posterior.to_arviz import arviz_data, has_likelihood
from nbcore.subsets.split import ParameterSplit, Weights
from nbcore.targets.target import NetworkTarget


@dataclass(frozen=True)
class Posterior:
    """Draws of a position and their statistics, for any log density; made by `nb.sample`.

    Args:
        draws: the position's structure with leading axes `(chain, draw)`, unconstrained.
        stats: statistics of each draw `(chain, draw)`, see `nb.Stats`.
        info: how the draws were made.

    Examples:
        >>> import jax, jax.numpy as jnp, nbcore as nb
        >>> target = nb.Target.from_log_density(lambda x: -0.5 * jnp.sum(x**2), jnp.zeros(2))
        >>> posterior = nb.sample(
        ...     target, key=jax.random.key(0), num_warmup=100, num_samples=50, progress=False
        ... )
        >>> posterior.num_chains, posterior.num_draws, posterior.draws.shape
        (4, 50, (4, 50, 2))
    """

    draws: Any
    stats: Stats
    info: RunInfo

    @property
    def num_chains(self) -> int:
        """Number of chains."""
        return int(np.shape(self.stats.log_density)[0])

    @property
    def num_draws(self) -> int:
        """Number of draws of each chain."""
        return int(np.shape(self.stats.log_density)[1])

    def flat_draws(self) -> dict[str, np.ndarray]:
        """Return draws by the path of their leaf, `(chain, draw, ...)`."""
        leaves, _ = jax.tree_util.tree_flatten_with_path(self.draws)
        name = functools.partial(jax.tree_util.keystr, simple=True, separator="/")
        return {name(path) or "position": np.asarray(leaf) for path, leaf in leaves}

    def labels(self) -> dict[str, list[str]]:
        """Return a name for every parameter of `flat_draws()`."""
        flat = self.flat_draws().items()
        return {path: index_labels(path, np.shape(draws)[2:]) for path, draws in flat}

    def _owners(self) -> dict[str, str]:
        """Return the layer of each leaf of `flat_draws()`; here the first part of its path."""
        return {path: path.partition("/")[0] for path in self.flat_draws()}

    def diagnostics(self) -> Diagnostics:
        """Return R-hat and ESS of every parameter, divergences, and what to try next."""
        return self._diagnosed(self.flat_draws(), self.labels())

    def _diagnosed(self, draws: dict[str, np.ndarray], labels: dict[str, list[str]]) -> Diagnostics:
        depth, alarms = self.info.options.get("max_tree_depth"), self.info.alarms
        found = diagnose(draws, self.stats, labels, max_tree_depth=depth, alarms=alarms)
        return replace(found, is_independent=self.info.is_independent)

    def summary(self, by: By = "weight") -> Summary:
        """Return a table of the draws that were kept, with ESS and R-hat.

        Args:
            by: `"weight"` gives a line for each parameter, `"layer"` one for each layer with its
                worst ESS and R-hat.

        Raises:
            OptionError: `by` is neither.
        """
        if by not in get_args(By):
            raise OptionError(f"by is {' or '.join(get_args(By))}, got {by!r}.")
        table = summarize(self.flat_draws(), self.labels(), self._owners(), self.info.alarms)
        return table if by == "weight" else by_layer(table)

    def to_arviz(self) -> Any:
        """Return ArviZ data: posterior and sample_stats.

        Returns:
            `arviz.InferenceData` before ArviZ 1, `xarray.DataTree` since then.

        Raises:
            MissingExtraError: ArviZ is not installed.
        """
        return arviz_data(self.flat_draws(), self.labels(), self.stats._asdict())

    def save(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """Write the posterior into a folder: arrays as safetensors, the rest as JSON.

        Args:
            folder: made if it is missing.
            overwrite: whether a posterior that is there may be replaced.

        Raises:
            RunFolderError: the folder already holds a posterior, or anything else.
            OptionError: something has a type that cannot be written.
        """
        self._described().write(folder, overwrite=overwrite)

    def _described(self) -> StoredPosterior:
        return StoredPosterior.of_density(self.draws, self.stats, self.info)

    @overload
    @staticmethod
    def load(folder: str | Path) -> Posterior: ...

    @overload
    @staticmethod
    def load(
        folder: str | Path, network: Network | Any, *, likelihood: Likelihood | None = None
    ) -> NetworkPosterior: ...

    @staticmethod
    def load(
        folder: str | Path,
        network: Network | Any | None = None,
        *,
        likelihood: Likelihood | None = None,
    ) -> Posterior:
        """Read a posterior that `save` wrote.

        Args:
            folder: the folder.
            network: the network that was sampled, or its model; none for a plain density.
            likelihood: needed if it was not one of nbcore's own.

        Raises:
            RunFolderError: the folder holds no posterior, or a damaged one.
            ShapeError: the network has other weights.
            OptionError: the network is missing, or the draws are of a plain density.
        """
        stored = StoredPosterior.read(folder)
        with told_as_damage(Path(folder)):
            if stored.is_of_network:
                return NetworkPosterior.restore(stored, network, likelihood)
            if network is not None or likelihood is not None:
                raise OptionError(
                    f"{folder} holds the posterior of a plain density, which has no network. Type: "
                    "nb.Posterior.load(folder)"
                )
            return Posterior(stored.density_draws(), stored.stats, stored.info)


@dataclass(frozen=True)
class NetworkPosterior(Posterior):
    """Draws of the stochastic weights of a network, which predict; made by `nb.sample`.

    Args:
        draws: positions `{"weights": ..., "likelihood": ..., "prior": ...}` with leading axes
            `(chain, draw)`, unconstrained.
        stats: statistics of each draw `(chain, draw)`, see `nb.Stats`.
        info: how the draws were made.
        network: the network.
        split: stochastic and frozen weights.
        likelihood: the distribution of y given the outputs.
        scaler: units of y; `None` if the target was in the user's units.
        target: the log density with its data; `None` for a posterior that was loaded.
        linearized_at: weights m at which the network is linearized, so that draws w predict by
            f(m) + J(m) (w - m); `None` if they predict by the network itself.
        names: names of features and classes, by which X is read and labels are predicted.

    Examples:
        >>> import jax, jax.numpy as jnp, nbcore as nb
        >>> network = nb.as_network((lambda key, x: None, lambda p, x: x @ p["out"]["kernel"]))
        >>> x = jnp.linspace(-1.0, 1.0, 20)[:, None]
        >>> target = nb.Target.build(
        ...     network,
        ...     {"out": {"kernel": jnp.ones((1, 1))}},
        ...     nb.ProbabilisticSubset.everything(),
        ...     x,
        ...     2.0 * x[:, 0],
        ...     likelihood=nb.Gaussian(noise=0.1),
        ... )
        >>> posterior = nb.sample(
        ...     target,
        ...     key=jax.random.key(0),
        ...     num_warmup=200,
        ...     num_samples=200,
        ...     num_chains=2,
        ...     progress=False,
        ... )
        >>> prediction = posterior.predict(jnp.array([[0.5]]))
        >>> bool(abs(prediction.mean[0] - 1.0) < 0.1)
        True
    """

    network: Network = field(repr=False)
    split: ParameterSplit = field(repr=False)
    likelihood: Likelihood
    scaler: Scaler | None = None
    target: NetworkTarget | None = field(default=None, repr=False, compare=False)
    linearized_at: Weights | None = field(default=None, repr=False)
    names: Names = field(default=Names(), repr=False)

    @staticmethod
    def of(target: NetworkTarget, draws: Any, stats: Stats, info: RunInfo) -> NetworkPosterior:
        """Return the posterior of a target whose positions were drawn; linearized if it is."""
        return NetworkPosterior(
            draws, stats, info, target.network, target.split, target.likelihood, target=target,
            linearized_at=target.linearized_at,
        )  # fmt: skip

    @staticmethod
    def restore(
        stored: StoredPosterior, network: Network | Any | None, likelihood: Likelihood | None
    ) -> NetworkPosterior:
        """Return the posterior that a folder describes; see `Posterior.load`."""
        if network is None:
            raise OptionError(
                "The folder holds the posterior of a network's weights, and not the network. Type: "
                "nb.Posterior.load(folder, network)"
            )
        likelihood = stored.likelihood(likelihood)
        network = likelihood.augment_network(stored.network(network))
        split = stored.split(network)
        draws = stored.network_draws(split)
        return NetworkPosterior(
            draws, stored.stats, stored.info, network, split, likelihood, stored.scaler,
            linearized_at=stored.linearized_at, names=stored.names,
        )  # fmt: skip

    def _described(self) -> StoredPosterior:
        return StoredPosterior.of_network(
            self.flat_draws(), self.stats, self.info, self.network, self.split, self.likelihood,
            self.scaler, self.linearized_at, self.names,
        )  # fmt: skip

    def in_units_of(self, scaler: Scaler) -> NetworkPosterior:
        """Return the posterior that predicts in the units of y that the scaler knows."""
        return replace(self, scaler=scaler)

    def constrained(self) -> dict[str, Any]:
        """Return the draws on the user's scale: weights, and parameters such as the noise.

        The noise is in the units of the target: standardized if a scaler is set.
        """
        parameters = self.draws["likelihood"]
        if parameters:
            parameters = jax.vmap(jax.vmap(self.likelihood.constrain))(parameters)
        return {
            "weights": self.draws["weights"],
            "likelihood": jax.tree.map(np.asarray, parameters),
            "prior": self.draws["prior"],
        }

    def flat_draws(self) -> dict[str, np.ndarray]:
        """Return draws by leaf path, those of other parameters as `likelihood/...`, `prior/...`."""
        flat = dict(self.draws["weights"])
        for part in ("likelihood", "prior"):
            flat.update({f"{part}/{name}": draws for name, draws in self.draws[part].items()})
        return flat

    def labels(self) -> dict[str, list[str]]:
        """Return a name for every parameter, such as `Block0_Attention/query[5, 0, 1]`."""
        known, flat = self.split.labels(), self.flat_draws().items()
        return {p: known.get(p) or index_labels(p, np.shape(draws)[2:]) for p, draws in flat}

    def _owners(self) -> dict[str, str]:
        layers = {path: layer.name for path, (layer, _) in self.split.owners.items()}
        return {**super()._owners(), **layers}

    def diagnostics(self, X: Any = None) -> Diagnostics:
        """Return R-hat and ESS of parameters, divergences, and what to try next.

        Args:
            X: inputs. If given, R-hat and ESS are those of the network's outputs at X instead.
        """
        if X is None:
            return replace(super().diagnostics(), has_symmetry=self.split.has_symmetry)
        outputs = self.outputs(X).reshape(self.num_chains, self.num_draws, num_examples(X), -1)
        labels = {"output": index_labels("output", outputs.shape[2:])}
        return self._diagnosed({"output": outputs}, labels)

    def log_likelihood(self, X: Any = None, y: Any = None) -> np.ndarray:
        """Return log p(y_i | draw), `(chain, draw, examples)`, in the units of y.

        Raises:
            OptionError: X or y is missing; without both they are the data of the fit.
            ShapeError, DataError, TokenError, LabelError: X and y do not fit.
        """
        target = self.target
        if target is None or X is not None or y is not None:
            data = (None, None) if X is None or y is None else self.names.data(X, y)
            target = target_of(
                self.network, self.split, self.likelihood, self.scaler, *data, self.linearized_at
            )
        each = log_likelihoods(target, flattened(self.draws))
        units = self.scaler and ~np.isnan(target.targets()) @ np.log(self.scaler.scale)
        return each.reshape(self.num_chains, self.num_draws, -1) - (0.0 if units is None else units)

    def to_arviz(self, *, log_likelihood: bool | None = None) -> Any:
        """Return ArviZ data: posterior, sample_stats, log_likelihood and observed_data.

        LOO, WAIC, summaries and plots of ArviZ work on it. Weights are on their own scale,
        parameters such as the noise on the user's, in the units of y. A posterior that was loaded
        has neither log_likelihood nor observed_data.

        Args:
            log_likelihood: whether the log likelihood of each draw and example is computed, which
                LOO and WAIC need. `None` computes it unless it has more than 10 million values
                (of 8 bytes each in ArviZ), and then warns that it was left out.

        Returns:
            `arviz.InferenceData` before ArviZ 1, `xarray.DataTree` since then.

        Raises:
            MissingExtraError: ArviZ is not installed.
            OptionError: the log likelihood is asked for, and the posterior was loaded.
        """
        examples = 0 if self.target is None else self.target.num_examples
        values = self.num_chains * self.num_draws * examples
        likelihood = self.log_likelihood() if has_likelihood(log_likelihood, values) else None
        observed = None if self.target is None else observed_targets(self.target, self.scaler)
        return arviz_data(
            self.draws_in_units(), self.labels(), self.stats._asdict(), likelihood, observed
        )

    def draws_in_units(self) -> dict[str, np.ndarray]:
        """Return `flat_draws()` with parameters such as the noise constrained, in y's units."""
        draws = self.flat_draws()
        units = 1.0 if self.scaler is None else self.scaler.scale
        for name, values in self.constrained()["likelihood"].items():
            is_in_units = name in self.likelihood.in_units_of_y
            draws[f"likelihood/{name}"] = values * units if is_in_units else values
        return draws

    def predict(self, X: Any, *, max_draws: int | None = None) -> Prediction:
        """Return the predictive distribution at new inputs.

        Inputs go through the network in batches, so that memory is that of the result; whatever
        does not depend on the draws is computed once.

        Args:
            X: inputs, as for fitting.
            max_draws: use at most this many draws, evenly spaced; all by default.

        Raises:
            ShapeError, DataError, TokenError: the inputs do not fit the network.
        """
        positions, inputs = flattened(self.draws, max_draws), self.names.inputs(X)
        prediction = predict(
            self.network, self.split, self.likelihood, self.scaler, positions, inputs,
            self.linearized_at,
        )  # fmt: skip
        return replace(prediction, classes=self.names.classes)

    def moments(
        self, x: Any, *, max_draws: int | None = None, standardized: bool = False
    ) -> PredictiveMoments:
        """Return mean and variances of `predict` as a pure function: see `PredictiveMoments`."""
        positions = flattened(self.draws, max_draws)
        scaler = None if standardized else self.scaler
        return moments(
            self.network, self.split, self.likelihood, scaler, positions, x, self.linearized_at
        )

    def outputs(self, X: Any, *, max_draws: int | None = None) -> np.ndarray:
        """Return the outputs for each draw, `(draws, examples, outputs)`; see `predict`."""
        weights, inputs = flattened(self.draws["weights"], max_draws), self.names.inputs(X)
        return network_outputs(
            self.network, self.split, self.likelihood, weights, inputs, self.linearized_at
        )
