"""Restarts: the best of the runs, which are known by their keys."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from samplers import Stay

import nbcore as nb
from nbcore import errors
from nbcore.common.progress import Report
from nbcore.posterior.stats import Stats
from nbcore.sampling.backend import Kernel
from nbcore.sampling.restarts import RESTART, AcceptanceWarning, sample_with_restarts


@dataclass(frozen=True)
class Chance:
    """Chains that stay at a random number, which is their acceptance rate as well."""

    name: ClassVar[str] = "chance"
    capabilities: ClassVar[frozenset[str]] = frozenset({"fixed_cost"})
    has_rate: bool = True

    def kernel(self, num_warmup: int) -> Kernel:
        def init(key: Any, target: nb.Target, shared: Any, position: Any) -> Any:
            return jax.random.uniform(key)

        def step(key: Any, target: nb.Target, shared: Any, state: Any, t: Any) -> Any:
            rate = state if self.has_rate else jnp.nan
            return state, Stats(jnp.zeros(()), acceptance_rate=rate)

        return Kernel(init, step, step, lambda state: state)


TARGET = nb.Target.from_log_density(lambda x: -0.5 * x**2, jnp.zeros(()))
OPTIONS: dict[str, Any] = {"num_warmup": 0, "num_samples": 2, "num_chains": 2, "progress": False}


def rate_of(key: Any) -> float:
    return float(np.mean(nb.sample(TARGET, Chance(), key=key, **OPTIONS).draws))


KEY = jax.random.key(3)
RATES = [
    rate_of(KEY if r == 0 else jax.random.fold_in(jax.random.fold_in(KEY, RESTART), r))
    for r in range(4)
]


def run(threshold: float, restarts: int = 3, **options: Any) -> nb.Posterior:
    return sample_with_restarts(
        TARGET, Chance(), key=KEY, max_num_restarts=restarts, min_acceptance_rate=threshold,
        **(OPTIONS | options),
    )  # fmt: skip


def test_the_first_run_that_is_good_enough_is_the_last() -> None:
    assert len(set(RATES)) == 4
    good = run(max(RATES[:2]))
    np.testing.assert_allclose(good.info.acceptance_of_runs, RATES[: 1 + int(np.argmax(RATES[:2]))])
    assert float(np.mean(good.draws)) == pytest.approx(max(RATES[:2]))


def test_the_best_of_all_runs_is_kept_and_told() -> None:
    reports: list[Report] = []
    with pytest.warns(AcceptanceWarning, match=r"all 4 runs"):
        best = run(0.9999, progress=reports.append)
    np.testing.assert_allclose(best.info.acceptance_of_runs, RATES)
    assert float(np.mean(best.draws)) == pytest.approx(max(RATES))
    notes = [report.note for report in reports if "restart" in report.note]
    assert [note.partition(": ")[2] for note in notes] == [f"restart {r} of 3" for r in (1, 2, 3)]
    assert f"{RATES[0]:.3f} is below 0.9999" in notes[0]


def test_without_restarts_it_is_the_plain_run() -> None:
    plain = run(0.9999, restarts=0)
    assert float(np.mean(plain.draws)) == pytest.approx(RATES[0])
    assert plain.info.acceptance_of_runs == []


def test_an_estimator_restarts() -> None:
    x = np.linspace(-1, 1, 10, dtype=np.float32)[:, None]
    network = nb.as_network((lambda key, x: None, lambda p, x: x @ p["out"]["kernel"]), example=x)
    model = nb.PartialBNN(
        network, {"out": {"kernel": jnp.ones((1, 1))}}, subset=nb.ProbabilisticSubset.everything(),
        likelihood=nb.Gaussian(noise=0.1),
    )  # fmt: skip
    for threshold, runs in ((0.3, 1), (0.5, 3)):
        restarts = nb.SamplingOptions(max_num_restarts=2, min_acceptance_rate=threshold)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", AcceptanceWarning)
            model.fit(x, x[:, 0], backend=Stay(acceptance_rate=0.4), sampling=restarts, **OPTIONS)
        np.testing.assert_allclose(model.posterior.info.acceptance_of_runs, [0.4] * runs)
        assert sum(each.category is AcceptanceWarning for each in caught) == runs // 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_num_restarts": -1}, "at least 0"),
        ({"max_num_restarts": 1, "min_acceptance_rate": 55}, r"within \[0, 1\], got 55"),
        ({"max_num_restarts": 1}, "no acceptance to restart for"),
    ],
)
def test_impossible_restarts_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(errors.OptionError, match=message):
        sample_with_restarts(TARGET, Chance(has_rate=False), **OPTIONS, **options)
