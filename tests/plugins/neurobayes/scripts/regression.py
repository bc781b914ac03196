"""A trained network, then the last layers of it sampled; sub-modules imported by their paths."""

import jax
import numpy as np
from numpyro.infer import Predictive

import nbcore_neurobayes as nb
from nbcore_neurobayes.flax_nets.mlp import FlaxMLP
from nbcore_neurobayes.models.partial_bnn import PartialBNN
from nbcore_neurobayes.utils import utils

rng = np.random.default_rng(1)
X = np.linspace(-1, 1, 60)[:, None]
y = np.sin(3 * X[:, 0]) + 0.1 * rng.normal(size=60)

net = FlaxMLP(hidden_dims=[12, 8], target_dim=1)
nb.print_layer_configs(net)
det = nb.DeterministicNN(net, input_shape=(1,), learning_rate=0.02, map=False)
det.train(X, y, epochs=150, batch_size=None)
outputs = det.model.apply({"params": det.state.params}, X, enable_dropout=False)

model = PartialBNN(det.model, det.get_params(), num_probabilistic_layers=1)
model.fit(X, y, num_warmup=40, num_samples=40, rng_key=jax.random.PRNGKey(1), progress_bar=False)
mean, variance = model.predict(X)
samples = model.get_samples()
again = Predictive(model._model.model, samples)(jax.random.PRNGKey(2), X)
error, inside = utils.rmse(mean, y), utils.coverage(y, mean.squeeze(), variance.squeeze())

chosen = nb.PartialBNN(FlaxMLP([12, 8], 1), num_probabilistic_layers=1)
config = {"method": "magnitude", "layer_names": ["Dense1"], "num_pairs_per_layer": 2}
chosen.fit(X, y, 10, 10, sgd_epochs=20, select_neurons_config=config, progress_bar=False)
parts = chosen.get_samples()
