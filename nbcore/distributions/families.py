"""How y is distributed about the prediction of one draw: densities, distribution functions, draws.

Arrays broadcast to `(draws, examples, outputs)`; everything is numpy and float64.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol

import numpy as np

from nbcore.errors import DataError, LabelError, OptionError, ShapeError
from nbcore.metrics import crps_gaussian

FamilyName = Literal["normal", "student-t", "poisson", "bernoulli", "categorical"]


class Draws(NamedTuple):
    """The predictions of all draws.

    Args:
        mean: mean of y (probabilities of classes) `(draws, examples, outputs)`.
        variance: variance of y, of the same shape.
        df: degrees of freedom, broadcastable; infinite where there are none.
    """

    mean: np.ndarray
    variance: np.ndarray
    df: np.ndarray


class Family(Protocol):
    """A family of distributions; what it cannot answer it refuses with `OptionError`."""

    def check(self, y: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        """Return y `(examples, outputs)` as the other methods read it, or raise what is wrong."""
        return as_matrix(y, shape)

    def log_density(self, y: np.ndarray, draws: Draws) -> np.ndarray:
        """Return log p(y | draw), `(draws, examples)`, summed over outputs."""
        ...

    def cdf(self, y: np.ndarray, draws: Draws) -> np.ndarray:
        """Return P(Y <= y | draw)."""
        ...

    def quantile(self, level: float, draws: Draws) -> np.ndarray:
        """Return the quantile of the mixture of the draws `(examples, outputs)`."""
        ...

    def sample(self, rng: np.random.Generator, draws: Draws) -> np.ndarray:
        """Draw one y for each draw."""
        ...

    def crps(self, y: np.ndarray, draws: Draws) -> float | None:
        """Return the continuous ranked probability score; `None` without a closed form."""
        self.cdf(y, draws)  # refuses what has no order
        return None

    def entropy(self, p: np.ndarray) -> np.ndarray:
        """Return the entropy of labels with probabilities `(..., outputs)`, in nats."""
        raise OptionError(
            "Entropies are of classes (nb.Categorical, nb.Bernoulli). Use .variance, "
            ".aleatoric_variance and .epistemic_variance"
        )

    def labels(self, p: np.ndarray) -> np.ndarray:
        """Return the most probable label of probabilities `(examples, outputs)`."""
        raise OptionError("Only predictions of classes have labels. Use .mean")


class Continuous(Family):
    """Location and scale families: a draw has quantiles, and so has their mixture by bisection."""

    def deviate(self, level: float, draws: Draws) -> np.ndarray:
        """Return the quantile of each draw."""
        ...

    def quantile(self, level: float, draws: Draws) -> np.ndarray:
        """Bisect between the lowest and the highest quantile of a draw."""
        each = self.deviate(level, draws)
        low, high = each.min(axis=0), each.max(axis=0)
        for _ in range(40):
            middle = (low + high) / 2
            below = self.cdf(middle, draws).mean(axis=0) < level
            low, high = np.where(below, middle, low), np.where(below, high, middle)
        return (low + high) / 2


class Normal(Continuous):
    """N(mean, variance)."""

    def log_density(self, y: np.ndarray, draws: Draws) -> np.ndarray:
        """Return the sum of normal log densities."""
        squared = (y - draws.mean) ** 2 / draws.variance
        return (-0.5 * (squared + np.log(2 * np.pi * draws.variance))).sum(axis=-1)

    def cdf(self, y: np.ndarray, draws: Draws) -> np.ndarray:
        """Return the normal distribution function."""
        from scipy.special import ndtr  # noqa: PLC0415  scipy takes long to import

        return ndtr((y - draws.mean) / np.sqrt(draws.variance))

    def deviate(self, level: float, draws: Draws) -> np.ndarray:
        """Return mean + deviation times the normal quantile."""
        from scipy.special import ndtri  # noqa: PLC0415  scipy takes long to import

        return draws.mean + np.sqrt(draws.variance) * ndtri(level)

    def sample(self, rng: np.random.Generator, draws: Draws) -> np.ndarray:
        """Draw normal numbers."""
        return draws.mean + np.sqrt(draws.variance) * rng.standard_normal(draws.mean.shape)

    def crps(self, y: np.ndarray, draws: Draws) -> float | None:
        """Return that of a single normal."""
        single = len(draws.mean) == 1
        return crps_gaussian(y, draws.mean[0], draws.variance[0]) if single else None


class StudentT(Continuous):
    """Student's t with its own variance: scale^2 = variance (df - 2) / df."""

    def log_density(self, y: np.ndarray, draws: Draws) -> np.ndarray:
        """Return the sum of log densities of t."""
        from scipy.special import gammaln  # noqa: PLC0415  scipy takes long to import

        df, scale = draws.df, _t_scale(draws)
        constant = gammaln((df + 1) / 2) - gammaln(df / 2) - 0.5 * np.log(df * np.pi)
        z = (y - draws.mean) / scale
        return (constant - np.log(scale) - (df + 1) / 2 * np.log1p(z**2 / df)).sum(axis=-1)

    def cdf(self, y: np.ndarray, draws: Draws) -> np.ndarray:
        """Return the distribution function of t."""
        from scipy.special import stdtr  # noqa: PLC0415  scipy takes long to import

        return stdtr(draws.df, (y - draws.mean) / _t_scale(draws))

    def deviate(self, level: float, draws: Draws) -> np.ndarray:
        """Return mean + scale times the quantile of t."""
        from scipy.special import stdtrit  # noqa: PLC0415  scipy takes long to import

        return draws.mean + _t_scale(draws) * stdtrit(draws.df, level)

    def sample(self, rng: np.random.Generator, draws: Draws) -> np.ndarray:
        """Draw t numbers."""
        df = np.broadcast_to(draws.df, draws.mean.shape)
        return draws.mean + _t_scale(draws) * rng.standard_t(df)


class Poisson(Family):
    """Counts of rate mean."""

    def check(self, y: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        """Return whole numbers from 0 on."""
        y = as_matrix(y, shape)
        wrong = (y < 0) | (y != np.floor(y))
        if wrong.any():
            raise DataError(f"Counts are whole numbers from 0 on, got {y[wrong][0]}.")
        return y

    def log_density(self, y: np.ndarray, draws: Draws) -> np.ndarray:
        """Return the sum of log probabilities."""
        from scipy.special import gammaln, xlogy  # noqa: PLC0415  scipy takes long to import

        return (xlogy(y, draws.mean) - draws.mean - gammaln(y + 1)).sum(axis=-1)

    def cdf(self, y: np.ndarray, draws: Draws) -> np.ndarray:
        """Return P(Y <= y), 0 below 0."""
        from scipy.special import pdtr  # noqa: PLC0415  scipy takes long to import

        return np.where(y < 0, 0.0, pdtr(np.floor(np.maximum(y, 0)), draws.mean))

    def quantile(self, level: float, draws: Draws) -> np.ndarray:
        """Return the smallest count whose distribution function reaches the level."""
        low = np.full(draws.mean.shape[1:], -1.0)
        high = np.ceil(1 + draws.mean.max(axis=0))
        while np.any(short := self.cdf(high, draws).mean(axis=0) < level):
            high = np.where(short, 2 * high, high)
        while np.any(high - low > 1):
            middle = np.floor((low + high) / 2)
            below = self.cdf(middle, draws).mean(axis=0) < level
            low, high = np.where(below, middle, low), np.where(below, high, middle)
        return high

    def sample(self, rng: np.random.Generator, draws: Draws) -> np.ndarray:
        """Draw counts."""
        return rng.poisson(draws.mean).astype(np.float64)


class Classes(Family):
    """Labels have no order, so neither quantiles nor a distribution function."""

    def cdf(self, y: np.ndarray, draws: Draws) -> np.ndarray:
        """Refuse."""
        raise OptionError("Classes have no order. Use .mean for their probabilities.")

    def quantile(self, level: float, draws: Draws) -> np.ndarray:
        """Refuse."""
        raise OptionError("Classes have no quantiles. Use .mean for their probabilities.")


class Bernoulli(Classes):
    """Independent labels 0 and 1; mean is the probability p of 1, variance p (1 - p)."""

    def check(self, y: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        """Return zeros and ones."""
        y = as_matrix(y, shape)
        if not np.isin(y, (0, 1)).all():
            raise LabelError(f"Labels are 0 or 1, got {y[~np.isin(y, (0, 1))][0]}.")
        return y

    def log_density(self, y: np.ndarray, draws: Draws) -> np.ndarray:
        """Return the sum of log probabilities."""
        p = draws.mean  # 1 - p has no digits left where p rounds to 1, but variance / p has
        no = np.where(p > 0.5, draws.variance / np.maximum(p, 0.5), 1 - p)
        return _log(np.where(y > 0, p, no)).sum(axis=-1)

    def sample(self, rng: np.random.Generator, draws: Draws) -> np.ndarray:
        """Draw zeros and ones."""
        return (rng.random(draws.mean.shape) < draws.mean).astype(np.float64)

    def entropy(self, p: np.ndarray) -> np.ndarray:
        """Return -p log p - (1 - p) log(1 - p) of each output."""
        from scipy.special import entr  # noqa: PLC0415  scipy takes long to import

        return entr(p) + entr(1 - p)

    def labels(self, p: np.ndarray) -> np.ndarray:
        """Return 1 where its probability is above a half."""
        return (p > 0.5).astype(int)


class Categorical(Classes):
    """One of several classes; mean are their probabilities, y is a label `(examples,)`."""

    def check(self, y: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        """Return labels from 0 to classes - 1."""
        count, classes = shape
        if y.shape != (count,):
            raise ShapeError(f"Labels have shape {(count,)}, got {y.shape}.")
        wrong = (y < 0) | (y >= classes) | (y != np.floor(y))
        if wrong.any():
            raise LabelError(
                f"Labels are integers 0 to {classes - 1}, got {y[wrong][0]} in row "
                f"{np.flatnonzero(wrong)[0]}."
            )
        return y.astype(int)

    def log_density(self, y: np.ndarray, draws: Draws) -> np.ndarray:
        """Return the log probability of the label."""
        return _log(draws.mean[:, np.arange(len(y)), y])

    def sample(self, rng: np.random.Generator, draws: Draws) -> np.ndarray:
        """Draw labels `(draws, examples)`."""
        below = np.cumsum(draws.mean, axis=-1)
        thrown = rng.random((*draws.mean.shape[:2], 1)) * below[..., -1:]
        return (thrown >= below).sum(axis=-1)

    def entropy(self, p: np.ndarray) -> np.ndarray:
        """Return -sum_c p_c log p_c."""
        from scipy.special import entr  # noqa: PLC0415  scipy takes long to import

        return entr(p).sum(axis=-1, keepdims=True)

    def labels(self, p: np.ndarray) -> np.ndarray:
        """Return the most probable class."""
        return p.argmax(axis=1, keepdims=True)


FAMILIES: dict[FamilyName, Family] = {
    "normal": Normal(),
    "student-t": StudentT(),
    "poisson": Poisson(),
    "bernoulli": Bernoulli(),
    "categorical": Categorical(),
}


def as_matrix(y: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return y `(examples, outputs)`, given as that, or as `(examples,)` for one output.

    Raises:
        ShapeError: y has another shape.
    """
    wanted = shape[:1] if shape[1] == 1 else shape
    if y.shape != wanted:
        raise ShapeError(f"y has shape {y.shape}, and the prediction {wanted}. Reshape y.")
    return np.asarray(y, np.float64).reshape(shape)


def _t_scale(draws: Draws) -> np.ndarray:
    return np.sqrt(draws.variance * (draws.df - 2) / draws.df)


def _log(p: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):  # a probability of zero has the logarithm -inf
        return np.log(p)
