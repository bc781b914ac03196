"""Two classes: a network, a Bayesian network, and one whose output layer alone is Bayesian."""

import jax
import numpy as np

import nbcore_neurobayes as nb

rng = np.random.default_rng(0)
X = rng.normal(size=(80, 2))
y = (X[:, 0] * X[:, 1] > 0).astype(int)

architecture = nb.FlaxMLP(hidden_dims=[8, 8], target_dim=2, classification=True)
detnn = nb.DeterministicNN(
    architecture,
    input_shape=X.shape,
    loss="classification",
    learning_rate=0.02,
    map=False,
    swa_config={"schedule": "linear", "start_pct": 0.75, "swa_lr": 1e-3},
)
detnn.train(X, y, epochs=120)
trained = detnn.predict(X)

bnn = nb.BNN(nb.FlaxMLP(hidden_dims=[8], target_dim=2), num_classes=2)
bnn.fit(X=X, y=y, num_warmup=20, num_samples=20, progress_bar=False)
key = jax.random.PRNGKey(0)
curves = bnn.sample_from_posterior(key, X, bnn.get_samples(), return_sites=["probs"])["probs"]

pbnn = nb.PartialBNN(
    detnn.model, detnn.state.params, probabilistic_layer_names=["Dense2"], num_classes=2
)
pbnn.fit(X, y, num_warmup=50, num_samples=50, progress_bar=False)
probabilities, entropy = pbnn.predict(X)
classes = pbnn.predict_classes(X_new=X)
