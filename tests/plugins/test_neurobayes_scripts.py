"""Scripts in the idioms of NeuroBayes run after `import nbcore_neurobayes as nb`."""

from __future__ import annotations

import ast
import runpy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib
import numpy as np
import pytest

import nbcore_neurobayes

matplotlib.use("Agg")
SCRIPTS = Path(__file__).parent / "neurobayes" / "scripts"
pytestmark = pytest.mark.filterwarnings("ignore")


def regression(s: Any) -> None:
    np.testing.assert_allclose(s.outputs, s.det.predict(s.X), rtol=1e-4, atol=1e-5)
    assert s.det.model is s.net
    assert s.mean.shape == s.variance.shape == (60, 1)
    assert s.error < 0.2
    assert s.inside > 0.8
    assert s.samples["sig"].shape == (40,)
    assert s.samples["Dense2/Dense2.kernel"].shape == (40, 8, 1)
    np.testing.assert_allclose(s.again["mu"], s.samples["mu"], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(s.mean, s.samples["mu"].mean(axis=0), rtol=1e-3, atol=1e-4)
    # Dense1 in two pairs, the output layer whole.
    assert s.parts["Dense1_kernel_prob"].shape == (10, 2)
    assert s.parts["Dense2/Dense2.kernel"].shape == (10, 8, 1)
    assert [c["probabilistic_neurons"] is None for c in s.chosen.layer_configs] == [
        True,
        False,
        True,
    ]
    assert s.chosen.deterministic_weights["Dense0"]["kernel"].shape == (1, 12)


def classification(s: Any) -> None:
    assert s.trained.shape == s.probabilities.shape == (80, 2)
    np.testing.assert_allclose(s.trained.sum(axis=1), 1, rtol=1e-5)
    assert s.curves.shape == (20, 80, 2)
    assert s.entropy.shape == s.classes.shape == (80,)
    assert np.mean(s.classes == s.y) > 0.8
    assert set(s.bnn.get_samples()) >= {"probs", "nn/Dense1.kernel"}


def heteroskedastic(s: Any) -> None:
    assert s.mean.shape == s.variance.shape == s.noise.shape == (80, 1)
    assert s.noise[-10:].mean() > 2 * s.noise[:10].mean()
    assert np.all(s.noise_variance > 0)
    assert s.draws["sig"].shape == s.draws["mu"].shape == (30, 80, 1)
    np.testing.assert_allclose(s.noise, s.draws["sig"].mean(axis=0), rtol=1e-4)
    assert "LogScaleHead/LogScaleHead.kernel" in s.draws


def noise_model(s: Any) -> None:
    assert s.samples["a"].shape == s.samples["b"].shape == (100,)
    assert s.samples["b"].mean() < 0  # the noise falls with x
    assert s.predicted[:10].mean() > s.predicted[-10:].mean()
    assert np.any(s.slopes < 0)
    assert set(s.other.get_samples()) >= {"floor", "slope", "mu", "sig"}


def pretrained_priors(s: Any) -> None:
    assert s.posterior_mean.shape == (100, 1)
    np.testing.assert_allclose(s.posterior_mean, s.y1[:, 0][:, None] + 0.2 * s.X1, atol=0.6)
    assert s.fields["accept_prob"].shape == (60,)
    assert s.last_state.z["sig"] == s.model.get_samples()["sig"][-1]
    assert s.second.mcmc.num_chains == 2
    assert s.by_chain["nn/Dense0.kernel"].shape == (2, 5, 1, 16)
    np.testing.assert_allclose(
        s.means["Dense2"]["bias"], s.model.get_samples()["nn/Dense2.bias"].mean(axis=0), rtol=1e-5
    )


def smiles(s: Any) -> None:
    assert s.errors["TokenEmbed"] < np.std(s.solubility)
    assert len(s.chosen["TokenEmbed"]["TokenEmbed"]) == 10
    assert set(s.chosen["Block0_Attention"]["Block0_Attention"]) == {"query", "key", "value", "out"}
    assert s.variance.shape == (24, 1)
    assert {"Block0_Attention_query_kernel_prob", "Block0_Attention_out_bias_prob"} < s.names


def ensemble(s: Any) -> None:
    assert s.refused
    assert not s.before
    kernels = [params["Dense0"]["kernel"] for params in s.fresh]
    assert np.abs(kernels[0] - kernels[1]).max() > 0.1
    assert s.mean.shape == s.variance.shape == (60, 1)
    assert len(s.members) == 3
    np.testing.assert_allclose(s.loaded_mean, s.mean, rtol=1e-6)
    np.testing.assert_allclose(s.loaded_variance, s.variance, rtol=1e-6)
    assert s.loaded.trained
    assert (s.loaded.num_models, s.loaded.input_shape) == (3, 2)


def active_learning(s: Any) -> None:
    assert len(s.X_measured) == 7
    assert s.X_next in s.X_domain
    assert s.posterior_mean.shape == (50, 1)


def transfer_learning(s: Any) -> None:
    np.testing.assert_allclose(s.before, s.source.predict(s.X2), rtol=1e-4, atol=1e-5)

    def error(predicted: Any) -> float:
        return float(np.abs(predicted[:, 0] - s.y2).mean())

    assert error(s.after) <= 1.05 * error(s.middle) < error(s.before)
    assert 0 < s.moved["Dense0"]["kernel"] < 1  # it went on from the weights that there were
    assert s.mean.shape == (100, 1)
    assert s.model.diagnostic_results["by_layer"]["Dense1"]["num_params"] == 17


def convolution(s: Any) -> None:
    assert s.initial.shape == s.mean.shape == s.variance.shape == (16, 1)
    assert [len(s.pairs[name]) for name in ("Conv1", "Dense0")] == [3, 3]
    assert s.model.get_samples()["Conv1_kernel_prob"].shape[0] == 10
    assert s.two_heads.conv_dropout == 0.25
    assert s.noise.shape == (16, 1)


CHECKS: list[Callable[[Any], None]] = [
    regression, classification, heteroskedastic, noise_model, pretrained_priors, smiles, ensemble,
    active_learning, transfer_learning, convolution,
]  # fmt: skip


# They compile the most; what they check has tests of its own in the files beside this one.
SLOW = (smiles, convolution, noise_model)
SCRIPT_CHECKS = [
    pytest.param(check, marks=pytest.mark.slow if check in SLOW else (), id=check.__name__)
    for check in CHECKS
]


@pytest.mark.parametrize("check", SCRIPT_CHECKS)
def test_a_script_of_neurobayes_runs(check: Callable[[Any], None]) -> None:
    check(SimpleNamespace(**runpy.run_path(str(SCRIPTS / f"{check.__name__}.py"))))


def test_scripts_name_the_package_in_their_imports_alone() -> None:
    assert {path.stem for path in SCRIPTS.glob("*.py")} == {check.__name__ for check in CHECKS}
    for path in SCRIPTS.glob("*.py"):
        text = path.read_text("utf-8")
        lines = {
            line
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
        }
        named = {i for i, line in enumerate(text.splitlines(), 1) if "nbcore" in line}
        assert named
        assert named <= lines
    assert nbcore_neurobayes.__name__ == "nbcore_neurobayes"
