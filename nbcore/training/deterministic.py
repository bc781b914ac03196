"""Deterministic networks: one set of weights, trained by maximum a posteriori (MAP)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal, Self, get_args

import jax
import jax.numpy as jnp
import numpy as np

from nbcore.common.keys import as_key
from nbcore.common.moments import Moments
from nbcore.common.options import check_count, check_flag
from nbcore.common.progress import Progress, progress_from
from nbcore.distributions.likelihoods import (
    Bernoulli,
    Categorical,
    Gaussian,
    Heteroskedastic,
    Likelihood,
    Poisson,
    check_trainable,
)
from nbcore.errors import OptionError, ShapeError, TrainingError, did_you_mean
from nbcore.networks.inputs import check_data, check_inputs, network_for
from nbcore.networks.names import Names, names_in
from nbcore.networks.network import Network, Params
from nbcore.networks.outputs import output_form
from nbcore.networks.plain import plain_params
from nbcore.networks.standardized import plain_network, warn_of_far_inputs
from nbcore.posterior.prediction import Prediction
from nbcore.posterior.scaler import Scaler
from nbcore.targets.fisher import LikelihoodCurvature
from nbcore.training.gradients import batch_gradients
from nbcore.training.minibatches import BatchPlan, Data
from nbcore.training.outputs import predict_at, root_mean_square
from nbcore.training.recipe import SWA, RateSchedule, Recipe
from nbcore.training.saving import Saved
from nbcore.training.train import Fit, train

Loss = Literal["homoskedastic", "heteroskedastic", "classification", "binary", "poisson"]
_LIKELIHOODS: dict[Loss, Likelihood] = {
    "homoskedastic": Gaussian(noise=1.0),
    "heteroskedastic": Heteroskedastic(),
    "classification": Categorical(),
    "binary": Bernoulli(),
    "poisson": Poisson(),
}


class DeterministicNN(Saved):
    r"""A network with one set of trained weights, from which a partially Bayesian network starts.

    loss = mean_i -log p(y_i | f(x_i)) + (1 / N) sum_w w^2 / (2 sigma^2), minimized by Adam, with
    unit noise for `loss="homoskedastic"`.

    Args:
        net: a network, or a model that `nb.as_network` knows.
        loss: `"homoskedastic"` (squared error), `"heteroskedastic"` (a second head predicts the
            noise, see `nb.Heteroskedastic`), `"classification"` (cross entropy of logits),
            `"binary"` (the same for one logit), `"poisson"` (counts), or a likelihood without its
            unknown parameters.
        learning_rate: peak learning rate.
        map: whether the Gaussian prior of the weights is part of the loss.
        sigma: standard deviation of that prior.
        swa: averaging of the last weights: `nb.SWA(...)`, a dict of its options, or `None`.
        weight_decay: decoupled weight decay; 0 is Adam, more is AdamW.
        schedule: `"constant"` or `"cosine"` learning rate.
        standardize: whether y is standardized for training: `params` then predict in standardized
            units, `predict` returns y's own units, and `scaler` holds the conversion.
        standardize_inputs: whether features of X that are far from standardized are standardized
            inside the network, see `nbcore.networks.input_scaling.InputScaler`: `network` then
            has the step, and takes X in its own units. Integers, such as token ids, and padded
            inputs are never changed.
        patience: epochs without a better validation loss after which training stops.

    Raises:
        OptionError: an option is unknown or impossible.

    Examples:
        >>> import numpy as np, nbcore as nb
        >>> from nbcore_flax import FlaxMLP
        >>> x = np.linspace(-1, 1, 64, dtype=np.float32)[:, None]
        >>> det = nb.DeterministicNN(FlaxMLP(hidden_dims=(16,)), learning_rate=0.02, sigma=10.0)
        >>> _ = det.train(x, x[:, 0] ** 2, epochs=100, batch_size=16, progress=False)
        >>> float(np.mean((det.predict(x) - x[:, 0] ** 2) ** 2)) < 0.02
        True
    """

    kind: ClassVar[str] = "deterministic"

    def __init__(
        self,
        net: Any,
        loss: Loss | Likelihood = "homoskedastic",
        learning_rate: float = 1e-3,
        map: bool = True,
        sigma: float = 1.0,
        swa: SWA | dict[str, Any] | None = SWA(),  # noqa: B008  frozen
        *,
        weight_decay: float = 0.0,
        schedule: RateSchedule = "constant",
        standardize: bool = False,
        standardize_inputs: bool = False,
        patience: int = 20,
    ) -> None:
        if not (loss in _LIKELIHOODS if isinstance(loss, str) else isinstance(loss, Likelihood)):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise OptionError(
                f"loss is {', '.join(get_args(Loss))} or a likelihood, got {loss!r}."
                f"{did_you_mean(str(loss), _LIKELIHOODS)}"
            )
        self.model = net
        self.loss: Loss | Likelihood = loss
        self.likelihood: Likelihood = (
            _LIKELIHOODS[loss] if isinstance(loss, str) else loss.for_training()
        )
        if standardize and not self.likelihood.can_standardize:
            raise OptionError(
                "Class labels and counts cannot be standardized. Leave standardize=False."
            )
        self.recipe = Recipe(
            learning_rate, weight_decay, schedule, map, sigma, SWA.of(swa), patience
        )
        check_flag(standardize=standardize, standardize_inputs=standardize_inputs)
        self.standardize, self.standardize_inputs = standardize, standardize_inputs
        self.names = Names()
        self.scaler: Scaler | None = None
        self.validation_residuals: np.ndarray | None = None
        self._network: Network | None = None
        self._fit: Fit | None = None

    @property
    def is_squared_error(self) -> bool:
        """Whether the loss is the squared error, which does not determine the noise."""
        return isinstance(self.likelihood, Gaussian)

    @property
    def validation_noise(self) -> np.ndarray | None:
        """Root mean square error of each output on the validation data `(outputs,)`."""
        residuals = self.validation_residuals
        return None if residuals is None else root_mean_square(residuals)

    @property
    def network(self) -> Network:
        """The network; available after training."""
        if self._network is None:
            raise TrainingError("The network is not trained yet. Type: det.train(X, y)")
        return self._network

    @property
    def fit_result(self) -> Fit:
        """Weights, moments and losses of the last training."""
        if self._fit is None:
            raise TrainingError("The network is not trained yet. Type: det.train(X, y)")
        return self._fit

    @property
    def params(self) -> Params:
        """The trained parameters."""
        return self.fit_result.params

    @property
    def trajectory(self) -> Moments | None:
        """Moments of the weights over the averaging window; `None` if nothing was averaged."""
        return self.fit_result.trajectory

    @property
    def gradients(self) -> Moments | None:
        """Moments of the per-batch gradients over the last tenth of training."""
        gradients = self.fit_result.gradients
        return gradients if int(gradients.count) else None

    def train(
        self,
        X: Any,
        y: Any,
        epochs: int = 50,
        batch_size: int = 32,
        validation_data: tuple[Any, Any] | None = None,
        *,
        key: Any = None,
        params: Params | None = None,
        plan: BatchPlan | None = None,
        progress: bool | Progress = True,
    ) -> DeterministicNN:
        """Train from fresh weights, or from given ones; a second call starts again.

        Args:
            X: inputs, an array or a pytree of arrays `(N, ...)`.
            y: targets `(N,)` or `(N, outputs)`; labels `(N,)`.
            epochs: passes over the data.
            batch_size: examples of a minibatch, a share of each part of similar length.
            validation_data: `(X, y)` for early stopping; its error is kept for the noise.
            key: random key for initial weights, minibatches and dropout.
            params: weights to start from instead of fresh ones.
            plan: shapes of the minibatches, instead of `batch_size`: networks that share
                `BatchPlan.of(X, network.padding, batch_size)` share compiled programs.
            progress: whether to report on standard error, or a function that takes a `Report`.

        Returns:
            Itself.

        Raises:
            ShapeError, DataError, TokenError, LabelError: X and y do not fit.
            TrainingError: the loss is not finite, or outputs mix examples.
        """
        init_key, train_key = jax.random.split(as_key(key))
        self.names = names_in(X, y, self.likelihood.labels, self.model)
        unseen = self.names.validation(validation_data)
        fresh, data, validation = self.prepare(
            *self.names.data(X, y), unseen, epochs=epochs, batch_size=batch_size, key=init_key
        )
        report, start = progress_from(progress), fresh if params is None else params
        fit = train(
            self.network, self.likelihood, self.recipe, start, data, epochs=epochs,
            batch_size=batch_size, key=train_key, validation=validation, plan=plan, progress=report,
        )  # fmt: skip
        return self.finish(fit, unseen)

    def prepare(
        self,
        X: Any,
        y: Any,
        validation_data: tuple[Any, Any] | None,
        *,
        epochs: int,
        batch_size: int,
        key: jax.Array,
    ) -> tuple[Params, Data, Data | None]:
        """Check the arguments of `train`; return fresh weights, and the data in training units.

        Raises:
            OptionError, ShapeError, DataError, TokenError, LabelError: see `train`.
        """
        check_count(1, epochs=epochs, batch_size=batch_size)
        wanted, missing = self.standardize_inputs, self.likelihood.missing
        network = network_for(self.model, X, y, standardize_inputs=wanted, missing=missing)
        if not wanted:
            warn_of_far_inputs(network, X, "Type: standardize_inputs=True")
        if validation_data is not None:
            check_data(network, *validation_data, "validation X", "validation y", missing=missing)
        first = jax.tree.map(lambda a: jnp.asarray(a[:1]), X)  # pyright: ignore[reportUnknownLambdaType]
        params = plain_params(network, network.init(key, first))
        form = output_form(network, params, X)
        if not form.per_example:
            raise TrainingError(
                "The outputs of this network mix the examples of X, which minibatches would "
                "separate. Give what belongs together, such as the nodes of a graph, as one "
                "example; or train in a loop of your own and pass the parameters to nb.PartialBNN."
            )
        self.num_outputs = form.num_outputs
        check_trainable(self.likelihood, self.num_outputs)
        self.scaler = Scaler.fit(np.asarray(y)) if self.standardize else None
        self._network = network
        validation = None if validation_data is None else self._data(*validation_data)
        return params, self._data(X, y), validation

    def finish(self, fit: Fit, validation_data: tuple[Any, Any] | None = None) -> DeterministicNN:
        """Store the result of training, and the error on validation data."""
        self._fit = fit
        self.validation_residuals = None
        if validation_data is not None and self.is_squared_error:
            self.validation_residuals = self.residuals(*validation_data)
        return self

    def restore(
        self,
        network: Network,
        fit: Fit,
        scaler: Scaler | None,
        num_outputs: int,
        validation_data: tuple[Any, Any] | None = None,
    ) -> DeterministicNN:
        """Take over the result of a training that was done elsewhere."""
        self._network, self.scaler, self.num_outputs = network, scaler, num_outputs
        return self.finish(fit, validation_data)

    @property
    def stored_network(self) -> tuple[Network, Params]:
        """The network and its trained weights."""
        return self.network, self.params

    def to_stored(self, *, moments: bool = True) -> dict[str, Any]:
        """Return options, weights, losses, and the moments of training if wanted."""
        return {
            "names": self.names,
            "loss": self.loss,
            "recipe": self.recipe,
            "scaler": self.scaler,
            "standardize_inputs": self.standardize_inputs,
            "num_outputs": self.num_outputs,
            "fit": self.fit_result if moments else self.fit_result.without_moments(),
            "validation_residuals": self.validation_residuals,
        }

    @classmethod
    def from_stored(
        cls, network: Network, stored: Mapping[str, Any], posteriors: Sequence[Any] = ()
    ) -> Self:
        """Return the trained network that `to_stored` described."""
        del posteriors
        options = stored["recipe"].options
        options |= {"standardize": stored["scaler"] is not None}
        options |= {"standardize_inputs": stored["standardize_inputs"]}
        det = cls(plain_network(network), stored["loss"], **options)
        det.restore(network, stored["fit"], stored["scaler"], stored["num_outputs"])
        det.validation_residuals, det.names = stored["validation_residuals"], stored["names"]
        return det

    def predict(self, X: Any) -> np.ndarray:
        """Return predictions in y's own units, or probabilities of labels.

        Args:
            X: inputs, as for training.

        Returns:
            `(N,)` for one target, else `(N, targets)`; probabilities `(N, classes)`.
        """
        columns = self._prediction(X).draw_means[0]
        return columns[:, 0] if columns.shape[1] == 1 else columns

    def predict_distribution(self, X: Any) -> Prediction:
        """Return the predictive distribution at these weights, as a mixture of one draw.

        Raises:
            OptionError: the loss is the squared error, which does not determine the noise.
        """
        if self.is_squared_error:
            raise OptionError(
                "The squared error does not determine the noise. Add it: "
                "nb.Prediction.normal(det.predict(X).reshape(1, len(X), -1), "
                "det.residual_noise(X_unseen, y_unseen)[None, None] ** 2)"
            )
        return self._prediction(X)

    def residuals(self, X: Any, y: Any) -> np.ndarray:
        """Return y minus prediction `(N, targets)`, in y's own units.

        Raises:
            ShapeError, DataError, TokenError: X and y do not fit.
        """
        inputs, y = self._read(X, y)
        means = self._prediction(inputs).draw_means[0]
        targets = np.asarray(y, np.float64).reshape(len(y), -1)
        if targets.shape != means.shape:
            raise ShapeError(
                f"y has {targets.shape[1]} column(s), and the network predicts {means.shape[1]}."
            )
        return targets - means

    def residual_noise(self, X: Any, y: Any) -> np.ndarray:
        """Return the root mean square error of each target `(targets,)`, in y's own units."""
        return root_mean_square(self.residuals(X, y))

    def batch_gradients(self, X: Any, y: Any, batch_size: int = 32) -> Moments:
        """Return the moments of the per-batch gradients of the loss on given data."""
        data = self._data(*self._read(X, y))
        return batch_gradients(
            self.network, self.likelihood, self.params, data,
            batch_size=batch_size, key=as_key(None),
        )  # fmt: skip

    def curvature(self, X: Any, y: Any) -> LikelihoodCurvature:
        """Return the curvature of the likelihood of given data, computed when it is read.

        With the squared error, the noise is the root mean square error on the validation data of
        the training, or else on the given data; at least a thousandth of the spread of y.

        Args:
            X: inputs, as for training.
            y: targets, in y's own units.
        """
        data, likelihood = self._data(*self._read(X, y)), self.likelihood
        if self.is_squared_error:
            noise = self.validation_noise
            noise = self.residual_noise(X, y) if noise is None else noise
            scale = 1.0 if self.scaler is None else self.scaler.scale
            spread = np.nanstd(data.y, axis=0, dtype=np.float64)
            floor = np.where(spread > 0, 1e-3 * spread, 1e-12)
            noise = jnp.asarray(np.maximum(noise / scale, floor))
            likelihood = Gaussian(noise=noise, missing=self.likelihood.missing)
        layers = self.network.layers(self.params)
        return LikelihoodCurvature(self.network, self.params, likelihood, data.X, data.y, layers)

    def _read(self, X: Any, y: Any) -> tuple[Any, np.ndarray]:
        inputs, targets = self.names.data(X, y)
        check_data(self.network, inputs, targets, missing=self.likelihood.missing)
        return inputs, targets

    def _data(self, X: Any, y: Any) -> Data:
        targets = self.scaler.standardize(np.asarray(y)) if self.scaler else y
        return Data(X, np.asarray(self.likelihood.check(targets, self.num_outputs)))

    def _prediction(self, X: Any) -> Prediction:
        inputs = self.names.inputs(X)
        check_inputs(self.network, inputs)
        prediction = predict_at(self.network, self.params, self.likelihood, self.scaler, inputs)
        return replace(prediction, classes=self.names.classes)
