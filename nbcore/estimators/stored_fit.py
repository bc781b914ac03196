"""The fit of a partially Bayesian network as values that a folder of a model holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

from nbcore.common.packing import Types, pack
from nbcore.distributions import likelihoods
from nbcore.distributions.likelihoods import Likelihood
from nbcore.distributions.priors import NormalPrior
from nbcore.errors import OptionError, TrainingError
from nbcore.estimators.choice import Choice
from nbcore.estimators.options import PriorScaleSearch
from nbcore.estimators.prior_scale import ScaleChoice
from nbcore.networks.network import Network, Params
from nbcore.networks.standardized import plain_network
from nbcore.posterior.conformal import OutOfFold
from nbcore.posterior.mixture import MixtureCalibration
from nbcore.posterior.posterior import NetworkPosterior
from nbcore.subsets import rules
from nbcore.subsets.subset import NestedRule, ProbabilisticSubset
from nbcore.training.cross_fit import CrossFit
from nbcore.training.deterministic import DeterministicNN
from nbcore.training.ensemble import EnsembleDeterministicNN
from nbcore.training.saving import TYPES, Saved

SETTINGS = ("choice", "num_classes", "likelihood", "noise_prior", "prior")
RESULTS = ("noise", "scale_choice", "mixture_calibration")
FIT_TYPES: Types = {
    **TYPES,
    **{
        cls.__name__: cls
        for cls in (
            Choice, MixtureCalibration, NestedRule, NormalPrior, OutOfFold, PriorScaleSearch,
            ProbabilisticSubset, ScaleChoice,
            rules.EverythingRule, rules.FirstAndLastRule, rules.LastRule, rules.LayersRule,
            rules.PairsRule,
        )
    },
}  # fmt: skip
"""The dataclasses that the folder of a partially Bayesian network may hold."""


class SavedFit(Saved):
    """Base of partially Bayesian networks, which are saved with their settings and networks."""

    types: ClassVar[Types] = FIT_TYPES

    model: Any
    network: Network
    likelihood: Likelihood | None
    given: Any
    cross: CrossFit | None
    det: DeterministicNN | None
    unstored: Sequence[str] = ()

    @property
    def stored_network(self) -> tuple[Network, Params]:
        """The network, and the weights of the first posterior."""
        if not self.posteriors:
            raise TrainingError("The model is not fitted yet. Type: model.fit(X, y)")
        return self.network, self.posteriors[0].split.params

    def to_stored(self) -> dict[str, Any]:
        """Return settings, the trained networks, and what was learned about the noise.

        Settings of types that files cannot hold are left out and named; such a model predicts,
        and cannot be fitted anew.

        A likelihood that is not one of nbcore's own is given again to `nb.load`.

        Raises:
            OptionError: the prior of its noise cannot be written.
        """
        for posterior in self.posteriors:
            is_known = likelihoods.to_data(posterior.likelihood) is not None
            if not is_known and (self.likelihood is None or self.likelihood.needs_noise_estimate):
                raise OptionError(
                    f"The noise prior of {type(posterior.likelihood).__name__} was estimated or is "
                    "of another library, and a file cannot hold it. Fit with "
                    "likelihood=nb.Gaussian(noise_prior=...) and priors of nbcore."
                )
        settings = {name: getattr(self, name) for name in SETTINGS}
        unstored = [name for name, value in settings.items() if not _can_be_stored(value)]
        return {
            **{name: None if name in unstored else value for name, value in settings.items()},
            **{name: getattr(self, name) for name in RESULTS},
            "unstored": unstored,
            "given": _given(self.given),
            "cross": None if self.cross is None else self.cross.to_stored(),
            "det": None if self.det is None or self.cross else self.det.to_stored(),
        }

    @classmethod
    def from_stored(
        cls, network: Network, stored: Mapping[str, Any], posteriors: Sequence[NetworkPosterior]
    ) -> Self:
        """Return the fitted model that `to_stored` described."""
        model = object.__new__(cls)
        for name in (*SETTINGS, *RESULTS, "unstored"):
            setattr(model, name, stored[name])
        model.model, model.network = plain_network(network), network
        model.posteriors = tuple(posteriors)
        model.names = posteriors[0].names
        cross, det, given = stored["cross"], stored["det"], stored["given"]
        model.cross = None if cross is None else CrossFit.from_stored(network, cross)
        model.det = None if det is None else DeterministicNN.from_stored(network, det)
        if model.cross is not None:
            model.det = model.cross.full
        if isinstance(given, dict):
            model.given = EnsembleDeterministicNN.from_stored(network, given)
            model.det = model.given.members[0]
        else:
            params = posteriors[0].split.params
            known = {"det": model.det, "cross": model.cross, "params": params, None: None}
            model.given = known[given]
        return model


def check_complete(unstored: Sequence[str]) -> None:
    """Check that a model has all of its settings, to be fitted anew.

    Raises:
        OptionError: it was loaded, and the file could not hold some of them.
    """
    if unstored:
        raise OptionError(
            f"This model was loaded, and its {', '.join(unstored)} could not be stored. Make a new "
            f"one to fit anew: nb.PartialBNN(net, {', '.join(f'{name}=...' for name in unstored)})"
        )


def _given(given: Any) -> Any:
    if given is None:
        return None
    if isinstance(given, EnsembleDeterministicNN):
        return given.to_stored()
    if isinstance(given, CrossFit):
        return "cross"
    return "det" if isinstance(given, DeterministicNN) else "params"


def _can_be_stored(value: Any) -> bool:
    try:
        pack(value, FIT_TYPES)
    except OptionError:
        return False
    return True
