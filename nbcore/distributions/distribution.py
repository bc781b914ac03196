"""Distribution of y given the outputs of a network: what sampling and predictions ask of it.

One formula serves sampling and prediction: `log_prob`, `mean` and `variance` take JAX arrays, so
that samplers differentiate them, and NumPy arrays, so that predictions have double precision. What
only predictions need (`cdf`, `quantile`, `sample`, ...) is NumPy alone.

Parameters broadcast to `(examples, targets)`; predictions add a leading axis of draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np

from nbcore.errors import OptionError, ShapeError


class Distribution:
    """Distribution of y given the outputs; a pytree of its parameters.

    Subclasses define `log_prob`, `mean` and `variance`, and what predictions ask of them; a
    question without an answer raises `OptionError`.
    """

    mean: Any
    """Mean of y; of labels, the probabilities of the classes."""
    variance: Any
    """Variance of y."""

    def log_prob(self, y: Any) -> Any:
        """Return log p(y) of each target, `(..., examples, targets)`; labels have one column."""
        raise NotImplementedError

    @property
    def name(self) -> str:
        """Name in messages."""
        return type(self).__name__

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the mean: `(draws, examples, targets)` in predictions."""
        return np.broadcast_shapes(*(np.shape(leaf) for leaf in jax.tree.leaves(self)))

    def check(self, y: np.ndarray) -> np.ndarray:
        """Return y as the other methods read it, or raise what is wrong with it."""
        return as_matrix(y, self.shape[-2:])

    def log_density(self, y: np.ndarray) -> np.ndarray:
        """Return log p(y | draw), summed over targets that are not NaN, `(draws, examples)`."""
        each = self.log_prob(y)
        return each.sum(axis=-1) if y.dtype.kind != "f" else np.where(np.isnan(y), 0, each).sum(-1)

    def cdf(self, y: np.ndarray) -> np.ndarray:
        """Return P(Y <= y | draw), `(draws, examples, targets)`."""
        raise NotImplementedError

    def quantile(self, level: float) -> np.ndarray:
        """Return the quantile of the equal mixture of the draws, `(examples, targets)`."""
        raise NotImplementedError

    def sample(self, rng: np.random.Generator) -> np.ndarray:
        """Sample one y from each draw, `(draws, examples, targets)`; labels without targets."""
        raise NotImplementedError

    def crps(self, y: np.ndarray) -> float | None:
        """Return the continuous ranked probability score, or `None` without a closed form."""
        self.cdf(y)  # raises for labels, which have no order
        return None

    def entropy(self, p: np.ndarray) -> np.ndarray:
        """Return the entropy of labels with probabilities `(..., outputs)`, in nats."""
        raise OptionError(
            "Only labels have entropies (nb.Categorical, nb.Bernoulli). Use .variance, "
            ".aleatoric_variance and .epistemic_variance"
        )

    def labels(self, p: np.ndarray) -> np.ndarray:
        """Return the most probable label, given probabilities `(examples, outputs)`."""
        raise OptionError("Only predictions of classes have labels. Use .mean")

    def in_units(self, shift: np.ndarray, scale: np.ndarray) -> Distribution:
        """Return the distribution of shift + scale * y."""
        raise OptionError(f"{type(self).__name__} has no units, so y cannot be rescaled.")

    def with_variance(self, variance: np.ndarray) -> Distribution:
        """Return the distribution of the same form and mean with another variance of y."""
        raise OptionError(f"The variance of {type(self).__name__} follows from its mean.")

    def standard_form(self) -> Distribution:
        """Return the same distribution in the parameters that predictions keep."""
        return self

    def take(self, draws: np.ndarray | None = None, examples: slice = slice(None)) -> Self:
        """Return some examples, and some draws by their index, in double precision."""
        return jax.tree.map(lambda leaf: _taken(leaf, draws, examples), self)

    def followed_by(self, others: Sequence[Self]) -> Self:
        """Return the draws of this and of other distributions of the same examples."""
        parts = [self, *others]
        counts = [part.shape[0] for part in parts]
        return jax.tree.map(lambda *leaves: _concatenated(leaves, counts), *parts)


def as_matrix(y: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return y as `(examples, targets)`, given as that, or as `(examples,)` for one target.

    Raises:
        ShapeError: y has another shape.
    """
    wanted = shape[:1] if shape[1] == 1 else shape
    if y.shape != wanted:
        raise ShapeError(f"y has shape {y.shape}, and the prediction {wanted}. Reshape y.")
    return np.asarray(y, np.float64).reshape(shape)


def as_variances(variances: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Return variances with as many axes as means have, of lengths that broadcast to theirs.

    Args:
        variances: variances, which may lack leading axes.
        shape: shape of the means.

    Raises:
        ShapeError: means would broadcast to the variances, such as `(draws, examples, 1)` to
            `(examples,)`, which stands for `(1, 1, outputs)`.
    """
    given = np.asarray(variances, np.float64)
    found = given.reshape((1,) * (len(shape) - given.ndim) + given.shape)
    if found.ndim > len(shape) or any(
        n not in (1, m) for n, m in zip(found.shape, shape, strict=True)
    ):
        raise ShapeError(
            f"The variances have shape {given.shape} and the means {shape}: (draws, examples, "
            "outputs). Give one variance for each output, or np.reshape(variances, means.shape)"
        )
    return found


def array_module(*values: Any) -> Any:
    """Return `jax.numpy` if a value is an array of JAX, else `numpy`."""
    return jnp if any(isinstance(value, jax.Array) for value in values) else np


def special_functions(xp: Any) -> Any:
    """Return the special functions of `jax.numpy` or of `numpy`."""
    if xp is jnp:
        return jax.scipy.special
    import scipy.special  # noqa: PLC0415  scipy takes long to import

    return scipy.special


def _taken(leaf: Any, draws: np.ndarray | None, examples: slice) -> np.ndarray:
    """Return some draws and examples; an axis of length one stands for all."""
    leaf = leaf if draws is None else leaf[np.minimum(draws, len(leaf) - 1)]
    leaf = leaf[:, examples] if leaf.shape[1] > 1 else leaf
    return np.asarray(leaf, np.float64 if np.issubdtype(leaf.dtype, np.floating) else leaf.dtype)


def _concatenated(leaves: Sequence[Any], counts: Sequence[int]) -> np.ndarray:
    """Concatenate along draws; an axis of length one is repeated as often as the others need."""
    rest = np.broadcast_shapes(*(leaf.shape[1:] for leaf in leaves))
    pairs = zip(leaves, counts, strict=True)
    return np.concatenate([np.broadcast_to(leaf, (count, *rest)) for leaf, count in pairs])
