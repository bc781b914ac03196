"""Posteriors of several networks, which predict as one mixture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np

from nbcore.errors import OptionError
from nbcore.posterior.conformal import ConformalPrediction, Floats, OutOfFold
from nbcore.posterior.diagnostics import Diagnostics
from nbcore.posterior.moments import PredictiveMoments, of_mixture
from nbcore.posterior.posterior import NetworkPosterior
from nbcore.posterior.prediction import Prediction
from nbcore.posterior.stats import Stats
from nbcore.posterior.summary import By, Summary
from nbcore.posterior.to_arviz import arviz_data

Value = TypeVar("Value")


@dataclass(frozen=True, eq=False)
class MixtureCalibration:
    """The noise of a mixture, and the errors of its members on examples that they have not seen.

    Args:
        noise: standard deviation of y given the weights `(outputs,)`, in the units of y, in place
            of that which the members learned.
        out_of_fold: errors of the members on examples that they have not seen, for conformal
            intervals; `None` if there are none.
        epistemic_limit: epistemic variance beyond which an input is outside of what was learnt
            `(outputs,)`; `None` if unknown.
        scale: factor of the variance of the draws of each member `(outputs,)`; `None` is 1.
    """

    noise: Floats
    out_of_fold: OutOfFold | None = None
    epistemic_limit: Floats | None = None
    scale: Floats | None = None


@dataclass(frozen=True, eq=False)
class MixturePosterior:
    """Posteriors of several networks, such as those of a cross-fit, which predict together.

    The predictive distribution is the equal mixture of those of the members. Its epistemic variance
    is that between the draws of all members, and so contains the variance between networks.

    Args:
        members: a posterior of each network.
        calibration: the noise of the mixture; `None` keeps those that the members learned.
    """

    members: tuple[NetworkPosterior, ...]
    calibration: MixtureCalibration | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Check that there are members."""
        if not self.members:
            raise OptionError("A mixture is of at least one posterior, and there is none.")

    def __len__(self) -> int:
        """Return the number of members."""
        return len(self.members)

    @property
    def num_chains(self) -> int:
        """Number of chains of each member."""
        return self.members[0].num_chains

    @property
    def num_draws(self) -> int:
        """Number of draws of each chain."""
        return self.members[0].num_draws

    def predict(self, X: Any, *, max_draws: int | None = None) -> Prediction:
        """Return the predictive distribution of the mixture at new inputs.

        Args:
            X: inputs, as for fitting.
            max_draws: use at most this many draws of each member, evenly spaced; all by default.

        Raises:
            ShapeError, DataError, TokenError: the inputs do not fit the network.
        """
        each = [member.predict(X, max_draws=max_draws) for member in self.members]
        calibration = self.calibration
        if calibration is None:
            return Prediction.mixture(each)
        scale = calibration.scale
        scaled = each if scale is None else [member.with_spread(scale) for member in each]
        found = Prediction.mixture(scaled)
        found = replace(
            found.with_variance(calibration.noise**2), epistemic_limit=calibration.epistemic_limit
        )
        if calibration.out_of_fold is None:
            return found
        return replace(found, conformal=_conformal(calibration.out_of_fold, each))

    def moments(self, x: Any, *, max_draws: int | None = None) -> PredictiveMoments:
        """Return mean and variances of `predict` as a pure function: see `PredictiveMoments`."""
        each = [member.moments(x, max_draws=max_draws) for member in self.members]
        known = self.calibration
        return of_mixture(each) if known is None else of_mixture(each, known.noise, known.scale)

    def flat_draws(self) -> dict[str, np.ndarray]:
        """Return the draws of all members by `member K: ` and the path of their leaf."""
        return _by_member([member.flat_draws() for member in self.members])

    def labels(self) -> dict[str, list[str]]:
        """Return a name for every parameter of `flat_draws()`."""
        return _labels_by_member([member.labels() for member in self.members])

    def diagnostics(self, X: Any = None) -> Diagnostics:
        """Return the diagnostics of all members: chains are compared within a member only.

        Args:
            X: inputs. If given, R-hat and ESS are those of the networks' outputs at X, on which
                predictions depend, instead of the parameters.
        """
        return _joined([member.diagnostics(X) for member in self.members])

    def summary(self, by: By = "weight") -> Summary:
        """Return the table of every member, one below the other.

        Args:
            by: `"weight"` gives a line for each parameter, `"layer"` one for each layer with its
                worst ESS and R-hat.

        Raises:
            OptionError: `by` is neither.
        """
        tables = [member.summary(by) for member in self.members]
        counts = [len(table) for table in tables]
        columns = {
            name: np.concatenate([table.columns[name] for table in tables])
            for name in tables[0].columns
        }
        member = np.repeat(np.arange(len(tables)), counts)
        alarms = tuple(_told_by_member([table.alarms for table in tables]))
        return Summary({**columns, "member": member}, self.num_chains, self.num_draws, alarms)

    def to_arviz(self) -> Any:
        """Return ArviZ data: posterior and sample_stats, with a dimension `member` after the draws.

        Returns:
            `arviz.InferenceData` before ArviZ 1, `xarray.DataTree` since then.

        Raises:
            OptionError: members differ in their stochastic weights.
            MissingExtraError: ArviZ is not installed.
        """
        labels = [member.labels() for member in self.members]
        if any(other != labels[0] for other in labels[1:]):
            raise OptionError(
                "The members differ in their stochastic weights, so that ArviZ data have no common "
                "dimensions. Type: posterior.members[0].to_arviz()"
            )
        draws = [member.draws_in_units() for member in self.members]
        stacked = {path: np.stack([each[path] for each in draws], axis=2) for path in draws[0]}
        stats = zip(*(member.stats for member in self.members), strict=True)
        together = {
            name: np.stack([np.asarray(v) for v in values], axis=2)
            for name, values in zip(Stats._fields, stats, strict=True)
        }
        return arviz_data(stacked, labels[0], together, num_members=len(self.members))


def _conformal(out_of_fold: OutOfFold, each: Sequence[Prediction]) -> ConformalPrediction:
    means = np.stack([p.draw_means.mean(axis=0) for p in each])
    variances = [p.draw_means.var(axis=0) + p.draw_variances.mean(axis=0) for p in each]
    return ConformalPrediction(out_of_fold, means, np.sqrt(np.stack(variances)))


def _by_member(values: Sequence[Mapping[str, Value]]) -> dict[str, Value]:
    """Return mappings of all members as one; names carry the number of the member."""
    return {f"member {k}: {p}": value for k, one in enumerate(values) for p, value in one.items()}


def _told_by_member(values: Sequence[Sequence[str]]) -> list[str]:
    """Return texts of all members, with the number of the member."""
    return [f"member {k}: {text}" for k, one in enumerate(values) for text in one]


def _labels_by_member(labels: Sequence[Mapping[str, list[str]]]) -> dict[str, list[str]]:
    """Return the names of all parameters, by the path of their leaf."""
    named = [
        {path: [f"member {k}: {name}" for name in names] for path, names in one.items()}
        for k, one in enumerate(labels)
    ]
    return _by_member(named)


def _joined(found: Sequence[Diagnostics]) -> Diagnostics:
    """Return the diagnostics of all members as one."""
    return Diagnostics(
        r_hat=_by_member([d.r_hat for d in found]),
        ess_bulk=_by_member([d.ess_bulk for d in found]),
        ess_tail=_by_member([d.ess_tail for d in found]),
        labels=_labels_by_member([d.labels for d in found]),
        num_chains=found[0].num_chains,
        num_draws=found[0].num_draws,
        num_divergences=sum(d.num_divergences for d in found),
        acceptance_rate=float(np.mean([d.acceptance_rate for d in found])),
        e_bfmi=np.concatenate([d.e_bfmi for d in found]),
        saturation=float(np.mean([d.saturation for d in found])),
        alarms=tuple(_told_by_member([d.alarms for d in found])),
        still_chains=tuple(sorted({chain for d in found for chain in d.still_chains})),
        has_symmetry=any(d.has_symmetry for d in found),
        is_independent=all(d.is_independent for d in found),
    )
