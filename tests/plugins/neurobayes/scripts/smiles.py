"""A transformer that reads SMILES; some of its embeddings, then of its attention, are Bayesian."""

import numpy as np

import nbcore_neurobayes as nb

smiles = ["CCO", "CCCC", "c1ccccc1", "CC(=O)O", "CCN", "CCCCCC", "OCCO", "CC(C)C"] * 3
solubility = np.array([s.count("O") - 0.5 * s.count("C") for s in smiles], dtype=np.float32)
alphabet = sorted(set("".join(smiles)))
X = np.zeros((len(smiles), 10), dtype=np.int32)
for row, text in zip(X, smiles, strict=True):
    row[: len(text)] = [1 + alphabet.index(letter) for letter in text]

transformer = nb.flax_nets.FlaxTransformer(
    vocab_size=len(alphabet) + 1, d_model=8, nhead=2, num_layers=1, dim_feedforward=16
)
nn_model = nb.DeterministicNN(
    architecture=transformer,
    input_shape=10,
    learning_rate=5e-3,
    map=False,
    swa_config={"schedule": "constant", "start_pct": 0.9},
    collect_gradients=False,
)
nn_model.train(X, solubility, epochs=40, batch_size=8)
nb.print_layer_configs(nn_model.model)

errors, chosen = {}, {}
for layer, pairs in (("TokenEmbed", 10), ("Block0_Attention", 8)):
    chosen[layer] = nb.select_bayesian_components(
        nn_model, layer_names=[layer], method="VARIANCE", num_pairs_per_layer=pairs
    )
    pbnn = nb.PartialBayesianTransformer(
        nn_model.model,
        deterministic_weights=nn_model.get_params(),
        probabilistic_layer_names=[layer],
        probabilistic_neurons=chosen[layer],
    )
    pbnn.fit(X[::2], solubility[::2], num_warmup=10, num_samples=10, progress_bar=False)
    predictions, variance = pbnn.predict(X)
    errors[layer] = nb.utils.rmse(predictions.squeeze(), solubility)
names = set(pbnn.get_samples())
