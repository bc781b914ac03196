"""The conformance kit accepts what is right and names what is wrong."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import jax
import numpy as np
import pytest
from samplers import PlainHMC

import nbcore as nb
from nbcore.common.paths import leaves_by_path
from nbcore.extend import Spec
from nbcore.networks.inference import infer_layers
from nbcore.targets.target import NetworkTarget
from nbcore.testing import (
    ConformanceError,
    NetworkCase,
    checks_for,
    installed,
    oracle_report,
    parametrize_with_checks,
)
from nbcore.testing.cases import Installed
from nbcore.testing.example import TOKENS, apply, example_network, init
from nbcore_flax import FlaxMLP, FlaxTransformer

ROOT = Path(__file__).parents[2]
EXTENDING = ROOT / "docs" / "extending.md"


def page_scope() -> dict[str, Any]:
    """Run the page, as its own test does, and return what it defines."""
    path = Path(__file__).parents[1] / "test_docs.py"
    return runpy.run_path(str(path))["run"](EXTENDING)


PAGE = page_scope()
test_the_sampler_of_the_page = PAGE["test_my_sampler"]
test_the_selector_of_the_page = PAGE["test_my_selector"]
test_the_adapter_of_the_page = PAGE["test_my_adapter"]
test_the_distributions_of_the_page = PAGE["test_my_distributions"]

MLP = NetworkCase(FlaxMLP(hidden_dims=(4,), target_dim=2), np.ones((5, 3), np.float32))
TRANSFORMER = NetworkCase(
    FlaxTransformer(
        vocab_size=7, d_model=8, nhead=2, num_layers=1, dim_feedforward=6, pad_token_id=0,
        dropout_rate=0.1,
    ),
    TOKENS,
)  # fmt: skip


@parametrize_with_checks([MLP, NetworkCase(example_network(), TOKENS)])
def test_our_networks_conform(subject: NetworkCase, check: Any) -> None:
    check(subject)


@pytest.mark.slow
@parametrize_with_checks([TRANSFORMER])
def test_our_transformer_conforms(subject: NetworkCase, check: Any) -> None:
    check(subject)


def failures(subject: Any, *, only: set[str] | None = None, slow: bool = False) -> dict[str, str]:
    """Return the message of every check that a subject fails, by name."""
    found: dict[str, str] = {}
    for check in checks_for(subject):
        if (only is None and (slow or not check.slow)) or (only is not None and check.name in only):
            try:
                check(subject)
            except ConformanceError as error:
                found[check.name] = str(error)
    return found


def with_density(kernel: nb.Kernel, density: Callable[[Any, Any], Any]) -> nb.Kernel:
    """Return a kernel that samples another density of the target and the position."""

    def wrapped(function: Any) -> Any:
        def call(key: Any, target: NetworkTarget, *rest: Any) -> Any:
            other = nb.Target.from_log_density(lambda z: density(target, z), target.start)
            return function(key, other, *rest)

        return call

    functions = {name: wrapped(getattr(kernel, name)) for name in ("init", "warmup", "step")}
    return kernel._replace(**functions)


@dataclass(frozen=True)
class TooHot(PlainHMC):
    """At temperature 1.3."""

    def kernel(self, num_warmup: int) -> nb.Kernel:
        kernel = super().kernel(num_warmup)
        return with_density(kernel, lambda target, z: target.log_density(z) / 1.3)


@dataclass(frozen=True)
class WidePrior(PlainHMC):
    """With a prior of twice the scale: a quarter of the log density, up to a constant."""

    def kernel(self, num_warmup: int) -> nb.Kernel:
        def density(target: NetworkTarget, z: Any) -> Any:
            return target.log_density(z) - 0.75 * target.log_prior(z)

        return with_density(super().kernel(num_warmup), density)


@dataclass(frozen=True)
class NoWarmup(PlainHMC):
    """Keeps what should be warmup: steps of a thousandth, from wherever the chain was put."""

    def kernel(self, num_warmup: int) -> nb.Kernel:
        kernel = super().kernel(num_warmup)

        def warmup(key: Any, target: Any, shared: Any, state: Any, t: Any) -> Any:
            _, stats = kernel.step(key, target, shared, state, t)
            return state, stats

        return kernel._replace(warmup=warmup, step=kernel.warmup)


@pytest.mark.parametrize(
    ("wrong", "check"),
    [
        (TooHot(), "closed_form"),
        (WidePrior(), "closed_form"),
        (NoWarmup(step_size=0.001), "skewed_target"),
    ],
    ids=lambda value: getattr(type(value), "__name__", "") if not isinstance(value, str) else value,
)
def test_a_wrong_sampler_fails_the_right_check(wrong: Any, check: str) -> None:
    found = failures(wrong, only={check})
    assert list(found) == [check]
    for part in ("measured:", "limit:", "often:"):
        assert part in found[check]


@dataclass(frozen=True)
class Careless(PlainHMC):
    """Breaks the contract rather than the statistics."""

    def kernel(self, num_warmup: int) -> nb.Kernel:
        kernel = super().kernel(num_warmup)

        def init(key: Any, target: Any, shared: Any, position: Any) -> Any:
            return kernel.init(key, target, shared, position)

        def step(key: Any, target: Any, shared: Any, state: Any, t: Any) -> Any:
            state, stats = kernel.step(key, target, shared, state, t)
            return state, stats._replace(log_density=stats.log_density + 7, acceptance_rate=-1.0)

        return kernel._replace(init=init, warmup=step, step=step)


@dataclass(frozen=True)
class Boasting(PlainHMC):
    """Declares what nobody knows."""

    capabilities: ClassVar[frozenset[str]] = frozenset({"exact", "quick"})


def test_a_careless_sampler_is_told_what_it_breaks() -> None:
    found = failures(Careless(), only={"statistics_mean_what_they_say"})
    assert "acceptance_rate" in found["statistics_mean_what_they_say"]
    found = failures(Boasting(), only={"capabilities_are_announced"})
    assert "'quick'" in found["capabilities_are_announced"]


@dataclass(frozen=True)
class Dicing:
    """A selector that rolls dice."""

    name: ClassVar[str] = "dicing"
    needs: ClassVar[frozenset[str]] = frozenset()

    def score(self, context: Any, layer: nb.Layer) -> dict[str, Any]:
        return {leaf.path: np.random.random(leaf.shape) for leaf in layer.weights}


@dataclass(frozen=True)
class Peeking:
    """Needs a trajectory and does not say so."""

    name: ClassVar[str] = "peeking"
    needs: ClassVar[frozenset[str]] = frozenset()

    def score(self, context: Any, layer: nb.Layer) -> dict[str, Any]:
        values = leaves_by_path(context.trajectory.variance)
        return {leaf.path: values[leaf.path] for leaf in layer.weights}


@dataclass
class Unfrozen:
    """A selector whose options can change."""

    name: ClassVar[str] = "unfrozen"
    needs: ClassVar[frozenset[str]] = frozenset()
    score = Peeking.score


def test_wrong_selectors_fail_the_right_checks() -> None:
    found = failures(Dicing(), only={"same_key_same_subset", "budget_is_met_exactly"})
    assert set(found) == {"same_key_same_subset"}
    assert failures(Unfrozen(), only={"options_are_frozen_and_hashable"})
    assert list(failures(Peeking(), only={"needs_are_all_it_uses"})) == ["needs_are_all_it_uses"]


def dropping(params: Any, x: Any, *, train: bool = False, key: Any = None) -> Any:
    key = jax.random.key(0) if key is None else key
    outputs = apply(params, x)
    return outputs * jax.random.bernoulli(key, 0.5, outputs.shape) if train else outputs


def transposed(params: Any) -> tuple[nb.Layer, ...]:
    """Say that the head's kernel is stored as (out, in), which it is not."""
    layers = nb.as_network((init, apply), example=TOKENS[:1]).layers(params)
    flipped = [replace(f, pair_axes=f.pair_axes[::-1]) for f in layers[-1].leaves]
    return (*layers[:-1], replace(layers[-1], leaves=tuple(flipped)))


@pytest.mark.parametrize(
    ("network", "check"),
    [
        (nb.Network.from_functions(init, dropping), "dropout_needs_a_key"),
        (
            nb.Network.from_functions(init, lambda p, x: apply(p, x)[0]),
            "outputs_have_an_example_axis",
        ),
        (
            nb.Network.from_functions(init, apply, layers=lambda p: infer_layers(p)[1:]),
            "layers_describe_the_parameters",
        ),
    ],
    ids=["default key", "no example axis", "forgotten layer"],
)
def test_a_wrong_network_fails_the_right_check(network: nb.Network, check: str) -> None:
    assert check in failures(NetworkCase(network, TOKENS))


def test_axes_in_the_wrong_order_are_found() -> None:
    def square(params: Any, x: Any) -> Any:
        return x @ params["Head"]["kernel"]

    def layers(params: Any) -> tuple[nb.Layer, ...]:
        kernel = nb.Leaf("Head/kernel", "kernel", (3, 3), (1, 0), ("in", "out"))
        return (nb.Layer("Head", "dense", (kernel,), order=0, is_output=True),)

    def start(key: Any, x: Any) -> Any:
        return {"Head": {"kernel": jax.random.normal(key, (3, 3))}}

    case = NetworkCase(nb.Network.from_functions(start, square, layers=layers), np.ones((4, 3)))
    message = failures(case, only={"pairs_reach_their_outputs"})["pairs_reach_their_outputs"]
    assert "pair_axes" in message


def test_a_bias_that_is_no_matter_of_the_step_size_is_found() -> None:
    @dataclass(frozen=True)
    class Inexact(TooHot):
        capabilities: ClassVar[frozenset[str]] = frozenset({"adaptive"})
        bias_tolerance: ClassVar[float] = 0.05

    found = failures(Inexact(), only={"bias_within_tolerance"})
    assert "0.050" in found["bias_within_tolerance"]


@pytest.mark.slow
def test_a_sampler_that_cannot_arrive_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from nbcore.testing import runs

    monkeypatch.setattr(runs, "MAX_GRADIENTS", 10_000)

    @dataclass(frozen=True)
    class Stuck(NoWarmup):
        step_size: float = 1e-6
        target_acceptance_rate: float = 0.999

    message = failures(Stuck(), only={"closed_form"})["closed_form"]
    assert "mixes too slowly" in message
    assert "10,000 gradients" in message
    assert "dimension 10, condition number" in message
    assert "started at trained" in message
    assert "by chain, step size 1e-06, 1e-06, 1e-06, 1e-06 and acceptance" in message
    assert "nb.sample(nbcore.testing.oracle.oracle().target, " in message


def test_the_figures_of_a_backend_are_a_row() -> None:
    row = oracle_report(PlainHMC())
    assert row.backend == "plain-hmc"
    assert row.ess >= 1000
    assert row.mean_error < 4
    assert str(row).startswith("| plain-hmc | ")
    assert str(row).count("|") == 7


def test_checks_are_chosen_by_what_is_declared() -> None:
    names = {s.spec.name: {c.name for c in checks_for(s)} for s in installed("backend")}
    assert "closed_form" in names["numpyro-nuts"]
    assert "bias_within_tolerance" in names["sgld"]
    assert "rank_uniformity" in names["numpyro-nuts"]
    assert not names["sgld"] & {"closed_form", "skewed_target", "rank_uniformity"}
    with pytest.raises(nb.errors.OptionError, match="NetworkCase"):
        checks_for(3)


def test_checks_are_chosen_by_the_options_that_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass(frozen=True)
    class Free:
        name: ClassVar[str] = "free"
        capabilities: ClassVar[frozenset[str]] = frozenset()

        def kernel(self, num_warmup: int) -> nb.Kernel:
            raise NotImplementedError

    @dataclass(frozen=True)
    class Sized(Free):
        step_size: float = 0.1

    without, names = ({c.name for c in checks_for(s)} for s in (Free(), Sized()))
    assert names - without == {"bias_falls_with_the_step_size"}
    (rule,) = (c for c in checks_for(Sized()) if c.name not in without)
    monkeypatch.setattr(Installed, "build", lambda _: Free())
    with pytest.raises(pytest.skip.Exception, match="free has no option step_size"):
        rule(Installed("backend", Spec("free", "nowhere:Free")))


def collected(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Collect the kit in an interpreter of its own."""
    command = [sys.executable, "-m", "pytest", "-q", "--collect-only", "-p", "no:cacheprovider"]
    return subprocess.run(
        [*command, "--pyargs", "nbcore.testing", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=ROOT,
    )


@pytest.mark.slow
def test_an_option_restricts_the_kit_to_one_backend() -> None:
    done = collected("--nbcore-backend", "sgld", "-m", "not slow")
    tests = [line for line in done.stdout.splitlines() if "test_conformance[" in line]
    assert tests, done.stdout
    assert all("test_conformance[sgld-" in test for test in tests)
    wrong = collected("--nbcore-backend", "sgldd")
    assert wrong.returncode != 0
    assert "Did you mean 'sgld'" in wrong.stdout + wrong.stderr


def test_the_pytest_plugin_is_light() -> None:
    code = "import sys, json, nbcore.testing.plugin; print(json.dumps(sorted(sys.modules)))"
    found = json.loads(subprocess.check_output([sys.executable, "-c", code], text=True))
    assert not {"jax", "optax", "numpy", "pytest"} & set(found)
