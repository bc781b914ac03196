"""A likelihood with example outputs and targets, its samples of y and its density."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nbcore.distributions.each_draw import each_draw
from nbcore.distributions.likelihoods import Likelihood, LikelihoodParameters
from nbcore.errors import OptionError
from nbcore.posterior.prediction import Prediction
from nbcore.testing.densities import SAMPLES, Floats


@dataclass(frozen=True, eq=False)
class LikelihoodCase:
    """A likelihood, with network outputs and targets to check it on.

    Args:
        likelihood: the likelihood.
        outputs: network outputs `(examples, outputs)`, at least 3 examples, of order 1.
        y: targets, as a user gives them.
        values: the values that a discrete y takes, up to a negligible probability.
        positive: whether y is continuous and positive.
        rescaled_outputs: `(outputs, scale) -> outputs` of a network of y / scale; by default the
            first columns, one for each target, are divided by the scale, and others stay.

    Examples:
        >>> import numpy as np, nbcore as nb
        >>> counts = np.array([0, 2, 1])
        >>> LikelihoodCase(nb.Poisson(), np.zeros((3, 1)), counts, values=range(30)).name
        'Poisson'
    """

    likelihood: Likelihood
    outputs: Any
    y: Any
    values: Sequence[float] | None = None
    positive: bool = False
    rescaled_outputs: Callable[[Floats, Floats], Floats] | None = None

    @property
    def name(self) -> str:
        """Type of the likelihood."""
        return type(self.likelihood).__name__

    @functools.cached_property
    def f(self) -> jax.Array:
        """Network outputs, in the default precision."""
        return jnp.asarray(self.outputs, jnp.result_type(float))

    @property
    def num_outputs(self) -> int:
        """Number of network outputs."""
        return self.f.shape[1]

    @functools.cached_property
    def targets(self) -> jax.Array:
        """Targets, as `log_prob` reads them."""
        return jnp.asarray(self.likelihood.check(self.y, self.num_outputs))

    @property
    def is_labels(self) -> bool:
        """Whether y is one integer for each example, whose moments are probabilities."""
        return self.targets.ndim == 1

    @property
    def num_targets(self) -> int:
        """Number of values of y of each example."""
        return 1 if self.is_labels else self.targets.shape[1]

    @functools.cached_property
    def resolved(self) -> Likelihood:
        """The likelihood, with what it takes from y."""
        return self.likelihood.resolve(self.targets)

    @functools.cached_property
    def parameters(self) -> LikelihoodParameters:
        """A sample of the unknown parameters."""
        return self.resolved.sample_prior(jax.random.key(5), self.num_outputs)

    @functools.cached_property
    def moments(self) -> tuple[Floats, Floats]:
        """Mean and variance of y `(examples, targets)`."""
        mean, variance = self.resolved.moments(self.f, self.parameters)
        return np.asarray(mean, np.float64), np.asarray(variance, np.float64)

    @functools.cached_property
    def prediction(self) -> Prediction:
        """The prediction of one draw."""
        parameters = jax.tree.map(lambda a: jnp.asarray(a)[None], self.parameters)
        return Prediction(each_draw(self.resolved, np.asarray(self.f)[None], parameters))

    @functools.cached_property
    def samples(self) -> Floats:
        """Samples of y `(SAMPLES, examples, targets)`."""
        drawn = np.asarray(self.prediction.sample(SAMPLES, 7), np.float64)
        if self.values is None and np.all(drawn == np.round(drawn)):
            raise OptionError(
                f"{self.name} samples whole numbers. Give the case the values that y takes: "
                "LikelihoodCase(..., values=range(50))"
            )
        return drawn.reshape(SAMPLES, len(self.f), self.num_targets)

    def unbounded(self, y: Floats) -> Floats:
        """Return y on the real line: its logarithm if it is positive."""
        return np.log(y) if self.positive else y

    def log_density(self, example: int) -> Callable[[Floats], Floats]:
        """Return the log density of `unbounded(y)` of an example, at points `(m, targets)`."""
        shared = (self.resolved, self.f[example], self.parameters)

        def log_density(points: Floats) -> Floats:
            y = np.exp(np.clip(points, -80, 80)) if self.positive else points
            y = y[:, 0].astype(int) if self.is_labels else y
            each = np.asarray(_log_prob(*shared, y), np.float64)
            return each + points.sum(axis=1) if self.positive else each

        return log_density


@jax.jit
def _log_prob(likelihood: Likelihood, outputs: jax.Array, parameters: Any, y: Any) -> jax.Array:
    return likelihood.log_prob(jnp.broadcast_to(outputs, (len(y), len(outputs))), y, parameters)
