"""The Laplace approximation: independent draws from the normal with mode and curvature."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jax
import jax.flatten_util
import jax.numpy as jnp

from nbcore import Kernel, Stats, Target
from nbcore.errors import OptionError
from nbcore.extend import (
    DENSE_LIMIT,
    Whitening,
    check_choice,
    check_flag,
    check_positive,
    curvature_at,
    curvature_product,
    inverse_root,
    linearized,
    mode_near,
)


@dataclass(frozen=True)
class Laplace:
    r"""Independent draws from N(m, T H^-1), with m the mode and H the curvature there.

    H is the negative Hessian of the log density in which the network is replaced by its
    linearization at m: J^T L J + P for the weights (generalized Gauss-Newton), with J the
    Jacobian of the outputs, L the curvature of the likelihood with respect to the outputs, and P
    that of the prior. For the parameters of likelihood and prior, their coupling to the weights,
    and plain densities it is the Hessian itself; where that has negative curvature, its size is
    taken. The approximation is exact for the last layer with Gaussian noise that is known, and
    has a bias of unknown size elsewhere. Warmup does nothing, and may be 0 steps.

    Args:
        covariance: `"full"`, for up to 512 numbers, or `"diagonal"`, the inverse of the diagonal
            of H. Either costs as many gradients as there are numbers.
        find_mode: whether to climb to the mode first; otherwise m is the trained weights (and
            the parameters where they start).
        temperature: T; 1 is the posterior.

    Raises:
        OptionError: an option has an impossible value.

    Examples:
        >>> sorted(Laplace(covariance="diagonal").capabilities)
        ['fixed_cost', 'independent']

    References:
        MacKay (1992), "A practical Bayesian framework for backpropagation networks", section 3;
        Immer, Korzepa & Bauer (2021), "Improving predictions of Bayesian neural nets via local
        linearization", section 2; Daxberger et al. (2021), "Bayesian deep learning via
        subnetwork inference".
    """

    name: ClassVar[str] = "laplace"
    capabilities: ClassVar[frozenset[str]] = frozenset({"independent", "fixed_cost"})

    covariance: Literal["full", "diagonal"] = "full"
    find_mode: bool = True
    temperature: float = 1.0

    def __post_init__(self) -> None:
        """Check the options."""
        check_choice(("full", "diagonal"), covariance=self.covariance)
        check_flag(find_mode=self.find_mode)
        check_positive(temperature=self.temperature)

    def kernel(self, num_warmup: int) -> Kernel:
        """Return the pure functions; the state is the draw."""
        del num_warmup

        def shared(key: jax.Array, target: Target, position: Any) -> Whitening:
            found = laplace(key, target, position if self.find_mode else target.start, self)
            return Whitening(found.center, jnp.sqrt(self.temperature) * found.factor)

        def init(key: jax.Array, target: Target, shared: Whitening, position: Any) -> Any:
            del key, target, shared
            return position

        def step(
            key: jax.Array, target: Target, shared: Whitening, state: Any, t: Any
        ) -> tuple[Any, Stats]:
            del t
            noise = jax.random.normal(key, shared.center.shape, shared.center.dtype)
            position = shared.to_position(noise, state)
            return position, Stats(log_density=target.log_density(position), num_gradients=0)

        return Kernel(init, step, step, lambda state: state, shared)


def laplace(key: jax.Array, target: Target, position: Any, options: Laplace) -> Whitening:
    """Return mode m and a factor R of the covariance, R R^T = H^-1, at temperature 1.

    Args:
        key: random key.
        target: the log density.
        position: where to start climbing, or where to expand.
        options: `covariance` and `find_mode`.

    Raises:
        OptionError: there are too many numbers for a full covariance, or the scale of the prior
            is unknown.
    """
    if target.has_hyperparameters:
        raise OptionError(
            "The scale of the prior is unknown, and the joint mode of weights and their scale is "
            "at scale 0, so there is no normal approximation around it. Give the scale as a "
            "number, let prior='auto' choose it, or type backend='numpyro-nuts'"
        )
    flat, unravel = jax.flatten_util.ravel_pytree(position)
    size = flat.shape[0]
    if options.covariance == "full" and size > DENSE_LIMIT:
        raise OptionError(
            f"covariance='full' is for up to {DENSE_LIMIT} numbers, and {size} are sampled. Give "
            "covariance='diagonal', or choose fewer weights."
        )
    if options.find_mode:
        flat = mode_near(target, position)
    at = unravel(flat)
    linear = linearized(target, at)
    if options.covariance == "diagonal":
        return Whitening(flat, inverse_root(curvature_diagonal(linear, at)))
    return Whitening(flat, inverse_root(curvature_at(key, linear, at)))


def curvature_diagonal(target: Target, position: Any) -> jax.Array:
    """Return the diagonal `(d,)` of the negative Hessian of a log density, with d gradients."""
    flat = jax.flatten_util.ravel_pytree(position)[0]
    curve = curvature_product(target, position)

    def entry(i: jax.Array) -> jax.Array:
        return curve(jnp.zeros_like(flat).at[i].set(1))[i]

    return jax.lax.map(entry, jnp.arange(flat.shape[0]), batch_size=16)
