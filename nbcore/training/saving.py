"""Folders of fitted models: arrays as safetensors, everything else as JSON; no code, no pickle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar, Self

from nbcore.common import storage
from nbcore.common.moments import Moments
from nbcore.common.packing import Types, pack, unpack
from nbcore.datasets import SmilesTokenizer
from nbcore.distributions.continuous import (
    LogScaleNormal,
    NormalDistribution,
    StudentTDistribution,
)
from nbcore.distributions.discrete import (
    BernoulliDistribution,
    CategoricalDistribution,
    PoissonDistribution,
)
from nbcore.distributions.likelihoods import Likelihood
from nbcore.distributions.likelihoods.stored import STANDARD
from nbcore.errors import OptionError, RunFolderError
from nbcore.metrics.class_names import ClassNames
from nbcore.networks.names import Names
from nbcore.networks.network import Network, Params
from nbcore.networks.stored import StoredNetwork
from nbcore.posterior.posterior import NetworkPosterior
from nbcore.posterior.prediction import Prediction
from nbcore.posterior.scaler import Scaler
from nbcore.posterior.stored import StoredPosterior
from nbcore.training.recipe import SWA, Recipe
from nbcore.training.train import Fit

KIND = "model"
LIBRARIES = ("nbcore", "jax", "numpy", "flax", "equinox", "dm-haiku")
TYPES: Types = {
    **STANDARD,
    **{
        cls.__name__: cls
        for cls in (
            BernoulliDistribution, CategoricalDistribution, Fit, LogScaleNormal, Moments,
            Names, NormalDistribution, PoissonDistribution, Prediction, Recipe, SWA, Scaler,
            SmilesTokenizer, StudentTDistribution,
        )
    },
}  # fmt: skip
"""The dataclasses that a folder of a fitted model may hold."""


class Saved:
    """Base of fitted models that are saved: `save`, and what `nb.load` makes them of.

    A subclass gives its network, its state as values that `nbcore.common.packing` can write, and
    makes itself of them.
    """

    kind: ClassVar[str]
    types: ClassVar[Types] = TYPES
    tokenizer: SmilesTokenizer | None = None
    names: Names
    posteriors: tuple[NetworkPosterior, ...] = ()

    @property
    def feature_names(self) -> tuple[str, ...] | None:
        """Columns of the table that was fitted; `None` for arrays."""
        return self.names.features

    @property
    def classes(self) -> ClassNames | None:
        """Name of each class, in the order of the outputs; `None` for a regression."""
        return self.names.classes

    @property
    def stored_network(self) -> tuple[Network, Params]:
        """The network, and weights of it."""
        raise NotImplementedError

    def to_stored(self) -> dict[str, Any]:
        """Return what was fitted, without the network and the posteriors."""
        raise NotImplementedError

    @classmethod
    def from_stored(
        cls, network: Network, stored: Mapping[str, Any], posteriors: Sequence[NetworkPosterior]
    ) -> Self:
        """Return the model that `to_stored` described."""
        raise NotImplementedError

    def save(
        self,
        folder: str | Path,
        *,
        tokenizer: SmilesTokenizer | None = None,
        overwrite: bool = False,
    ) -> None:
        """Write the fitted model into a folder, whole or not at all; `nb.load` reads it.

        Architectures that plugins offer by name, such as `FlaxMLP`, are written as name and
        options. Of any other network the file holds the weights alone, and `nb.load` is given the
        network again. Arrays are written as safetensors, everything else as JSON.

        Args:
            folder: made if it is missing.
            tokenizer: the tokenizer that the inputs were encoded with, to be kept with the model:
                `nb.load(folder).tokenizer`.
            overwrite: whether a model in the folder may be replaced.

        Raises:
            RunFolderError: the folder already holds something, or cannot be written.
            OptionError: a part of the model cannot be written; it is named.
            TrainingError: the model is not fitted yet.
        """
        network, params = self.stored_network
        state = {"model": self.to_stored(), "tokenizer": tokenizer or self.tokenizer}
        try:
            described = StoredNetwork.of(network, params)
            data, arrays = pack(state, self.types)
        except OptionError as error:
            raise OptionError(f"This {type(self).__name__} cannot be saved. {error}") from error
        facts = {
            "kind": self.kind,
            "network": asdict(described),
            "state": data,
            "posteriors": len(self.posteriors),
            "versions": _versions(),
        }
        with storage.whole_folder(Path(folder), f"{KIND}.json", overwrite=overwrite) as written:
            storage.write_files(written, arrays, facts, kind=KIND)
            for k, posterior in enumerate(self.posteriors):
                posterior.save(written / _place(k))


@dataclass(frozen=True)
class StoredModel:
    """A folder that `save` wrote.

    Args:
        folder: the folder.
        facts: its JSON data.
        arrays: its arrays.
    """

    folder: Path
    facts: Mapping[str, Any]
    arrays: Mapping[str, Any]

    @staticmethod
    def read(folder: Path) -> StoredModel:
        """Read a folder.

        Raises:
            RunFolderError: the folder holds no model, or a damaged one.
        """
        if (folder / "posterior.json").is_file():
            raise RunFolderError(
                f"{folder} holds a posterior, and no whole model. Type: nb.Posterior.load(folder, "
                "network)"
            )
        if not (folder / f"{KIND}.json").is_file() and (folder / KIND).is_dir():
            raise RunFolderError(
                f"{folder} holds a run of the command line. Its model: "
                f"nb.load({str(folder / KIND)!r})"
            )
        arrays, facts = storage.read_folder(folder, kind=KIND)
        return StoredModel(folder, facts, arrays)

    def restore(
        self, classes: Mapping[str, type[Saved]], network: Any, likelihood: Likelihood | None
    ) -> Any:
        """Return the model.

        Args:
            classes: classes of models, by kind.
            network: the network that was fitted; `None` makes it by its name.
            likelihood: likelihood of the model, in y's own units, if it is not one of nbcore's own.

        Raises:
            OptionError: no plugin offers the architecture, and no network is given.
            ShapeError: the network is another one.
            RunFolderError: the folder is damaged.
        """
        with storage.told_as_damage(self.folder, KIND):
            cls = classes[self.facts["kind"]]
            described = StoredNetwork(**self.facts["network"])
            made = described.restore(network, self.folder)
            state = unpack(self.facts["state"], self.arrays, cls.types)
            posteriors = [
                _posterior(self.folder / _place(k), made, likelihood)
                for k in range(self.facts["posteriors"])
            ]
            fit = state["model"]
            if likelihood is not None:
                left = [name for name in fit["unstored"] if name != "likelihood"]
                fit = {**fit, "likelihood": likelihood, "unstored": left}
            model = cls.from_stored(made, fit, posteriors)
            described.check(*model.stored_network)
            object.__setattr__(model, "tokenizer", state["tokenizer"])  # some are frozen
        return model


def _posterior(folder: Path, network: Network, likelihood: Likelihood | None) -> NetworkPosterior:
    """Return a posterior; a likelihood in y's own units is brought into those of the network."""
    stored = StoredPosterior.read(folder)
    if likelihood is not None and stored.scaler is not None:
        likelihood = likelihood.rescaled(stored.scaler.scale)
    return NetworkPosterior.restore(stored, network, likelihood)


def _place(k: int) -> str:
    return f"posterior-{k}"


def _versions() -> dict[str, str]:
    found: dict[str, str] = {}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
