"""A posterior: the draws of the stochastic weights, and the frozen values once."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np

from nbcore.common import storage
from nbcore.distributions import likelihoods
from nbcore.distributions.likelihoods import Likelihood
from nbcore.errors import NbcoreError, OptionError, ShapeError
from nbcore.networks.evaluation import is_per_example
from nbcore.networks.inputs import check_inputs, num_examples
from nbcore.networks.length_buckets import RowBuffer, batches
from nbcore.networks.network import Network, as_network
from nbcore.posterior.diagnostics import Diagnostics, diagnose
from nbcore.posterior.prediction import Prediction, Scaler
from nbcore.posterior.run_info import RunInfo
from nbcore.posterior.stats import Stats
from nbcore.posterior.summary import By, Summary, by_layer, summarize
from nbcore.posterior.to_arviz import arviz_data
from nbcore.subsets.split import ParameterSplit
from nbcore.subsets.subset import ProbabilisticSubset
from nbcore.targets.hoisting.forward import Forward
from nbcore.targets.target import NetworkTarget

ROWS = 256
DRAWS_AT_ONCE = 16


@dataclass(frozen=True)
class Posterior:
    """Draws of a position, and what is needed to predict with them.

    Args:
        draws: the position's structure with leading axes `(chain, draw)`, unconstrained.
        stats: statistics of each draw `(chain, draw)`, see `nb.Stats`.
        info: how the draws were made.
        network: the network; `None` for a plain density.
        split: stochastic and frozen weights.
        likelihood: what outputs say about y.
        scaler: units of y; `None` where the target was in the user's units.
        target: the log density with its data; `None` for a posterior that was loaded.

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

    draws: Any
    stats: Stats
    info: RunInfo
    network: Network | None = field(default=None, repr=False)
    split: ParameterSplit | None = field(default=None, repr=False)
    likelihood: Likelihood | None = None
    scaler: Scaler | None = None
    target: NetworkTarget | None = field(default=None, repr=False, compare=False)

    @staticmethod
    def of_network(draws: Any, stats: Stats, info: RunInfo, target: NetworkTarget) -> Posterior:
        """Return the posterior of a network's stochastic weights."""
        return Posterior(
            draws, stats, info, target.network, target.split, target.likelihood, target=target
        )

    def in_units_of(self, scaler: Scaler) -> Posterior:
        """Return the posterior that predicts in the units of y that the scaler knows."""
        return replace(self, scaler=scaler)

    @property
    def num_chains(self) -> int:
        """Number of chains."""
        return int(np.shape(self.stats.log_density)[0])

    @property
    def num_draws(self) -> int:
        """Number of draws of each chain."""
        return int(np.shape(self.stats.log_density)[1])

    def constrained(self) -> dict[str, Any]:
        """Return the draws on the user's scale: weights, and parameters such as the noise.

        The noise is in the units of the target: standardized where a scaler is set.
        """
        _, likelihood = self._network()
        parameters = self.draws["likelihood"]
        if parameters:
            parameters = jax.vmap(jax.vmap(likelihood.constrain))(parameters)
        return {
            "weights": self.draws["weights"],
            "likelihood": jax.tree.map(np.asarray, parameters),
            "prior": self.draws["prior"],
        }

    def flat_draws(self) -> dict[str, np.ndarray]:
        """Return draws by name `(chain, draw, ...)`: leaf paths, and `likelihood/...`."""
        if self.split is None:
            leaves, _ = jax.tree_util.tree_flatten_with_path(self.draws)
            name = functools.partial(jax.tree_util.keystr, simple=True, separator="/")
            return {name(path) or "position": np.asarray(leaf) for path, leaf in leaves}
        flat = dict(self.draws["weights"])
        for part in ("likelihood", "prior"):
            flat.update({f"{part}/{k}": v for k, v in self.draws[part].items()})
        return flat

    def labels(self) -> dict[str, list[str]]:
        """Return a name for every number of `flat_draws()`."""
        known = self.split.labels() if self.split else {}
        return {
            path: known[path] if path in known else _index_labels(path, np.shape(draws)[2:])
            for path, draws in self.flat_draws().items()
        }

    def diagnostics(self, X: Any = None) -> Diagnostics:
        """Return R-hat and ESS of every number, divergences, and what to try next.

        Args:
            X: inputs; where they are given, the numbers are the network's outputs at them, which
                is what predictions depend on, instead of the weights.
        """
        depth = self.info.options.get("max_tree_depth")
        if X is None:
            return diagnose(self.flat_draws(), self.stats, self.labels(), max_tree_depth=depth)
        outputs = self.outputs(X).reshape(self.num_chains, self.num_draws, num_examples(X), -1)
        labels = {"output": _index_labels("output", outputs.shape[2:])}
        return diagnose({"output": outputs}, self.stats, labels, max_tree_depth=depth)

    def summary(self, by: By = "weight") -> Summary:
        """Return a table: a row for each number, or for each layer with its worst ESS and R-hat.

        Args:
            by: `"weight"` or `"layer"`.

        Raises:
            OptionError: `by` is neither.
        """
        if by not in get_args(By):
            raise OptionError(f"by is {' or '.join(get_args(By))}, got {by!r}.")
        flat = self.flat_draws()
        known = self.split.owners if self.split else {}
        owners = {
            path: known[path][0].name if path in known else path.partition("/")[0] for path in flat
        }
        table = summarize(flat, self.labels(), owners)
        return table if by == "weight" else by_layer(table)

    def log_likelihood(self) -> np.ndarray:
        """Return log p(y_i | draw), `(chain, draw, examples)`, in the units of y.

        Raises:
            OptionError: the posterior was loaded, so its data are not at hand, or is of a plain
                density.
        """
        if self.target is None:
            raise OptionError(
                "The data of this posterior are not at hand: it was loaded, or is of a plain "
                "density. The log likelihood is that of a posterior that nb.sample returned."
            )
        each = np.asarray(_log_likelihoods(self.target, self._chosen(self.draws, None)))
        units = 0.0 if self.scaler is None else float(np.sum(np.log(self.scaler.scale)))
        return each.reshape(self.num_chains, self.num_draws, -1) - units

    def to_arviz(self) -> Any:
        """Return ArviZ data: posterior, sample_stats, log_likelihood and observed_data.

        LOO, WAIC, summaries and plots of ArviZ work on it. Draws of weights are on their own
        scale, parameters such as the noise on the user's, in the units of y. A posterior that was
        loaded has no data, and so neither log_likelihood nor observed_data.

        Returns:
            `arviz.InferenceData` before ArviZ 1, `xarray.DataTree` from then on.

        Raises:
            MissingExtraError: ArviZ is not installed.
        """
        draws, labels = self.flat_draws(), self.labels()
        likelihood, observed = None, None
        if self.split is not None:
            units = 1.0 if self.scaler is None else self.scaler.scale
            in_units_of_y = self._network()[1].in_units_of_y
            for name, values in self.constrained()["likelihood"].items():
                path = f"likelihood/{name}"
                draws[path] = values * units if name in in_units_of_y else values
        if self.target is not None:
            likelihood = self.log_likelihood()
            observed = self.target.targets()
            if self.scaler is not None:
                observed = self.scaler.shift + self.scaler.scale * observed
            observed = observed[:, 0] if observed.ndim == 2 and observed.shape[1] == 1 else observed
        return arviz_data(draws, labels, self.stats._asdict(), likelihood, observed)

    def predict(self, X: Any, *, max_draws: int | None = None) -> Prediction:
        """Return the predictive distribution at new inputs.

        Inputs go through the network in batches, so that memory is that of the result; what the
        draws do not change is computed once.

        Args:
            X: inputs, as for fitting.
            max_draws: use at most this many draws, evenly spaced; all by default.

        Raises:
            ShapeError, DataError, TokenError: the inputs do not fit the network.
            OptionError: this is the posterior of a plain density.
        """
        _, likelihood = self._network()
        parameters = self._chosen(self.draws["likelihood"], max_draws)
        df = likelihood.degrees_of_freedom(parameters)
        df = None if df is None else np.asarray(df).reshape(-1, 1, 1)
        means, variances = RowBuffer(num_examples(X)), RowBuffer(num_examples(X))
        for rows, outputs in self._batches(X, max_draws):
            mean, variance = _moments(likelihood, outputs, parameters)
            part = Prediction(np.asarray(mean), np.asarray(variance), likelihood.kind, df)
            part = part.in_units_of(self.scaler) if self.scaler else part
            means.put(rows, part.draw_means)
            variances.put(rows, part.draw_variances)
        return Prediction(means.array, variances.array, likelihood.kind, df)

    def outputs(self, X: Any, *, max_draws: int | None = None) -> np.ndarray:
        """Return the network's outputs for each draw, `(draws, examples, outputs)`."""
        likelihood = self._network()[1]
        found = RowBuffer(num_examples(X))
        for rows, outputs in self._batches(X, max_draws):
            found.put(rows, outputs[..., : likelihood.num_network_outputs(outputs.shape[2])])
        return found.array

    def _batches(self, X: Any, max_draws: int | None) -> Iterator[tuple[np.ndarray, jax.Array]]:
        """Yield row numbers, and the outputs of each draw `(draws, rows, outputs)`.

        Outputs hold what the likelihood reads of x, too.
        """
        split, _ = self._network()
        network = self.network
        if network is None:
            raise OptionError("This posterior has no network.")
        check_inputs(network, X)
        weights = self._chosen(self.draws["weights"], max_draws)
        return outputs_in_batches(network, split, weights, X)

    def _chosen(self, draws: Any, max_draws: int | None) -> Any:
        total = self.num_chains * self.num_draws
        wanted = total if max_draws is None else max_draws
        if wanted < 1:
            raise OptionError(f"max_draws must be at least 1, got {max_draws}.")
        chosen = np.unique(np.linspace(0, total - 1, min(wanted, total)).round().astype(int))
        return jax.tree.map(lambda a: jnp.asarray(a.reshape(total, *a.shape[2:])[chosen]), draws)

    def _network(self) -> tuple[ParameterSplit, Likelihood]:
        if self.split is None or self.likelihood is None:
            raise OptionError(
                "This posterior is of a plain density, without a network. Read posterior.draws"
            )
        return self.split, self.likelihood

    def save(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """Write the posterior into a folder: arrays as safetensors, the rest as JSON.

        Args:
            folder: made if it is missing.
            overwrite: whether a posterior that is there may be replaced.

        Raises:
            RunFolderError: the folder already holds a posterior, or anything else.
            OptionError: the parameters or the likelihood have a type that cannot be written.
        """
        split, likelihood = self._network()
        arrays = {f"draws/{k}": v for k, v in self.flat_draws().items()}
        arrays |= {f"stats/{k}": v for k, v in self.stats._asdict().items()}
        tree, params = storage.pack_tree(split.params)
        arrays |= {f"params/{k}": v for k, v in params.items()}
        text = {
            "tree": tree,
            "subset": split.subset.to_json(),
            "likelihood": likelihoods.to_data(likelihood),
            "info": asdict(self.info),
            "scaler": None if self.scaler is None else self.scaler.to_data(),
        }
        storage.write_folder(Path(folder), arrays, text, overwrite=overwrite)

    @staticmethod
    def load(
        folder: str | Path, network: Network | Any, *, likelihood: Likelihood | None = None
    ) -> Posterior:
        """Read a posterior that `save` wrote.

        Args:
            folder: the folder.
            network: the network that was sampled, or its model.
            likelihood: needed where it was not one of nbcore's own.

        Raises:
            RunFolderError: the folder holds no posterior, or a damaged one.
            ShapeError: the network has other weights.
        """
        arrays, text = storage.read_folder(Path(folder))
        network = as_network(network)
        params = storage.unpack_tree(text["tree"], storage.below(arrays, "params/"))
        stored = likelihoods.from_data(text["likelihood"]) if text["likelihood"] else None
        likelihood = likelihood or stored
        if likelihood is None:
            raise OptionError("The likelihood was not one of nbcore's own. Type: likelihood=...")
        network = likelihood.augment_network(network)
        split = _split_stored(ProbabilisticSubset.from_json(text["subset"]), network, params)
        flat = storage.below(arrays, "draws/")
        draws: dict[str, Any] = {"weights": {}, "likelihood": {}, "prior": {}}
        for name, value in flat.items():
            part, _, rest = name.partition("/")
            known = part in ("likelihood", "prior") and name not in split.paths
            draws[part if known else "weights"][rest if known else name] = value
        if sorted(draws["weights"]) != list(split.paths):
            raise ShapeError(
                f"The stored draws are of {sorted(draws['weights'])}; this network's subset has "
                f"{list(split.paths)}. Load with the network that was sampled."
            )
        scaler = Scaler.from_data(text["scaler"]) if text["scaler"] else None
        stats = Stats(**storage.below(arrays, "stats/"))
        return Posterior(draws, stats, RunInfo(**text["info"]), network, split, likelihood, scaler)


def _split_stored(subset: ProbabilisticSubset, network: Network, params: Any) -> ParameterSplit:
    try:
        return subset.split(network, params)
    except NbcoreError:
        raise
    except Exception as error:  # a framework has errors of its own for weights that do not fit
        raise ShapeError(
            f"The stored weights do not fit this network ({error}). Load with the network that "
            "was sampled."
        ) from error


def outputs_in_batches(
    network: Network, split: ParameterSplit, weights: Any, x: Any
) -> Iterator[tuple[np.ndarray, jax.Array]]:
    """Yield row numbers, and outputs `(draws, rows, outputs)` for weights with a draw axis.

    The last batch of some length may have more rows than row numbers; the rest fills it up.
    """
    alone = is_per_example(network, split.params, x)
    size = ROWS if alone else num_examples(x)
    for rows, inputs in batches(x, network.padding if alone else None, size):
        forward = Forward.build(network, split, inputs, per_example=alone)
        yield rows, _draw_outputs(forward, weights, forward.features(split, inputs))


@jax.jit
def _log_likelihoods(target: NetworkTarget, positions: Any) -> jax.Array:
    return jax.lax.map(target.log_likelihood, positions, batch_size=DRAWS_AT_ONCE)


@jax.jit
def _draw_outputs(forward: Forward, weights: Any, features: Any) -> jax.Array:
    def one(drawn: Any) -> jax.Array:
        return forward.outputs(drawn, features)

    return jax.lax.map(one, weights, batch_size=DRAWS_AT_ONCE)


@jax.jit
def _moments(
    likelihood: Likelihood, outputs: jax.Array, parameters: Any
) -> tuple[jax.Array, jax.Array]:
    return jax.vmap(likelihood.moments)(outputs, parameters)


def _index_labels(path: str, shape: tuple[int, ...]) -> list[str]:
    if not shape:
        return [path]
    return [f"{path}[{', '.join(str(i) for i in index)}]" for index in np.ndindex(*shape)]
