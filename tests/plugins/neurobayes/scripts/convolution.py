"""Images: a convolutional network of which a few channels and the output are Bayesian."""

import numpy as np

import nbcore_neurobayes as nb
from nbcore_neurobayes.flax_nets.convnet import FlaxConvNet, FlaxConvNet2Head

rng = np.random.default_rng(8)
X = rng.normal(size=(16, 4, 4, 1))
y = X[:, :2].mean(axis=(1, 2, 3)) - X[:, 2:].mean(axis=(1, 2, 3))

cnn = FlaxConvNet(input_dim=2, conv_layers=[3, 4], fc_layers=[6], target_dim=1, kernel_size=3)
det = nb.DeterministicNN(
    cnn, input_shape=(4, 4, 1), learning_rate=0.01, map=False, collect_gradients=True
)
initial = det.predict(X)
det.train(X, y, epochs=30, batch_size=8)
pairs = nb.select_bayesian_components(det, ["Conv1", "Dense0"], "gradient", 3)

model = nb.PartialBayesianConvNet(
    convnet=cnn,
    deterministic_weights=det.get_params(),
    probabilistic_layer_names=["Conv1", "Dense0", "Dense1"],
    probabilistic_neurons=pairs,
)
model.fit(X, y, num_warmup=10, num_samples=10, priors_sigma=0.1, progress_bar=False)
mean, variance = model.predict(X_new=X)

two_heads = FlaxConvNet2Head(2, [2], [4], 1, "tanh", 0.25)
bnn = nb.HeteroskedasticBNN(two_heads)
bnn.fit(X, y, num_warmup=4, num_samples=4, progress_bar=False)
noise = bnn.predict_noise(X)[0]
