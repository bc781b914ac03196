"""Noise that grows with x, in a second head of the network: wholly and partially Bayesian."""

import numpy as np

import nbcore_neurobayes as nb
from nbcore_neurobayes.flax_nets import FlaxMLP2Head
from nbcore_neurobayes.models.bnn_heteroskedastic import HeteroskedasticBNN

rng = np.random.default_rng(2)
X = np.sort(rng.uniform(0, 1, 80))
y = 2 * X + (0.02 + 0.3 * X) * rng.normal(size=80)

bnn = HeteroskedasticBNN(FlaxMLP2Head([6], 1))
bnn.fit(X, y, num_warmup=20, num_samples=20, progress_bar=False)
mean, variance = bnn.predict(X)

pbnn = nb.HeteroskedasticPartialBNN(
    deterministic_nn=FlaxMLP2Head(hidden_dims=[12], target_dim=1),
    probabilistic_layer_names=["Dense0", "MeanHead", "VarianceHead"],
)
pbnn.fit(
    X, y, sgd_epochs=150, sgd_lr=0.02, num_warmup=30, num_samples=30, priors_sigma=0.5,
    progress_bar=False,
)  # fmt: skip
noise, noise_variance = pbnn.predict_noise(X)
draws = pbnn.get_samples()
