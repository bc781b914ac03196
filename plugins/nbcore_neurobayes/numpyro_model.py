"""Common parts of the NumPyro models of networks: sites of the weights, and noise priors."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from numpyro import distributions as dist

import nbcore
from nbcore.errors import OptionError
from nbcore_neurobayes.sites import site_names


class SampledNetwork(NamedTuple):
    """A network, the weights of it that have sites, and the units of its outputs.

    Args:
        network: the network.
        split: stochastic and frozen weights.
        center: center of the prior of each stochastic leaf.
        sites: name of each stochastic leaf.
        shift: mean of y where outputs are zero.
        scale: unit of the outputs in units of y.
    """

    network: nbcore.Network
    split: nbcore.ParameterSplit
    center: dict[str, Any]
    sites: dict[str, str]
    shift: Any
    scale: Any

    @staticmethod
    def of(
        network: nbcore.Network,
        split: nbcore.ParameterSplit,
        scaler: Any,
        *,
        is_whole_network: bool,
        around_zero: bool,
    ) -> SampledNetwork:
        """Return the sampled network of a split.

        Args:
            network: the network.
            split: stochastic and frozen weights.
            scaler: units of y; `None` if outputs are in y's own.
            is_whole_network: whether the network is sampled as a whole by its class.
            around_zero: whether the prior is centered at zero (at one for scales of norms).
        """
        center = dict(split.position)
        if around_zero:
            ones = [path for path in split.paths if split.owner(path)[1].role == "scale"]
            center = {p: jnp.full_like(w, float(p in ones)) for p, w in center.items()}
        sites = site_names(split, is_whole_network=is_whole_network)
        shift, scale = (0.0, 1.0) if scaler is None else (scaler.shift, scaler.scale)
        return SampledNetwork(network, split, center, sites, shift, scale)

    def outputs(self, X: Any, sigma: float) -> jax.Array:
        """Sample the weights, and return the outputs `(examples, outputs)` of the network."""
        weights: dict[str, Any] = {
            path: numpyro.sample(
                self.sites[path], dist.Normal(center, sigma).to_event(jnp.ndim(center))
            )
            for path, center in self.center.items()
        }
        found = self.network.apply(self.split.merge(weights), jnp.asarray(X))
        return jnp.reshape(jnp.asarray(found), (len(X), -1))


def noise_distribution(prior: Any, scale: Any, shape: tuple[int, ...]) -> Any:
    """Return the distribution of NumPyro that a prior of the noise is.

    Args:
        prior: a prior of nbcore, or a distribution of NumPyro.
        scale: factor from the units of the prior to those of y.
        shape: shape of the noise.

    Raises:
        OptionError: the prior is of another class, which NumPyro does not know.
    """
    if isinstance(prior, nbcore.HalfNormal):
        made: Any = dist.HalfNormal(_shaped(np.asarray(prior.scale) * scale, shape))
    elif isinstance(prior, nbcore.LogNormal):
        median = _shaped(np.asarray(prior.median) * scale, shape)
        made = dist.LogNormal(jnp.log(median), prior.spread)
    elif isinstance(prior, dist.Distribution):
        made = prior
    elif not hasattr(prior, "values"):
        raise OptionError(
            f"NumPyro knows its own distributions, and noise_prior is {prior!r}. Give one of "
            "numpyro.distributions, nbcore.HalfNormal or nbcore.LogNormal."
        )
    else:
        unit = _shaped(np.asarray(prior.values.unit) * scale, ())
        to_units = dist.transforms.AffineTransform(0.0, unit, dist.constraints.positive)
        made = dist.TransformedDistribution(prior.values.distribution, to_units)
    return made if made.batch_shape == shape else made.expand(shape)


def _shaped(values: Any, shape: tuple[int, ...]) -> Any:
    each = jnp.ravel(jnp.asarray(values, float))
    return jnp.reshape(each, shape) if each.size == np.prod(shape) else each[0]
