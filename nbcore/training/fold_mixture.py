"""The mixture of the networks of a cross-fit, and its noise by their errors out of fold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nbcore.errors import OptionError
from nbcore.networks.inputs import num_examples
from nbcore.posterior.prediction import Prediction
from nbcore.training.cross_fit import NOISE_FLOOR, CrossFit, mixture_noise
from nbcore.training.outputs import mean_where
from nbcore.training.spread import Spread

Floats = NDArray[np.float64]
MAX_PULL = 0.9


@dataclass(frozen=True, eq=False)
class HeldOutErrors:
    """Means over examples of what fold networks predict for them, in the units of y.

    Of each output the examples count whose target is known.

    With y an example, m the mean of the network that has not seen it, and m' the average of the
    means of those that have:

    Args:
        squared: mean of `(y - m)^2`, `(outputs,)`.
        aligned: mean of `(y - m) (m' - m)`, `(outputs,)`.
        between_seen: mean variance between the networks that have seen the example, `(outputs,)`;
            NaN if fewer than two have.
        between_all: mean variance between all networks, `(outputs,)`.
        within: mean variance of the draws of the network that has not seen it, `(outputs,)`.
        spread: noise and scale of the draws of one network that these errors make most likely;
            `None` keeps the draws as they are.
    """

    squared: Floats
    aligned: Floats
    between_seen: Floats
    between_all: Floats
    within: Floats
    spread: Spread | None = None

    @staticmethod
    def of(
        means: Floats, within: Floats, y: Any, cross: CrossFit, *, scale_draws: bool = False
    ) -> HeldOutErrors:
        """Return the errors of the networks of a cross-fit.

        Args:
            means: means of every network at all examples `(networks, N, outputs)`.
            within: variances of the draws of every network, of the same shape.
            y: targets `(N,)` or `(N, outputs)`.
            cross: the cross-fit.
            scale_draws: whether the variance of the draws is scaled by the errors.
        """
        tested = np.flatnonzero(cross.fold >= 0)
        seen = np.zeros(means.shape[:2], bool)
        for member, examples in zip(seen, cross.trained, strict=True):
            member[examples] = True
        seen, means, own = seen[:, tested], means[:, tested], cross.fold[tested]
        unseen = means[own, np.arange(len(tested))]
        residuals = np.asarray(y, np.float64).reshape(len(cross.fold), -1)[tested] - unseen
        measured, several = ~np.isnan(residuals), seen.sum(axis=0) >= 2
        aligned = between_seen = np.full(means.shape[2], np.nan)
        if several.any():
            known = np.where(seen[:, several, None], means[:, several], np.nan)
            shift = np.nanmean(known, axis=0) - unseen[several]
            aligned = mean_where(residuals[several] * shift, measured[several])
            between_seen = mean_where(np.nanvar(known, axis=0, ddof=1), measured[several])
        return HeldOutErrors(
            squared=mean_where(residuals**2, measured),
            aligned=aligned,
            between_seen=between_seen,
            between_all=mean_where(np.var(means, axis=0, ddof=1), measured),
            within=mean_where(within[own, tested], measured),
            spread=Spread.of(residuals, within[own, tested]) if scale_draws else None,
        )

    def between(self) -> Floats:
        r"""Return the variance between networks at examples that none of them has seen.

        Networks agree at examples that they were trained on, so that their variance there is too
        small. Suppose that networks differ by independent errors of variance b around f, that y
        differs from f by errors of variance s^2, and that training pulls a prediction towards its
        example by a share a: `m = f + e`, and `m_j = (1 - a) (f + e_j) + a y` if it has been seen.
        Then `squared = s^2 + b`, `aligned = a s^2 + b` and `between_seen = (1 - a)^2 b`, which
        determine a, s and b.
        """
        total, aligned, seen = self.squared, self.aligned, self.between_seen
        root = np.sqrt((total - aligned) ** 2 + 4 * total * seen)
        with np.errstate(invalid="ignore", divide="ignore"):  # no error at all
            pull = np.clip((aligned + total - root) / (2 * total), 0, MAX_PULL)
        between = np.minimum(seen / (1 - pull) ** 2, total)
        return np.where(np.isfinite(between), between, self.between_all)

    def noise(self, num_members: int) -> Floats:
        """Return the noise of the mixture `(outputs,)`.

        `mixture_noise` of the errors, and of the scaled variance of the draws if there is one.

        Args:
            num_members: number of networks.
        """
        between = self.between() * (1 - 1 / num_members)
        if self.spread is None:
            return mixture_noise(self.squared, between, self.within)
        kept = self.spread.noise - 2 * between
        return np.sqrt(np.maximum(kept, NOISE_FLOOR * self.squared))

    def scale(self, num_members: int) -> Floats | None:
        """Return the factor of the variance of draws in the mixture `(outputs,)`; `None`: 1.

        That of the likelihood, or what noise and networks leave of the mean squared error of the
        mixture: draws that vary as networks do are not counted twice.

        Args:
            num_members: number of networks.
        """
        if self.spread is None:
            return None
        between = self.between() * (1 - 1 / num_members)
        claimed = self.spread.noise + self.spread.scale * self.within
        left = np.maximum(claimed - 2 * between - self.noise(num_members) ** 2, 0.0)
        with np.errstate(invalid="ignore", divide="ignore"):  # draws that do not differ
            most = np.where(self.within > 0, left / self.within, 1.0)
        return np.minimum(self.spread.scale, most)

    def epistemic(self, means: Floats, within: Floats) -> Floats:
        """Return the epistemic variance of the mixture at the examples, had no network seen them.

        The variance between networks, which have seen most examples, is scaled to the mean that
        `between` infers.

        Args:
            means: means of every network at all examples `(networks, N, outputs)`.
            within: variances of the draws of every network, of the same shape.
        """
        with np.errstate(invalid="ignore", divide="ignore"):  # networks that do not differ
            scale = np.where(self.between_all > 0, self.between() / self.between_all, 1.0)
        draws = self.scale(len(means))
        return within.mean(axis=0) * (1.0 if draws is None else draws) + scale * means.var(axis=0)


@dataclass(frozen=True, eq=False)
class FoldMixture:
    """The equal mixture of the networks of a cross-fit as they were trained, without sampling.

    The control of every posterior over their weights: whatever sampling adds, it adds to this.

    Args:
        cross: the cross-fit.
        noise: noise of the mixture `(outputs,)`, in the units of y.
    """

    cross: CrossFit
    noise: Floats

    @staticmethod
    def of(cross: CrossFit, X: Any, y: Any) -> FoldMixture:
        """Return the mixture of a cross-fit, with its noise.

        Args:
            cross: the cross-fit.
            X: inputs of the examples that were cross-fitted `(N, ...)`.
            y: their targets `(N,)` or `(N, outputs)`.

        Raises:
            OptionError: the networks have no noise to learn, as those of labels.
        """
        if not cross.residuals.size:
            raise OptionError(
                f"{type(cross.full.likelihood).__name__} has no noise, and its mixture none to "
                "learn."
            )
        means = _means(cross, X)
        errors = HeldOutErrors.of(means, np.zeros_like(means), y, cross)
        return FoldMixture(cross, errors.noise(len(cross.members)))

    def predict_distribution(self, X: Any) -> Prediction:
        """Return the predictive distribution at new inputs."""
        return Prediction.normal(_means(self.cross, X), self.noise**2)


def _means(cross: CrossFit, X: Any) -> Floats:
    """Return the means of every network `(networks, examples, outputs)`."""
    inputs = cross.names.inputs(X)
    count = num_examples(inputs)
    return np.stack([np.reshape(each.predict(inputs), (count, -1)) for each in cross.members])
