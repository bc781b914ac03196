"""NeuroBayes' deterministic network: one set of weights, trained by maximum a posteriori."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

import nbcore
import nbcore_flax
from nbcore.errors import TrainingError
from nbcore_neurobayes import elsewhere
from nbcore_neurobayes.architectures import as_plain
from nbcore_neurobayes.arguments import as_columns, as_rows, bare, weights_of
from nbcore_neurobayes.errors import NotKeptError, NotOfferedError
from nbcore_neurobayes.words import own_words

__getattr__ = elsewhere.names_of(__name__)

Prediction = np.ndarray | tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class State:
    """Weights of a network, and the function that they are for.

    Args:
        apply_fn: `apply_fn({"params": params}, X, enable_dropout=False)`.
        params: the weights by layer.
    """

    apply_fn: Any
    params: Any

    def replace(self, **updates: Any) -> State:
        """Return the state with other weights."""
        return replace(self, **updates)


class _Continued(nbcore.DeterministicNN):
    """A network whose training starts at given weights.

    Args:
        start: the weights.
        arguments: arguments of `nbcore.DeterministicNN`.
    """

    def __init__(self, start: Any, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._start = start

    def prepare(self, *data: Any, **options: Any) -> Any:
        """Return the given weights instead of fresh ones, and the data."""
        fresh, *checked = super().prepare(*data, **options)
        return fresh if self._start is None else _like(self._start, fresh), *checked


def _like(weights: Any, fresh: Any) -> Any:
    """Return weights in the form of fresh variables: with their collections, if they have any."""
    nested = set(fresh) == {"params"} and "params" not in weights
    return {"params": weights} if nested else weights


class DeterministicNN:
    """A network trained to one set of weights; `estimator` is the `nbcore.DeterministicNN` of it.

    `model` is the architecture. A second `train` goes on from the weights that there are. Unlike in
    NeuroBayes, the prior is divided by the number of all examples, not of a minibatch; minibatches
    are shuffled; normalization layers are averaged as all others; snapshots are summed up as they
    come (`estimator.trajectory`), those of one training, and gradients always.

    Args:
        architecture: a linen module, or any model that `nbcore.as_network` knows.
        input_shape: shape of one example; needed only for weights before training.
        loss: `"homoskedastic"`, `"heteroskedastic"` or `"classification"`.
        learning_rate: learning rate.
        map: whether the Gaussian prior is part of the loss.
        sigma: standard deviation of that prior.
        swa_config: options of `nbcore.SWA`, which have the same names.
        collect_gradients: not needed: their moments are always kept.
        init_random_state: seed of initial weights, minibatches and dropout.

    Raises:
        ArchitectureError: the architecture is no network.
        OptionError: an option is impossible.

    Examples:
        >>> import numpy as np, nbcore_neurobayes as nb
        >>> x = np.linspace(-1, 1, 32, dtype=np.float32)[:, None]
        >>> det = nb.DeterministicNN(nb.FlaxMLP([8], 1), 1, learning_rate=0.02)
        >>> det.train(x, x[:, 0] ** 2, 20, 16)
        >>> det.predict(x).shape
        (32, 1)
    """

    def __init__(
        self,
        architecture: Any,
        input_shape: int | tuple[int, ...],
        loss: str = "homoskedastic",
        learning_rate: float = 0.01,
        map: bool = True,
        sigma: float = 1.0,
        swa_config: Mapping[str, Any] | None = None,
        collect_gradients: bool = False,
        init_random_state: int | None = 0,
    ) -> None:
        self.model, self.loss, self.seed = architecture, loss, init_random_state
        self.input_shape = (input_shape,) if isinstance(input_shape, int) else tuple(input_shape)
        self.learning_rate, self.map, self.sigma = learning_rate, map, sigma
        self.swa_config, self.collect_gradients = dict(swa_config or {}), collect_gradients
        with own_words():
            nbcore.as_network(architecture)
            self.estimator = self._estimator(None)
        self._params: Any = None  # before training

    def _estimator(self, start: Any) -> nbcore.DeterministicNN:
        return _Continued(
            start, as_plain(self.model), cast("Any", self.loss), self.learning_rate, self.map,
            self.sigma, self.swa_config,
        )  # fmt: skip

    def train(self, X_train: Any, y_train: Any, epochs: int, batch_size: int | None = None) -> None:
        """Train from fresh weights, or from those that there are.

        Args:
            X_train: inputs.
            y_train: targets, or labels.
            epochs: passes over the data.
            batch_size: examples in a minibatch; `None` is all of them.
        """
        X, y = as_rows(X_train), np.asarray(y_train)
        if self.loss == "classification":
            y = y.reshape(-1)
        size = len(X) if batch_size is None else min(batch_size, len(X))
        estimator = self._estimator(self.estimator.params if self.is_trained else self._params)
        with own_words():
            estimator.train(X, y, epochs, size, key=self.seed, progress=False)
        self.estimator = estimator

    def predict(self, X: Any) -> Prediction:
        """Return predictions `(examples, outputs)`, or probabilities.

        With `loss="heteroskedastic"`: means and variances. Before training they are those of the
        initial weights.
        """
        rows = as_rows(X)
        with own_words():
            if not self.is_trained:
                return self._predict_untrained(rows)
            if self.loss == "heteroskedastic":
                prediction = self.estimator.predict_distribution(rows)
                return as_columns(prediction.mean), as_columns(prediction.variance)
            return as_columns(self.estimator.predict(rows))

    @property
    def is_trained(self) -> bool:
        """Whether there are weights of a training."""
        try:
            self.estimator.fit_result  # noqa: B018  raises before training
        except TrainingError:
            return False
        return True

    def _predict_untrained(self, rows: np.ndarray) -> Prediction:
        network = nbcore.as_network(self.model, example=rows[:1])
        outputs = jnp.asarray(network.apply(self._variables(), jnp.asarray(rows)))
        if self.loss == "classification":
            return np.asarray(jax.nn.softmax(outputs))
        outputs = np.asarray(outputs).reshape(len(rows), -1)
        if self.loss == "homoskedastic":
            return outputs
        means, log_deviations = np.split(outputs, 2, axis=1)
        return means, np.exp(2 * log_deviations)

    def _variables(self) -> Any:
        """Return the weights of training, or the ones that it starts at."""
        if self.is_trained:
            return self.estimator.params
        if self._params is None:
            tokens = isinstance(self.model, nbcore_flax.FlaxTransformer)
            example = jnp.ones((1, *self.input_shape), jnp.int32 if tokens else jnp.float32)
            network = nbcore.as_network(self.model, example=example)
            init_key, _ = jax.random.split(jax.random.key(self.seed or 0))
            self._params = network.init(init_key, example)
        return self._params

    def get_params(self) -> Any:
        """Return the weights by layer: those of training, or the initial ones before it."""
        with own_words():
            return bare(self._variables())

    @property
    def state(self) -> State:
        """Weights and the function that they are for; `det.state.replace(params=...)` is settable.

        Weights that are set are those that predict, and that the next training starts from.
        """
        return State(getattr(self.model, "apply", None), self.get_params())

    @state.setter
    def state(self, state: State) -> None:
        weights = weights_of(state.params)
        if not self.is_trained:
            self._params = weights
            return
        det = self.estimator
        fit = replace(det.fit_result, params=_like(weights, det.params))
        self.estimator = self._estimator(None).restore(det.network, fit, None, det.num_outputs)

    def set_data(self, X: Any, y: Any = None) -> Any:
        """Return inputs with two axes or more, and targets as columns, or labels as indicators."""
        if y is None:
            return as_rows(X)
        y = np.asarray(y)
        if self.loss == "classification":
            return as_rows(X), np.eye(self.model.target_dim, dtype=np.float32)[y.reshape(-1)]
        return as_rows(X), as_columns(y)

    def update_learning_rate(self, learning_rate: float) -> None:
        """Set the learning rate of the next training."""
        self.learning_rate = learning_rate

    def average_params(self) -> Any:
        """Return the weights, which are averages since training ended."""
        return self.get_params()

    def reset_swa(self) -> None:
        """Do nothing: each training averages snapshots of its own."""

    @property
    def average_grads(self) -> Any:
        """Mean of the gradients over the last tenth of training, by layer."""
        moments = self.estimator.gradients
        return None if moments is None else bare(moments.mean)

    def __getattr__(self, name: str) -> Any:
        """Say what to use instead of inner parts of training."""
        if name in elsewhere.NOT_KEPT:
            raise NotKeptError(elsewhere.NOT_KEPT[name])
        if name not in elsewhere.METHODS:
            raise AttributeError(f"DeterministicNN has no attribute {name!r}.")

        def raises(*args: Any, **options: Any) -> Any:
            del args, options
            message = elsewhere.not_offered(f"DeterministicNN.{name}", elsewhere.METHODS[name])
            raise NotOfferedError(message)

        return raises
