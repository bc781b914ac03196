"""The interface of a log density: what samplers and the driver ask of a target.

The defaults are those of a plain density: no network, no data, nothing integrated out.
"""

from __future__ import annotations

from typing import Any

import jax

from nbcore.common.noise import with_noise
from nbcore.errors import TargetError
from nbcore.targets.strata import Batch

JITTER = 0.01
FULL_BATCH = "Use a backend without the capability 'minibatch', such as 'numpyro-nuts'."


class LogDensity:
    """A log density over a position, and what it declares about itself."""

    def log_density(self, position: Any) -> jax.Array:
        """Return the log density, a scalar, up to a constant of the data."""
        raise TargetError(f"{type(self).__name__} has no log density.")

    @property
    def start(self) -> Any:
        """The position that chains start at, before jitter."""
        raise TargetError(f"{type(self).__name__} has no start.")

    def initial_position(self, key: jax.Array | None = None, *, jitter: float = JITTER) -> Any:
        """Return the start of a chain: the trained weights, with a small jitter if a key is given.

        Args:
            key: random key; `None` gives the start itself.
            jitter: standard deviation of the normal noise added to every parameter.
        """
        return self.start if key is None else with_noise(key, self.start, jitter)

    def prior_position(self, key: jax.Array) -> Any:
        """Return a position drawn from the prior.

        Raises:
            TargetError: there is no prior.
        """
        del key
        raise TargetError(
            "A plain density has no prior to draw from. Give positions, or init='trained'."
        )

    def describe_terms(self, position: Any) -> str:
        """Return the terms of the log density in words, for error messages."""
        del position
        return ""

    # --- parameters of the prior ---

    @property
    def has_hyperparameters(self) -> bool:
        """Whether parameters of the prior, such as its scale, are unknown."""
        return False

    def with_hyperparameters_of(self, position: Any, reference: Any) -> Any:
        """Return a position with the parameters of the prior of another position."""
        del reference
        return position

    # --- weights that are integrated out ---

    @property
    def integrated_out(self) -> tuple[str, ...]:
        """Paths of the leaves that are integrated out."""
        return ()

    def marginal_position(self, position: Any) -> Any:
        """Return the part of a joint position that is sampled."""
        return position

    def joint_position(self, key: jax.Array, position: Any) -> Any:
        """Return a joint position, with a draw of what is integrated out given the rest."""
        del key
        return position

    # --- data, in minibatches ---

    @property
    def num_examples(self) -> int:
        """Number of examples N; 0 without data."""
        return 0

    @property
    def has_minibatches(self) -> bool:
        """Whether the log density has an unbiased estimate from minibatches."""
        return False

    def no_minibatches(self) -> TargetError:
        """Return the error that says why there are no minibatches, and what to use."""
        return TargetError(f"This target has no data to draw minibatches from. {FULL_BATCH}")

    def batch(self, key: jax.Array, t: jax.Array | int, size: int) -> Batch:
        """Return minibatch `t`; see `NetworkTarget.batch`.

        Raises:
            TargetError: the target has no minibatches.
        """
        raise self.no_minibatches()

    def minibatch_log_density(self, position: Any, batch: Batch) -> jax.Array:
        """Return an unbiased estimate of the log density from a minibatch.

        Raises:
            TargetError: the target has no minibatches.
        """
        raise self.no_minibatches()
