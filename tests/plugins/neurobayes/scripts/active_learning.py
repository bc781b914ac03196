"""Measurements are added where the predictive variance is largest."""

import jax
import numpy as np

import nbcore_neurobayes as nb

rng = np.random.default_rng(6)
X_domain = np.linspace(0, 3, 50)


def measure(x):
    """Measure a curve."""
    return np.where(x < 1.7, x**2, 3 - x) + 0.02 * rng.normal(size=np.shape(x))


X_measured = X_domain[::10]
y_measured = measure(X_measured)
for step in range(2):
    model = nb.PartialBNN(nb.FlaxMLP([8, 8], 1), num_probabilistic_layers=1)
    model.fit(
        X_measured, y_measured, num_warmup=40, num_samples=40, sgd_epochs=100, sgd_lr=0.02,
        rng_key=jax.random.PRNGKey(step), progress_bar=False,
        max_num_restarts=2, min_accept_prob=0.1,
    )  # fmt: skip
    posterior_mean, posterior_var = model.predict(X_domain)
    X_next = X_domain[posterior_var.argmax()]
    X_measured = np.append(X_measured, X_next)
    y_measured = np.append(y_measured, measure(X_next))
