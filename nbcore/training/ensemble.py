"""Deep ensembles: networks with initial weights of their own, trained as one program."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np

from nbcore.common.keys import as_key
from nbcore.common.options import check_count
from nbcore.common.paths import leaves_by_path
from nbcore.common.progress import Progress, progress_from
from nbcore.distributions.each_draw import each_draw
from nbcore.distributions.likelihoods import Likelihood
from nbcore.errors import OptionError, ShapeError, TrainingError
from nbcore.networks.evaluation import HashableNetwork, as_columns
from nbcore.networks.inputs import check_inputs, num_examples
from nbcore.networks.length_buckets import ExampleBuffer, batches
from nbcore.networks.names import Names, names_in
from nbcore.networks.network import Network, Params
from nbcore.networks.standardized import plain_network
from nbcore.posterior.prediction import Prediction
from nbcore.posterior.scaler import Scaler
from nbcore.targets.target import Position, Target
from nbcore.training.cross_fit import mixture_noise, warn_of_training_noise
from nbcore.training.deterministic import DeterministicNN, Loss
from nbcore.training.folds import group_codes
from nbcore.training.outputs import mean_where
from nbcore.training.saving import Saved
from nbcore.training.train import Members, train

EXAMPLES_AT_ONCE = 512


class EnsembleDeterministicNN(Saved):
    r"""Networks that differ in their initial weights and, with the bootstrap, in their examples.

    mean = E_m f_m(x), variance = Var_m f_m(x) + noise^2: between members, epistemic, and the
    noise. The noise comes from examples that members have not seen: validation data, or those that
    the bootstrap left out. A member's squared error there is, on average, that of the mean plus
    the variance between members, so that the variance of the mixture equals the squared error of
    its mean if noise^2 = squared error of a member - 2 variance between members.

    It can also start chains, one at each member: `nb.sample(..., init=ensemble)`, and
    `nb.PartialBNN(net, ensemble)`.

    Args:
        net: a network, or a model that `nb.as_network` knows.
        loss: a word or a likelihood, as for `nb.DeterministicNN`.
        num_models: number of members.
        options: further options of `nb.DeterministicNN`, such as `learning_rate`.

    Raises:
        OptionError: an option is unknown or impossible.

    Examples:
        >>> import numpy as np, nbcore as nb
        >>> from nbcore_flax import FlaxMLP
        >>> x = np.linspace(-1, 1, 40, dtype=np.float32)[:, None]
        >>> ensemble = nb.EnsembleDeterministicNN(FlaxMLP(hidden_dims=(8,)), num_models=3)
        >>> _ = ensemble.train(x, x[:, 0] ** 2, epochs=2, bootstrap=True, progress=False)
        >>> mean, variance = ensemble.predict(x)
        >>> mean.shape, bool(np.all(variance > 0)), len(ensemble.members)
        ((40,), True, 3)

    References:
        Lakshminarayanan, Pritzel & Blundell (2017), "Simple and scalable predictive uncertainty
        estimation using deep ensembles"; Breiman (1996), "Out-of-bag estimation"; Krogh & Vedelsby
        (1995), "Neural network ensembles, cross validation, and active learning", equation 6.
    """

    kind: ClassVar[str] = "ensemble"

    def __init__(
        self,
        net: Any,
        loss: Loss | Likelihood = "homoskedastic",
        num_models: int = 5,
        **options: Any,
    ) -> None:
        check_count(1, num_models=num_models)
        self.model, self.num_models, self.options = net, num_models, options
        self.loss: Loss | Likelihood = loss
        DeterministicNN(net, loss, **options)  # which checks the options
        self.names = Names()
        self.noise: np.ndarray | None = None
        self.member_residuals: np.ndarray | None = None
        self._members: tuple[DeterministicNN, ...] = ()
        self._params: Params = None

    @property
    def members(self) -> tuple[DeterministicNN, ...]:
        """The trained networks: weights, moments and losses of each."""
        self._check_trained()
        return self._members

    @property
    def params(self) -> Params:
        """The trained parameters, with a leading member axis."""
        self._check_trained()
        return self._params

    def _check_trained(self) -> None:
        if not self._members:
            raise TrainingError("The ensemble is not trained yet. Type: ensemble.train(X, y)")

    @property
    def network(self) -> Network:
        """The network of all members."""
        return self.members[0].network

    @property
    def scaler(self) -> Scaler | None:
        """Units of y; `None` if members were trained in y's own."""
        return self.members[0].scaler

    def train(
        self,
        X: Any,
        y: Any,
        epochs: int = 50,
        batch_size: int = 32,
        validation_data: tuple[Any, Any] | None = None,
        *,
        bootstrap: bool = False,
        bootstrap_fraction: float = 1.0,
        groups: Any = None,
        key: Any = None,
        estimate_noise: bool = True,
        progress: bool | Progress = True,
    ) -> EnsembleDeterministicNN:
        """Train every member from fresh weights; a second call starts again from fresh weights.

        Members take their steps together, as one vectorized program. Without the bootstrap they
        see the same minibatches. The noise is taken from `validation_data`, else from the examples
        that the bootstrap left out, else, with a warning, from the training examples.

        Args:
            X: inputs, an array or a pytree of arrays `(N, ...)`.
            y: targets `(N,)` or `(N, outputs)`; labels `(N,)`.
            epochs: passes over the data.
            batch_size: examples of a minibatch.
            validation_data: `(X, y)` for early stopping of each member, and for the noise.
            bootstrap: whether each member sees examples drawn with replacement.
            bootstrap_fraction: how many examples it sees, as a fraction of N.
            groups: a label for each example `(N,)`; the bootstrap then draws whole groups, so that
                examples that it leaves out belong to no group that a member has seen. `None`: each
                example is a group of its own.
            key: random key; member m uses `fold_in(key, m)`. Or a key for each member.
            estimate_noise: whether the noise is estimated; an ensemble that only starts chains
                needs none.
            progress: whether to report on standard error, or a function that takes a `Report`.

        Returns:
            Itself.

        Raises:
            OptionError: an option is impossible.
            ShapeError, DataError, TokenError, LabelError: X and y do not fit.
            TrainingError: the loss of a member is not finite.
        """
        keys = [jax.random.split(k, 3) for k in self._keys(key)]
        first = DeterministicNN(self.model, self.loss, **self.options)
        self.names = names_in(X, y, first.likelihood.labels, self.model)
        inputs, targets = self.names.data(X, y)
        unseen = self.names.validation(validation_data)
        params, data, validation = first.prepare(
            inputs, targets, unseen, epochs=epochs, batch_size=batch_size, key=keys[0][0]
        )
        network = first.network
        row = jax.tree.map(lambda a: jnp.asarray(a[:1]), inputs)  # pyright: ignore[reportUnknownLambdaType]
        each = [params, *(network.init(k[0], row) for k in keys[1:])]
        codes = group_codes(groups, num_examples(inputs))
        indices = None
        if bootstrap:
            size = _bootstrap_size(num_examples(inputs), bootstrap_fraction)
            indices = np.stack([_drawn(k[1], num_examples(inputs), size, codes) for k in keys])
        fit = train(
            network, first.likelihood, first.recipe, _stack(each), data,
            epochs=epochs, batch_size=batch_size, key=keys[0][2], validation=validation,
            members=Members(self.num_models, indices), progress=progress_from(progress),
        )  # fmt: skip
        self._members = tuple(
            DeterministicNN(network, self.loss, **self.options).restore(
                network, fit.member(m), first.scaler, first.num_outputs, unseen
            )
            for m in range(self.num_models)
        )
        for member in self._members:
            member.names = self.names
        self._params = fit.params
        self.noise = self.member_residuals = None
        if estimate_noise and first.is_squared_error:
            self._measure_noise(inputs, targets, indices, unseen, codes)
        return self

    def predict(self, X: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return predictive mean and variance, in y's own units.

        Args:
            X: inputs, as for training.

        Returns:
            Mean and variance, `(N,)` for one output, else `(N, outputs)`; for classes the
            probabilities `(N, classes)` and their variance.
        """
        prediction = self.predict_distribution(X)
        return prediction.mean, prediction.variance

    def predict_distribution(self, X: Any) -> Prediction:
        """Return the whole predictive distribution; `draw_means` has each member's prediction."""
        likelihood = self.members[0].likelihood
        outputs = self._outputs(self.names.inputs(X))
        prediction = Prediction(each_draw(likelihood, outputs, {}), classes=self.classes)
        prediction = prediction.in_units_of(self.scaler) if self.scaler else prediction
        if self.noise is not None:
            return prediction.with_variance(self.noise**2)
        if self.members[0].is_squared_error:
            raise TrainingError("The ensemble has no noise. Type: ensemble.train(X, y)")
        return prediction

    def chain_starts(self, target: Target, num_chains: int) -> list[Position]:
        """Return a position for each chain: chain c starts at member c.

        The target must be in the units of training: with `standardize=True` it holds
        `ensemble.scaler.standardize(y)`.

        Args:
            target: the log density of all weights of the network.
            num_chains: number of chains, at most the number of members.

        Raises:
            OptionError: there are fewer members than chains, or the target has frozen weights,
                which all chains would share.
            ShapeError: the target is of another network.
        """
        network = target.network_target
        if network is None:
            raise OptionError("An ensemble starts chains of a network, and this is a density.")
        if num_chains > self.num_models:
            raise OptionError(
                f"Each chain starts at a member of its own: {num_chains} chains, and "
                f"{self.num_models} members. Type: num_chains={self.num_models}"
            )
        split, first = network.split, self.members[0].params
        if _shapes(split.params) != _shapes(first):
            raise ShapeError(
                f"The target's network has weights {_shapes(split.params)}, and the ensemble "
                f"{_shapes(first)}. Build the target with ensemble.members[0].params."
            )
        if split.size < split.total_size:
            raise OptionError(
                f"{split.total_size - split.size:,} of {split.total_size:,} weights are frozen at "
                "those of one network, which chains from other members do not fit. Sample "
                "nb.ProbabilisticSubset.everything(), or give each member chains of its own: "
                "nb.PartialBNN(net, ensemble, subset=...)"
            )
        like = split.position
        chosen = [split.select(member.params) for member in self.members[:num_chains]]
        return [
            {**network.start, "weights": {p: jnp.asarray(w[p], like[p].dtype) for p in like}}
            for w in chosen
        ]

    @property
    def stored_network(self) -> tuple[Network, Params]:
        """The network, and the weights of the first member."""
        return self.members[0].stored_network

    def to_stored(self) -> dict[str, Any]:
        """Return the members and the noise."""
        return {
            "loss": self.loss,
            "members": [member.to_stored(moments=False) for member in self.members],
            "noise": self.noise,
            "member_residuals": self.member_residuals,
        }

    @classmethod
    def from_stored(
        cls, network: Network, stored: Mapping[str, Any], posteriors: Sequence[Any] = ()
    ) -> Self:
        """Return the trained ensemble that `to_stored` described."""
        del posteriors
        members = tuple(DeterministicNN.from_stored(network, m) for m in stored["members"])
        options = {**members[0].recipe.options, "standardize": members[0].standardize}
        options["standardize_inputs"] = members[0].standardize_inputs
        ensemble = cls(plain_network(network), stored["loss"], len(members), **options)
        ensemble._members, ensemble.names = members, members[0].names
        ensemble._params = _stack([member.params for member in members])
        ensemble.noise = stored["noise"]
        ensemble.member_residuals = stored["member_residuals"]
        return ensemble

    def _keys(self, key: Any) -> list[jax.Array]:
        if not isinstance(key, Sequence):
            return [jax.random.fold_in(as_key(key), m) for m in range(self.num_models)]
        if len(key) != self.num_models:
            raise OptionError(
                f"key is one key, or one for each of {self.num_models} members; got {len(key)}."
            )
        return [as_key(k) for k in key]

    def _outputs(self, X: Any) -> np.ndarray:
        """Return outputs `(members, examples, outputs)`, in batches of similar length."""
        network = self.network
        check_inputs(network, X)
        found = ExampleBuffer(num_examples(X))
        for indices, inputs in batches(
            jax.tree.map(np.asarray, X), network.padding, EXAMPLES_AT_ONCE
        ):
            found.put(indices, _compiled_apply(HashableNetwork(network), self.params, inputs))
        return found.array

    def _measure_noise(
        self,
        X: Any,
        y: Any,
        indices: np.ndarray | None,
        validation: Any,
        groups: np.ndarray | None,
    ) -> None:
        """Set the noise from examples that members have not seen, if there are any."""
        inputs, targets = (X, y) if validation is None else validation
        unseen = np.ones((self.num_models, num_examples(inputs)), bool)
        if validation is None and indices is not None:
            for member, mine in zip(unseen, indices, strict=True):
                member[mine if groups is None else np.isin(groups, groups[mine])] = False
        is_unseen = unseen.any() and (validation is not None or indices is not None)
        if not is_unseen:
            warn_of_training_noise()
            unseen[:] = True
        scaler = self.scaler or Scaler.identity(self.members[0].num_outputs)
        means = scaler.shift + scaler.scale * self._outputs(inputs).astype(np.float64)
        residuals, between = _errors(means, np.asarray(targets, np.float64), unseen)
        self.noise = mixture_noise(np.nanmean(residuals**2, axis=0), between)
        self.member_residuals = residuals if is_unseen else None


def _errors(means: np.ndarray, y: np.ndarray, unseen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the members' residuals `(n, outputs)`, and the variance between members.

    Missing targets have no residual, and leave the variance between members out too.

    Args:
        means: predictions `(members, examples, outputs)`.
        y: targets.
        unseen: which of them count `(members, examples)`.
    """
    counts = np.where(unseen[..., None], means, np.nan)
    targets = y.reshape(means.shape[1:])
    residuals = (targets - means)[unseen]
    several = unseen.sum(axis=0) >= 2
    if not several.any():
        return residuals, np.zeros(means.shape[2])
    variances = np.nanvar(counts[:, several], axis=0, ddof=1)
    spread = mean_where(variances, ~np.isnan(targets[several]))
    return residuals, spread * (1 - 1 / len(means))


def _drawn(key: jax.Array, count: int, size: int, groups: np.ndarray | None) -> np.ndarray:
    """Return examples drawn with replacement `(size,)`, in whole groups but for the last."""
    if groups is None:
        return np.asarray(jax.random.choice(key, count, (size,)))
    members = np.split(np.argsort(groups, kind="stable"), np.cumsum(np.bincount(groups))[:-1])
    order = np.asarray(jax.random.choice(key, len(members), (size,)))
    return np.concatenate([members[group] for group in order])[:size]


def _bootstrap_size(count: int, fraction: float) -> int:
    if not 0 < fraction <= 1:
        raise OptionError(f"bootstrap_fraction is within (0, 1], got {fraction}.")
    return max(1, round(fraction * count))


def _stack(trees: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _shapes(params: Params) -> dict[str, tuple[int, ...]]:
    return {path: np.shape(leaf) for path, leaf in leaves_by_path(params).items()}


@functools.partial(jax.jit, static_argnums=0)
def _compiled_apply(static: HashableNetwork, params: Params, x: Any) -> jax.Array:
    return jax.vmap(lambda p: as_columns(static.network.apply(p, x), num_examples(x)))(params)
