"""Noise that is a function of x whose parameters may have any sign."""

import jax.numpy as jnp
import numpy as np
import numpyro

import nbcore_neurobayes as nb

rng = np.random.default_rng(3)
X = np.sort(rng.uniform(-1, 1, 80))[:, None]
y = X[:, 0] ** 2 + np.exp(-2 - 1.0 * X[:, 0]) * rng.normal(size=80)


def spread(x, a, b):
    """Variance that grows or falls with x."""
    return a**2 * jnp.exp(b * x)


noise_model = nb.utils.set_fn(spread)
noise_prior = nb.priors.auto_normal_priors(spread)
bnn = nb.VarianceModelHeteroskedasticBNN(nb.FlaxMLP([6], 1), noise_model, noise_prior)
bnn.fit(X, y, num_warmup=100, num_samples=100, progress_bar=False)
predicted, _ = bnn.predict_noise(X)
samples = bnn.get_samples()


def own_prior():
    """Call NumPyro, and a helper; one parameter follows from another."""
    floor = numpyro.sample("floor", numpyro.distributions.HalfNormal(0.1))
    slope = nb.priors.place_normal_prior("slope", 0.0, 0.1)
    return {"floor": floor, "slope": slope, "twice": 2 * floor}


def line(x, params):
    """Variance that is a straight line."""
    return params["twice"] + params["slope"] * x[:, 0]


other = nb.VarianceModelHeteroskedasticBNN(nb.FlaxMLP([6], 1), line, own_prior)
other.fit(X, y, num_warmup=30, num_samples=30, progress_bar=False)
slopes = other.mcmc.get_samples()["slope"]
