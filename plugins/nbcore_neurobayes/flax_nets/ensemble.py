"""NeuroBayes' ensemble of deterministic networks."""

from __future__ import annotations

import json
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

import nbcore
from nbcore.errors import RunFolderError
from nbcore_neurobayes.architectures import as_own, as_plain
from nbcore_neurobayes.arguments import as_columns, as_rows
from nbcore_neurobayes.errors import NotFittedError
from nbcore_neurobayes.flax_nets.deterministic_nn import DeterministicNN
from nbcore_neurobayes.words import own_words

_ARGUMENTS = "arguments.json"
_STORED = (
    "input_shape", "loss", "num_models", "learning_rate", "map", "sigma", "swa_config",
    "collect_gradients",
)  # fmt: skip


class EnsembleDeterministicNN:
    """An ensemble; `estimator` is the `nbcore.EnsembleDeterministicNN` of it.

    Unlike in NeuroBayes, bootstrap samples are drawn from explicit keys, the variance has the
    noise in it, files hold arrays, not pickled code, and each `train` starts anew.

    Args:
        architecture: as for `DeterministicNN`.
        input_shape: as for `DeterministicNN`.
        loss: as for `DeterministicNN`.
        num_models: number of members, `models`.
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
        given = list(init_random_seeds or ())
        self.seeds = [*given, *range(len(given), num_models)][:num_models]
        self.architecture, self.input_shape, self.loss = architecture, input_shape, loss
        self.num_models, self.learning_rate, self.map = num_models, learning_rate, map
        self.sigma, self.swa_config, self.collect_gradients = sigma, swa_config, collect_gradients
        with own_words():
            self.estimator = nbcore.EnsembleDeterministicNN(
                as_plain(architecture), cast("Any", loss), num_models,
                learning_rate=learning_rate, map=map, sigma=sigma, swa=dict(swa_config or {}),
            )  # fmt: skip
        self.models = [
            DeterministicNN(
                architecture, input_shape, loss, learning_rate, map, sigma, swa_config,
                collect_gradients, seed,
            )
            for seed in self.seeds
        ]  # fmt: skip
        self.trained = False

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
        if self.loss == "classification":
            y = y.reshape(-1)
        with own_words():
            self.estimator.train(
                X, y, epochs, len(X) if batch_size is None else min(batch_size, len(X)),
                bootstrap=bootstrap, bootstrap_fraction=bootstrap_fraction, key=self.seeds,
                progress=False,
            )  # fmt: skip
        self._share()

    def _share(self) -> None:
        """Give the trained networks to `models`."""
        for model, member in zip(self.models, self.estimator.members, strict=True):
            model.estimator = member
        self.trained = True

    def predict(self, X: Any, return_individual: bool = False) -> tuple[Any, ...]:
        """Return mean and variance `(examples, outputs)`.

        Args:
            X: inputs.
            return_individual: whether predictions of the members follow: a list of means; with
                `loss="heteroskedastic"` an array of means and one of variances.

        Raises:
            NotFittedError: the ensemble is not trained.
        """
        if not self.trained:
            raise NotFittedError("The ensemble is not trained yet. Type: ensemble.train(X, y, 100)")
        with own_words():
            prediction = self.estimator.predict_distribution(as_rows(X))
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
        return [model.get_params() for model in self.models]

    def save_ensemble(self, filename: str) -> None:
        """Write the ensemble into one file; one that is there is replaced.

        The file is a zip archive of the folder that nbcore writes: arrays, and the name and the
        options of the architecture, without code. As `numpy.save` does, ".npy" is added to names
        without it.

        Raises:
            NotFittedError: the ensemble is not trained.
        """
        if not self.trained:
            raise NotFittedError("The ensemble is not trained yet. Type: ensemble.train(X, y, 100)")
        arguments = {name: getattr(self, name) for name in _STORED}
        arguments["init_random_seeds"] = [int(seed) for seed in self.seeds]
        with tempfile.TemporaryDirectory() as folder, own_words():
            self.estimator.save(folder, overwrite=True)
            Path(folder, _ARGUMENTS).write_text(json.dumps(arguments, default=float), "utf-8")
            with zipfile.ZipFile(_named(filename), "w") as archive:
                for path in sorted(Path(folder).rglob("*")):
                    archive.write(path, path.relative_to(folder))

    @classmethod
    def load_ensemble(cls, filename: str, architecture: Any = None) -> EnsembleDeterministicNN:
        """Read an ensemble that `save_ensemble` wrote.

        Args:
            filename: the file.
            architecture: needed if it is none of this package: files hold no code.

        Raises:
            RunFolderError: the file holds no ensemble of nbcore.
            OptionError: the architecture is needed and missing.
        """
        path = _named(filename)
        if not path.is_file():
            raise RunFolderError(f"There is no file {path}.")
        if not _holds_ensemble(path):
            raise RunFolderError(
                f"{path} is no ensemble that save_ensemble wrote. Files of NeuroBayes are pickles, "
                "which run code when they are read: train anew."
            )
        with tempfile.TemporaryDirectory() as folder, own_words():
            with zipfile.ZipFile(path) as archive:
                archive.extractall(folder)
            arguments = json.loads(Path(folder, _ARGUMENTS).read_text("utf-8"))
            estimator = nbcore.load(folder, as_plain(architecture))
        if architecture is None:
            architecture = as_own(getattr(estimator.network, "module", None))
        ensemble = cls(architecture, **arguments)
        ensemble.estimator = estimator
        ensemble._share()
        return ensemble


def _named(filename: str) -> Path:
    name = str(filename)
    return Path(name if name.endswith(".npy") else f"{name}.npy")


def _holds_ensemble(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return _ARGUMENTS in archive.namelist()
