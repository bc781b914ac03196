"""An ensemble that is saved into one file, and loaded by its name alone."""

import os
import tempfile

import numpy as np

import nbcore_neurobayes as nb
from nbcore_neurobayes.flax_nets.ensemble import EnsembleDeterministicNN

rng = np.random.default_rng(5)
X = rng.uniform(size=(60, 2))
y = X[:, 0] + 2 * X[:, 1] + 0.05 * rng.normal(size=60)

ensemble = EnsembleDeterministicNN(
    architecture=nb.FlaxMLP([8], 1), input_shape=2, num_models=3, learning_rate=0.02
)
fresh = [model.state.params for model in ensemble.models]
before = ensemble.trained
try:
    ensemble.predict(X)
except ValueError:
    refused = True
ensemble.train(X, y, epochs=100, batch_size=20)
mean, variance, members = ensemble.predict(X, return_individual=True)

with tempfile.NamedTemporaryFile(suffix=".npy", delete=False) as file:
    ensemble.save_ensemble(file.name)
loaded = EnsembleDeterministicNN.load_ensemble(file.name)
os.unlink(file.name)
loaded_mean, loaded_variance = loaded.predict_in_batches(X, batch_size=25)
