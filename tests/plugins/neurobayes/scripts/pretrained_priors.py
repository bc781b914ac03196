"""A Bayesian network of few measurements, around weights trained on a theory of them."""

import numpy as np
import numpyro.distributions as dist

import nbcore_neurobayes as nb
from nbcore_neurobayes.utils import get_prior_means_from_samples

rng = np.random.default_rng(4)
X1 = np.linspace(-2, 2, 100)[:, None]
y1 = np.sin(2 * X1)
X2 = rng.uniform(-2, 2, size=(8, 1))
y2 = np.sin(2 * X2) + 0.2 * X2 + 0.05 * rng.normal(size=(8, 1))

net = nb.FlaxMLP([16, 8], 1)
detnn = nb.DeterministicNN(
    net, (1,), learning_rate=0.02, map=True, sigma=nb.utils.calculate_sigma(X1)
)
detnn.train(X1, y1, epochs=300, batch_size=None)

model = nb.BNN(net, noise_prior=dist.HalfNormal(0.1), pretrained_priors=detnn.state.params)
model.fit(X2, y2, num_warmup=60, num_samples=60, priors_sigma=0.1, progress_bar=False)
posterior_mean, posterior_var = model.predict(X1)
fields = model.mcmc.get_extra_fields()
last_state = model.mcmc.last_state

means = get_prior_means_from_samples(model.get_samples())
second = nb.BNN(net, noise_prior=dist.HalfNormal(0.1), pretrained_priors=means)
second.fit(X2, y2, num_warmup=5, num_samples=5, num_chains=2, progress_bar=False)
by_chain = second.get_samples(chain_dim=True)
