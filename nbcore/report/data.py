"""Contents of a report as plain arrays, and their extraction from a posterior."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from nbcore.networks.layers import Leaf
from nbcore.networks.stacks import indexed_name
from nbcore.posterior.posterior import NetworkPosterior
from nbcore.report.evaluation import Evaluation
from nbcore.subsets.split import ParameterSplit

_Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Predictions:
    """Predictions for measured examples.

    Args:
        y: measured values `(n,)`.
        mean: predictive means `(n,)`.
        deviation: predictive standard deviations `(n,)`.
        low: lower bounds of the 95 % intervals `(n,)`.
        high: upper bounds `(n,)`.
    """

    y: _Floats
    mean: _Floats
    deviation: _Floats
    low: _Floats
    high: _Floats


@dataclass(frozen=True, eq=False)
class Trace:
    """The draws of one parameter.

    Args:
        label: its name.
        r_hat: R-hat over the chains.
        ess: bulk effective sample size.
        draws: `(chain, draw)`.
    """

    label: str
    r_hat: float
    ess: float
    draws: _Floats


@dataclass(frozen=True, eq=False)
class PartlySampled:
    """A kernel of which some entries are sampled.

    Args:
        name: layer and component.
        axes: names of its two axes; further axes of a kernel are joined to the second.
        shape: extent of the two axes.
        pairs: which entries are sampled `(k, 2)`.
        deviation: posterior standard deviation of each `(k,)`.
    """

    name: str
    axes: tuple[str, str]
    shape: tuple[int, int]
    pairs: NDArray[np.int64]
    deviation: _Floats


@dataclass(frozen=True)
class LayerShare:
    """The sampled share of a layer.

    Args:
        name: name of the layer.
        stochastic: number of its sampled weights.
        total: number of its weights.
    """

    name: str
    stochastic: int
    total: int


@dataclass(frozen=True, eq=False)
class ReportData:
    """The contents of a report.

    Args:
        title: headline.
        target: name of the target, with its unit if known.
        predictions: predictions of the partially Bayesian network on the test examples.
        ways: results of each way of predicting, the partially Bayesian one last.
        traces: the worst-mixing parameters.
        layers: how much of each layer is sampled.
        kernels: kernels of which some entries are sampled.
        facts: further facts about the run, by name.
        verdict: verdict of the diagnostics.
    """

    title: str
    target: str
    predictions: Predictions
    ways: Sequence[Evaluation]
    traces: Sequence[Trace]
    layers: Sequence[LayerShare]
    kernels: Sequence[PartlySampled] = ()
    facts: Mapping[str, str] = field(default_factory=dict[str, str])
    verdict: str = ""


def worst_traces(posteriors: Sequence[NetworkPosterior], count: int = 4) -> list[Trace]:
    """Return the parameters that mix worst, over all members of an ensemble."""
    traces: list[Trace] = []
    for member, posterior in enumerate(posteriors):
        prefix = f"member {member}: " if len(posteriors) > 1 else ""
        draws = _by_label(posterior)
        traces += [
            Trace(prefix + label, r_hat, ess, draws[label])
            for label, r_hat, ess in posterior.diagnostics().worst(count)
        ]
    return sorted(traces, key=lambda t: (-np.nan_to_num(t.r_hat, nan=np.inf), t.label))[:count]


def _by_label(posterior: NetworkPosterior) -> dict[str, _Floats]:
    labels = posterior.labels()
    found: dict[str, _Floats] = {}
    for path, draws in posterior.flat_draws().items():
        numbers = np.asarray(draws, np.float64).reshape(*draws.shape[:2], -1)
        found.update(zip(labels[path], np.moveaxis(numbers, 2, 0), strict=True))
    return found


def layer_shares(split: ParameterSplit) -> list[LayerShare]:
    """Return the sampled share of each layer with weights, in call order."""
    chosen = {path: int(np.prod(shape)) for path, shape in split.shapes.items()}
    return [
        LayerShare(layer.name, sum(chosen.get(leaf.path, 0) for leaf in layer.leaves), layer.size)
        for layer in split.layers
        if layer.size
    ]


def partly_sampled(posterior: NetworkPosterior) -> list[PartlySampled]:
    """Return the kernels of which some entries, not all, are sampled."""
    split = posterior.split
    kernels: list[PartlySampled] = []
    for path in split.paths:
        layer, leaf = split.owner(path)
        if path in split.whole or leaf not in layer.weights:
            continue
        name = f"{layer.name}/{leaf.component}" if leaf.component else layer.name
        values = np.full(leaf.size, np.nan)
        values[np.asarray(split.indices[path])] = np.std(
            posterior.draws["weights"][path], axis=(0, 1), dtype=np.float64
        )
        by_pair = leaf.by_pair(values.reshape(leaf.shape))
        for numbers in np.ndindex(*leaf.stack_shape):
            if not np.isnan(by_pair[numbers]).all():
                own = indexed_name(name, leaf.stacks, numbers)
                kernels.append(_kernel(own, leaf, by_pair[numbers]))
    return kernels


def _kernel(name: str, leaf: Leaf, by_pair: _Floats) -> PartlySampled:
    table = by_pair.reshape(by_pair.shape[0], -1, by_pair.shape[-1])
    pairs = np.argwhere(~np.isnan(table).all(axis=-1))
    return PartlySampled(
        name,
        axes=(leaf.layer_axes[0], " × ".join(leaf.layer_axes[1:])),
        shape=(table.shape[0], table.shape[1]),
        pairs=pairs,
        deviation=np.nanmean(table[tuple(pairs.T)], axis=-1),
    )
