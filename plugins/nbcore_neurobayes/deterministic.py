"""NeuroBayes' deterministic network, and its ensemble."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

import nbcore
from nbcore.errors import OptionError
from nbcore_neurobayes.arguments import as_columns, as_rows, bare

Prediction = np.ndarray | tuple[np.ndarray, np.ndarray]


class DeterministicNN:
    """A network trained to one set of weights; `model` is the `nbcore.DeterministicNN` of it.

    Unlike in NeuroBayes, the prior is divided by the number of all examples, not of a minibatch;
    minibatches are shuffled; `train` starts anew each time; normalization layers are averaged as
    all others; snapshots are summed up as they come (`model.trajectory`), and gradients always.

    Args:
        architecture: a linen module, or any model that `nbcore.as_network` knows.
        input_shape: not needed: networks are built from the data.
        loss: `"homoskedastic"`, `"heteroskedastic"` or `"classification"`.
        learning_rate: learning rate.
        map: whether the Gaussian prior is part of the loss.
        sigma: standard deviation of that prior.
        swa_config: options of `nbcore.SWA`, which have the same names.
        collect_gradients: not needed: their moments are always kept.
        init_random_state: seed of initial weights, minibatches and dropout.

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
        del input_shape, collect_gradients
        self.architecture, self.loss, self.seed = architecture, loss, init_random_state
        self.model = nbcore.DeterministicNN(
            architecture, cast("Any", loss), learning_rate, map, sigma, dict(swa_config or {})
        )

    def train(self, X_train: Any, y_train: Any, epochs: int, batch_size: int | None = None) -> None:
        """Train from fresh weights.

        Args:
            X_train: inputs.
            y_train: targets, or labels.
            epochs: passes over the data.
            batch_size: examples in a minibatch; `None` is all of them.
        """
        X, y = as_rows(X_train), np.asarray(y_train)
        size = len(X) if batch_size is None else batch_size
        self.model.train(X, y, epochs, size, key=self.seed, progress=False)

    def predict(self, X: Any) -> Prediction:
        """Return predictions `(examples, outputs)`, or probabilities.

        With `loss="heteroskedastic"`: means and variances.
        """
        if self.loss == "heteroskedastic":
            prediction = self.model.predict_distribution(as_rows(X))
            return as_columns(prediction.mean), as_columns(prediction.variance)
        return as_columns(self.model.predict(as_rows(X)))

    def get_params(self) -> Any:
        """Return the trained parameters."""
        return bare(self.model.params)

    @property
    def state(self) -> Any:
        """What scripts read `state.params` of."""
        return SimpleNamespace(params=self.get_params())


class EnsembleDeterministicNN:
    """An ensemble; `model` is the `nbcore.EnsembleDeterministicNN` of it.

    Unlike in NeuroBayes, bootstrap samples are drawn from explicit keys, the variance has the
    noise in it, and files hold arrays, not pickled code.

    Args:
        architecture: as for `DeterministicNN`.
        input_shape: not needed.
        loss: as for `DeterministicNN`.
        num_models: number of members.
        learning_rate: learning rate.
        map: whether the Gaussian prior is part of the loss.
        sigma: standard deviation of that prior.
        swa_config: options of `nbcore.SWA`.
        collect_gradients: not needed.
        init_random_seeds: a seed for each member; 0, 1, ... by default.

    Examples:
        >>> import numpy as np, nbcore_neurobayes as nb
        >>> x = np.linspace(-1, 1, 32, dtype=np.float32)[:, None]
        >>> ensemble = nb.EnsembleDeterministicNN(nb.FlaxMLP([8], 1), 1, num_models=2)
        >>> ensemble.train(x, x[:, 0] ** 2, 20, 16)
        >>> [part.shape for part in ensemble.predict(x)]
        [(32, 1), (32, 1)]
    """

    def __init__(
        self,
        architecture: Any,
        input_shape: int | tuple[int, ...],
        loss: str = "homoskedastic",
        num_models: int = 5,
        learning_rate: float = 0.01,
        map: bool = True,
        sigma: float = 1.0,
        swa_config: Mapping[str, Any] | None = None,
        collect_gradients: bool = False,
        init_random_seeds: Sequence[int] | None = None,
    ) -> None:
        del input_shape, collect_gradients
        given = list(init_random_seeds or ())
        self.seeds = [*given, *range(len(given), num_models)][:num_models]
        self.loss, self.num_models = loss, num_models
        self.model = nbcore.EnsembleDeterministicNN(
            architecture, cast("Any", loss), num_models,
            learning_rate=learning_rate, map=map, sigma=sigma,
            swa=dict(swa_config or {}),
        )  # fmt: skip

    def train(
        self,
        X_train: Any,
        y_train: Any,
        epochs: int,
        batch_size: int | None = None,
        bootstrap: bool = True,
        bootstrap_fraction: float = 1.0,
    ) -> None:
        """Train every member.

        Args:
            X_train: inputs.
            y_train: targets, or labels.
            epochs: passes over the data.
            batch_size: examples in a minibatch; `None` is all of them.
            bootstrap: whether members see examples drawn with replacement.
            bootstrap_fraction: how many, as a fraction of all.
        """
        X, y = as_rows(X_train), np.asarray(y_train)
        self.model.train(
            X, y, epochs, len(X) if batch_size is None else batch_size, bootstrap=bootstrap,
            bootstrap_fraction=bootstrap_fraction, key=self.seeds, progress=False,
        )  # fmt: skip

    def predict(self, X: Any, return_individual: bool = False) -> tuple[Any, ...]:
        """Return mean and variance `(examples, outputs)`.

        Args:
            X: inputs.
            return_individual: whether predictions of the members follow: a list of means; with
                `loss="heteroskedastic"` an array of means and one of variances.
        """
        prediction = self.model.predict_distribution(as_rows(X))
        both = as_columns(prediction.mean), as_columns(prediction.variance)
        if not return_individual:
            return both
        if self.loss == "heteroskedastic":
            return *both, prediction.draw_means, prediction.draw_variances
        return *both, list(prediction.draw_means)

    def predict_in_batches(
        self, X: Any, batch_size: int = 200, return_individual: bool = False
    ) -> tuple[Any, ...]:
        """Return `predict`, which goes through the inputs in batches by itself."""
        del batch_size
        return self.predict(X, return_individual)

    def get_params(self) -> list[Any]:
        """Return the parameters of each member."""
        return [bare(member.params) for member in self.model.members]

    def save_ensemble(self, filename: str) -> None:
        """Write the ensemble into a folder of this name; one that is there is replaced."""
        self.model.save(filename, overwrite=True)

    @classmethod
    def load_ensemble(cls, filename: str, architecture: Any = None) -> EnsembleDeterministicNN:
        """Read an ensemble; code is not stored, so the architecture is given again.

        Raises:
            OptionError: the architecture is missing.
        """
        if architecture is None:
            raise OptionError(
                "An ensemble is stored as arrays, without code. Type: "
                "EnsembleDeterministicNN.load_ensemble(filename, architecture)"
            )
        model = nbcore.load(filename, architecture)
        ensemble = cls(architecture, (), cast("str", model.loss), model.num_models)
        ensemble.model = model
        return ensemble
