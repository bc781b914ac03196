"""Likelihoods: what the outputs of a network say about the targets."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from nbcore import priors
from nbcore.errors import DataError, LabelError, OptionError, ShapeError
from nbcore.priors import HalfNormal, PositivePrior

Unknowns = dict[str, jax.Array]
"""Unknowns of a likelihood, unconstrained: `position["likelihood"]`; may be empty."""


class Likelihood(Protocol):
    """p(y | outputs, unknowns), per example; a pytree (its numbers are leaves)."""

    def check(self, y: Any, num_outputs: int) -> jax.Array:
        """Return the targets in the form that `log_prob` reads, or raise what is wrong."""
        ...

    def initial(self, num_outputs: int) -> Unknowns:
        """Return where the unknowns start, unconstrained; `{}` where there are none."""
        ...

    def log_prior(self, unknowns: Unknowns) -> jax.Array:
        """Return the log prior density of the unconstrained unknowns, Jacobian included."""
        ...

    def sample_prior(self, key: jax.Array, num_outputs: int) -> Unknowns:
        """Draw the unconstrained unknowns from their prior."""
        ...

    def constrain(self, unknowns: Unknowns) -> Unknowns:
        """Return the unknowns on the user's scale."""
        ...

    def log_prob(self, outputs: jax.Array, y: jax.Array, unknowns: Unknowns) -> jax.Array:
        """Return log p(y | outputs, unknowns) of each example, `(examples,)`."""
        ...

    def moments(self, outputs: jax.Array, unknowns: Unknowns) -> tuple[jax.Array, jax.Array]:
        """Return mean and variance of y given the outputs, `(examples, outputs)` each."""
        ...


def as_columns(outputs: jax.Array) -> jax.Array:
    """Return network outputs as `(examples, outputs)`.

    Raises:
        ShapeError: the outputs have more than two axes.
    """
    if outputs.ndim == 1:
        return outputs[:, None]
    if outputs.ndim != 2:
        raise ShapeError(
            f"A network returns (examples,) or (examples, outputs), got shape {outputs.shape}."
        )
    return outputs


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Gaussian:
    r"""Gaussian noise, y_ij ~ N(f_ij, noise_j^2).

    The unknown noise is sampled as u, with log noise = log median + spread u (median and spread
    of the prior), so that samplers meet it on a scale of about 1. Its density has the Jacobian:
    log p(u) = log p(noise) + log noise + log spread.

    Args:
        noise: known noise standard deviation, in the units of y (a tuple gives one per output);
            `None` samples it jointly, one per output.
        noise_prior: prior of the unknown noise; `HalfNormal` or `LogNormal`.

    Examples:
        >>> import jax.numpy as jnp
        >>> likelihood = Gaussian(noise=1.0)
        >>> round(float(likelihood.log_prob(jnp.zeros((1, 1)), jnp.zeros((1, 1)), {})[0]), 4)
        -0.9189
    """

    noise: Any = None
    noise_prior: PositivePrior = field(default_factory=HalfNormal)

    def check(self, y: Any, num_outputs: int) -> jax.Array:
        """Return y as floats `(examples, outputs)`."""
        y = np.asarray(y)
        self._check_options(num_outputs)
        if not np.issubdtype(y.dtype, np.number) or np.iscomplexobj(y):
            raise DataError(f"A Gaussian likelihood needs real numbers in y, got {y.dtype}.")
        columns = y[:, None] if y.ndim == 1 else y
        if columns.ndim != 2 or columns.shape[1] != num_outputs:
            raise ShapeError(
                f"y has shape {y.shape}, and the network has {num_outputs} output(s). Give y as "
                f"(examples, {num_outputs}){' or (examples,)' if num_outputs == 1 else ''}."
            )
        return jnp.asarray(columns, jnp.result_type(float))

    def _check_options(self, num_outputs: int) -> None:
        known = self.noise is not None
        name = "noise" if known else "noise_prior.median"
        value = np.asarray(self.noise if known else self.noise_prior.median)
        if not np.all((value > 0) & np.isfinite(value)):
            raise OptionError(f"{name} must be positive, got {value.tolist()}.")
        if value.shape not in ((), (num_outputs,)):
            raise OptionError(
                f"{name} has shape {value.shape}, and the network has {num_outputs} output(s). "
                f"Give one number, or a tuple of {num_outputs}."
            )
        if not known and not np.all(np.isfinite(self.noise_prior.log_prob(jnp.asarray(value)))):
            raise OptionError(
                f"noise_prior has no finite density at its median: {self.noise_prior}. "
                "Scales and spreads are positive."
            )

    def initial(self, num_outputs: int) -> Unknowns:
        """Return u = 0, the prior's median noise, one per output."""
        if self.noise is not None:
            return {}
        return {"noise": jnp.zeros(num_outputs, jnp.result_type(float))}

    def log_prior(self, unknowns: Unknowns) -> jax.Array:
        """Return the log prior of u: log p(noise) + log(noise) + log(spread)."""
        if self.noise is not None:
            return jnp.zeros(())
        noise = self._noise(unknowns)
        spread = jnp.asarray(self.noise_prior.log_spread)
        return jnp.sum(self.noise_prior.log_prob(noise) + jnp.log(noise) + jnp.log(spread))

    def sample_prior(self, key: jax.Array, num_outputs: int) -> Unknowns:
        """Draw u from the prior of the noise."""
        if self.noise is not None:
            return {}
        noise = self.noise_prior.sample(key, (num_outputs,))
        median = jnp.asarray(self.noise_prior.median, noise.dtype)
        return {"noise": jnp.log(noise / median) / self.noise_prior.log_spread}

    def constrain(self, unknowns: Unknowns) -> Unknowns:
        """Return `{"noise": ...}` where it is unknown."""
        return {} if self.noise is not None else {"noise": self._noise(unknowns)}

    def log_prob(self, outputs: jax.Array, y: jax.Array, unknowns: Unknowns) -> jax.Array:
        """Return the sum over outputs of the normal log density."""
        return jnp.sum(jax.scipy.stats.norm.logpdf(y, outputs, self._noise(unknowns)), axis=1)

    def moments(self, outputs: jax.Array, unknowns: Unknowns) -> tuple[jax.Array, jax.Array]:
        """Return the outputs and the squared noise."""
        return outputs, jnp.broadcast_to(self._noise(unknowns) ** 2, outputs.shape)

    def _noise(self, unknowns: Unknowns) -> jax.Array:
        dtype = jnp.result_type(float)
        if self.noise is not None:
            return jnp.asarray(self.noise, dtype)
        prior = self.noise_prior
        return jnp.asarray(prior.median, dtype) * jnp.exp(prior.log_spread * unknowns["noise"])


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Categorical:
    r"""Classes, y_i ~ Categorical(softmax(f_i)); the outputs are logits.

    Examples:
        >>> import jax.numpy as jnp
        >>> float(Categorical().log_prob(jnp.zeros((1, 2)), jnp.array([1]), {})[0])
        -0.6931471824645996
    """

    def check(self, y: Any, num_outputs: int) -> jax.Array:
        """Return y as integer labels `(examples,)`."""
        labels = np.asarray(y)
        labels = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
        if labels.ndim != 1:
            raise ShapeError(f"Labels have shape (examples,), got {np.shape(y)}.")
        if not np.all(labels == np.floor(labels)):
            raise LabelError(
                f"Labels are integers 0 to {num_outputs - 1}, got {labels.dtype} fractions."
            )
        rows = np.flatnonzero((labels < 0) | (labels >= num_outputs))
        if rows.size:
            raise LabelError(
                f"The label {labels[rows[0]]} in row {rows[0]} is outside the {num_outputs} "
                f"classes (0 to {num_outputs - 1}); {rows.size} row(s) are. A network for k "
                "classes has target_dim=k."
            )
        return jnp.asarray(labels, jnp.int32)

    def initial(self, num_outputs: int) -> Unknowns:
        """Return `{}`: nothing is unknown."""
        if num_outputs < 2:
            raise ShapeError(
                f"Categorical needs one logit per class, and the network has {num_outputs} output."
            )
        return {}

    def log_prior(self, unknowns: Unknowns) -> jax.Array:
        """Return 0."""
        del unknowns
        return jnp.zeros(())

    def sample_prior(self, key: jax.Array, num_outputs: int) -> Unknowns:
        """Return `{}`."""
        del key, num_outputs
        return {}

    def constrain(self, unknowns: Unknowns) -> Unknowns:
        """Return the unknowns, of which there are none."""
        return unknowns

    def log_prob(self, outputs: jax.Array, y: jax.Array, unknowns: Unknowns) -> jax.Array:
        """Return the log probability of each label."""
        del unknowns
        return jnp.take_along_axis(jax.nn.log_softmax(outputs), y[:, None], axis=1)[:, 0]

    def moments(self, outputs: jax.Array, unknowns: Unknowns) -> tuple[jax.Array, jax.Array]:
        """Return the class probabilities p and p (1 - p)."""
        del unknowns
        p = jax.nn.softmax(outputs)
        return p, p * (1 - p)


_STANDARD: dict[str, Any] = {
    c.__name__: c for c in (Gaussian, Categorical, HalfNormal, priors.LogNormal)
}


def to_data(value: Any) -> Any:
    """Return a standard likelihood or positive prior as JSON data; `None` for anybody else's.

    A standard likelihood with somebody else's prior is somebody else's.
    """
    if type(value).__name__ not in _STANDARD or type(value) is not _STANDARD[type(value).__name__]:
        return None
    data: dict[str, Any] = {"name": type(value).__name__}
    for f in fields(value):
        inner = getattr(value, f.name)
        if isinstance(inner, np.ndarray | np.generic | jax.Array):
            data[f.name] = np.asarray(inner).tolist()
        elif inner is None or isinstance(inner, int | float | tuple | list):
            data[f.name] = inner
        else:
            data[f.name] = to_data(inner)
            if data[f.name] is None:
                return None
    return data


def from_data(data: dict[str, Any]) -> Any:
    """Return what `to_data` described."""
    options = {
        k: from_data(v) if isinstance(v, dict) else v for k, v in data.items() if k != "name"
    }  # pyright: ignore[reportUnknownArgumentType]
    options = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    return _STANDARD[data["name"]](**options)
