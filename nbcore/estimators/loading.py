"""Fitted models, read from their folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nbcore.distributions.likelihoods import Likelihood
from nbcore.estimators.bnn import BNN
from nbcore.estimators.partial_bnn import PartialBNN
from nbcore.training.cross_fit import CrossFit
from nbcore.training.deterministic import DeterministicNN
from nbcore.training.ensemble import EnsembleDeterministicNN
from nbcore.training.saving import Saved, StoredModel

CLASSES: dict[str, type[Saved]] = {
    cls.kind: cls for cls in (DeterministicNN, EnsembleDeterministicNN, CrossFit, PartialBNN, BNN)
}


def load(folder: str | Path, network: Any = None, *, likelihood: Likelihood | None = None) -> Any:
    """Read a fitted model that `save` wrote; it predicts what it predicted before.

    The folder holds arrays and JSON data alone: reading it runs no code of the folder.

    Args:
        folder: the folder.
        network: the network that was fitted, or its model, such as the flax module; left out for
            architectures that plugins offer by name, such as `FlaxMLP`.
        likelihood: the likelihood that was given to the model, if it is not one of nbcore's own, or
            an `nb.NoiseModel`: their functions are code, which files do not hold.

    Returns:
        The `nb.DeterministicNN`, `nb.EnsembleDeterministicNN`, `nb.CrossFit`, `nb.PartialBNN` or
        `nb.BNN` that was saved. The data that it was fitted to are not stored.

    Raises:
        RunFolderError: the folder holds no model, or a damaged one.
        OptionError: no plugin offers the architecture by name, and no network is given; or the
            likelihood is needed.
        ShapeError: the network is another one than that which was saved.
        PluginError, MissingExtraError: the plugin of the architecture is not installed.

    Examples:
        >>> import tempfile, numpy as np, nbcore as nb
        >>> from nbcore_flax import FlaxMLP
        >>> x = np.linspace(-1, 1, 40, dtype=np.float32)[:, None]
        >>> det = nb.DeterministicNN(FlaxMLP(hidden_dims=(8,)))
        >>> _ = det.train(x, x[:, 0] ** 2, epochs=2, progress=False)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     det.save(f"{folder}/model")
        ...     again = nb.load(f"{folder}/model")
        >>> bool((again.predict(x) == det.predict(x)).all())
        True
    """
    return StoredModel.read(Path(folder)).restore(CLASSES, network, likelihood)
