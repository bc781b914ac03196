"""A network is trained on many examples, then further on few of another kind, then sampled."""

import jax
import numpy as np

import nbcore_neurobayes as nb

rng = np.random.default_rng(7)
X1 = rng.uniform(-1, 1, size=(100, 2))
y1 = X1[:, 0] * X1[:, 1]
X2 = rng.uniform(-1, 1, size=(12, 2))
y2 = X2[:, 0] * X2[:, 1] + 0.5

source = nb.DeterministicNN(nb.FlaxMLP([16], 1), input_shape=(2,), learning_rate=0.02, map=False)
source.train(X1, y1, epochs=300, batch_size=50)

target = nb.DeterministicNN(source.model, input_shape=(2,), learning_rate=0.01, map=False)
target.state = target.state.replace(params=source.state.params)
before = target.predict(X2)
target.train(X2, y2, epochs=40)
middle = target.predict(X2)
target.reset_swa()
target.update_learning_rate(0.002)
target.train(X2, y2, epochs=40)
after = target.predict(X2)
moved = jax.tree.map(lambda a, b: float(abs(a - b).max()), target.get_params(), source.get_params())

model = nb.PartialBayesianMLP(
    mlp=target.model,
    deterministic_weights=target.average_params(),
    probabilistic_layer_names=["Dense1"],
)
model.fit(X2, y2, 40, 40, priors_sigma=0.2, run_diagnostics=True, progress_bar=False)
mean, variance = model.predict(X1)
