"""The snippets of the page on transformers that users come from, on real molecules.

Sizes that the page leaves free are small here, and runs are short.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest

import nbcore as nb
from nbcore import errors
from nbcore_flax import FlaxTransformer

SHORT: dict[str, Any] = {"num_chains": 1, "key": 0, "progress": False}


@pytest.fixture(scope="module")
def train_data() -> dict[str, np.ndarray]:
    """Molecules as the page names them: token ids, and the measured solubility."""
    molecules = nb.datasets.solubility()
    tokenizer = nb.datasets.SmilesTokenizer.fit(molecules.train_smiles)
    ids = tokenizer.encode(molecules.train_smiles)
    # Molecules of 12 to 20 tokens, filled up to 20: one length, so that programs compile once.
    short = np.flatnonzero((ids[:, 11] != 0) & (ids[:, 20:] == 0).all(axis=1))[:320]
    return {"input_ids": ids[short, :20], "solubility": molecules.train_y[short]}


@pytest.fixture(scope="module")
def transformer() -> nb.Network:
    """A small one; made once, so that programs compile once."""
    return nb.as_network(
        FlaxTransformer(
            vocab_size=10000, d_model=8, nhead=2, num_layers=1, dim_feedforward=8, target_dim=1,
        )
    )  # fmt: skip


@pytest.fixture(scope="module")
def det_model(train_data: dict[str, np.ndarray], transformer: nb.Network) -> nb.DeterministicNN:
    """The transformer, trained on the molecules."""
    det = nb.DeterministicNN(
        transformer, learning_rate=1e-2, weight_decay=0.01, swa={"start_pct": 0.5}
    )
    with pytest.warns(UserWarning, match="pad_token_id=0"):  # the page knows no padding
        return det.train(
            train_data["input_ids"], train_data["solubility"], epochs=2, batch_size=16,
            progress=False,
        )  # fmt: skip


def test_the_transformer_of_the_page_is_made_and_listed(capsys: pytest.CaptureFixture[str]) -> None:
    transformer = FlaxTransformer(
        vocab_size=10000,
        d_model=256,
        nhead=8,
        num_layers=4,
        dim_feedforward=1024,
        activation="silu",
        dropout_rate=0.1,
        target_dim=1,
        classification=False,
        max_seq_length=1024,
    )
    nb.print_layer_configs(transformer)
    lines = capsys.readouterr().out.splitlines()
    names = [line.split()[0] for line in lines[1:-1]]
    blocks = [
        f"Block{i}_{part}"
        for i in range(4)
        for part in ("Attention", "LayerNorm1", "MLP_dense1", "MLP_dense2", "LayerNorm2")
    ]
    assert names == ["TokenEmbed", "PosEmbed", *blocks, "FinalDense1", "FinalDense2"]
    shapes = jax.eval_shape(
        transformer.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 4), np.int32)
    )
    total = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    assert lines[-1].split() == ["total", f"{total:,}"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:X looks padded")
def test_three_whole_layers_are_sampled_on_thinned_data(
    train_data: dict[str, np.ndarray], transformer: nb.Network
) -> None:
    pbnn_model = nb.PartialBNN(
        transformer,
        probabilistic_layer_names=["TokenEmbed", "Block0_Attention", "FinalDense2"],
    )
    pbnn_model.fit(
        train_data["input_ids"][::10],  # every 10th example
        train_data["solubility"][::10],
        num_warmup=3,
        num_samples=4,
        calibration="holdout",
        training=nb.TrainingOptions(epochs=2, batch_size=16),
        backend=nb.get_backend("numpyro-nuts", max_tree_depth=2),
        **SHORT,
    )
    split = pbnn_model.posterior.split
    assert split is not None
    whole = {layer.name: layer.size for layer in split.layers}
    names = ("TokenEmbed", "Block0_Attention", "FinalDense2")
    assert split.size == sum(whole[name] for name in names)
    assert whole["TokenEmbed"] == 10000 * 8
    moved = {split.owner(path)[0].name for path in split.paths}
    assert moved == set(names)
    for path, draws in pbnn_model.posterior.draws["weights"].items():
        assert np.ptp(draws, axis=1).max() > 0, path
    mean, variance = pbnn_model.predict(train_data["input_ids"])
    assert mean.shape == variance.shape == train_data["solubility"].shape
    assert np.isfinite(mean).all()
    assert np.all(variance > 0)


METHODS = ["variance", "gradient", "magnitude", "clustering", "random"]


@pytest.mark.parametrize("method", METHODS)
def test_each_method_chooses_32_pairs_of_the_embedding(
    det_model: nb.DeterministicNN, method: str
) -> None:
    prob_indices = nb.select_bayesian_components(
        det_model, layer_names=["TokenEmbed"], method=method, num_pairs_per_layer=32
    )
    split = prob_indices.split(det_model.network, det_model.params)
    assert split.paths == ("params/TokenEmbed/embedding",)
    assert split.size == 32  # embeddings have no bias
    again = nb.select_bayesian_components(det_model, ["TokenEmbed"], method, 32)
    assert again == prob_indices


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:X looks padded")
def test_chosen_pairs_are_sampled_on_thinned_data(
    det_model: nb.DeterministicNN, train_data: dict[str, np.ndarray]
) -> None:
    prob_indices = nb.select_bayesian_components(
        det_model, layer_names=["TokenEmbed"], method="gradient", num_pairs_per_layer=32
    )
    pbnn_model = nb.PartialBNN(det_model.network, det_model, subset=prob_indices)
    pbnn_model.fit(
        train_data["input_ids"][::10],
        train_data["solubility"][::10],
        num_warmup=20,
        num_samples=20,
        **SHORT,
    )
    weights = pbnn_model.posterior.draws["weights"]
    assert {path: draws.shape for path, draws in weights.items()} == {
        "params/TokenEmbed/embedding": (1, 20, 32)
    }
    mean, variance = pbnn_model.predict(train_data["input_ids"][:5])
    assert mean.shape == variance.shape == (5,)


@pytest.mark.filterwarnings("ignore:X looks padded")
def test_thinned_data_of_one_kind_alone_is_refused(
    det_model: nb.DeterministicNN, train_data: dict[str, np.ndarray]
) -> None:
    model = nb.PartialBNN(det_model.network, det_model, probabilistic_layer_names=["FinalDense2"])
    with pytest.raises(errors.ShapeError, match=r"32 examples and y has 320"):
        model.fit(train_data["input_ids"][::10], train_data["solubility"])
