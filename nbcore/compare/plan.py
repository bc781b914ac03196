"""Plan of a comparison: problems, choices of weights, samplers, seeds, and the budget of a cell."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from nbcore import references
from nbcore.common import storage
from nbcore.common.options import check_choice, check_count, check_positive, suggesting
from nbcore.distributions.likelihoods import Likelihood
from nbcore.errors import DataError, OptionError
from nbcore.references import Reference

BudgetKind = Literal["gradients", "draws"]
Control = Literal["random", "permuted", "deterministic", "ensemble", "laplace", "full"]
CONTROLS = get_args(Control)
WITHOUT_SAMPLER = ("deterministic", "ensemble")
"""Controls that draw nothing."""
FORMAT = "nbcore-compare-1"

Row = dict[str, Any]
"""A row of the table, by column."""


@dataclass(frozen=True, eq=False)
class DataSet:
    """Examples, and those that predictions are tested on.

    Args:
        name: its name in the table.
        X: inputs `(N, ...)`.
        y: targets `(N,)` in their own units, or labels.
        test_X: inputs of the test; `None` tests on a fifth of X, another one for each seed.
        test_y: their targets.

    Raises:
        DataError: one of `test_X` and `test_y` is missing, or lengths differ.
    """

    name: str
    X: NDArray[Any]
    y: NDArray[Any]
    test_X: NDArray[Any] | None = None
    test_y: NDArray[Any] | None = None

    def __post_init__(self) -> None:
        """Check that inputs and targets fit."""
        if (self.test_X is None) != (self.test_y is None):
            raise DataError(f"The data set {self.name!r} needs both test_X and test_y, or neither.")
        pairs = [("", self.X, self.y), ("test_", self.test_X, self.test_y)]
        for part, X, y in pairs:
            if X is not None and y is not None and len(X) != len(y):
                raise DataError(
                    f"The data set {self.name!r} has {len(X)} rows of {part}X and {len(y)} of "
                    f"{part}y. Give one target for each row."
                )

    def split(self, seed: int) -> tuple[Any, Any, Any, Any]:
        """Return inputs and targets to learn from, and to test on."""
        if self.test_X is not None:
            return self.X, self.y, self.test_X, self.test_y
        order = np.random.default_rng(seed).permutation(len(self.y))
        train, test = order[len(order) // 5 :], order[: len(order) // 5]
        return self.X[train], self.y[train], self.X[test], self.y[test]

    @property
    def digest(self) -> str:
        """Hash of all arrays."""
        arrays = {"X": self.X, "y": self.y, "test_X": self.test_X, "test_y": self.test_y}
        return storage.digest({k: np.asarray(v) for k, v in arrays.items() if v is not None})


@dataclass(frozen=True, eq=False)
class Problem:
    """A network on a data set.

    Args:
        data: the examples.
        network_name: name of the network in the table.
        network: the network, anything that `nb.as_network` takes and that can be pickled.
        likelihood: distribution of y given the outputs; `None` is normal noise.
    """

    data: DataSet
    network_name: str
    network: Any
    likelihood: Likelihood | None = None

    @property
    def name(self) -> str:
        """Data set and network."""
        return f"{self.data.name}, {self.network_name}"

    @property
    def digest(self) -> str:
        """Hash of data, network and likelihood."""
        return _hash([self.data.digest, repr(self.network), repr(self.likelihood)])


@suggesting
@dataclass(frozen=True)
class Choice:
    """How weights are chosen, and how many.

    Args:
        selector: a selector from `nb.list_selectors()`.
        size: number of weights.
        layer_names: layers to choose in; all by default.
        options: options of the selector.
    """

    selector: str
    size: int
    layer_names: tuple[str, ...] | None = None
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        """Check the size."""
        check_count(1, size=self.size)


@suggesting
@dataclass(frozen=True)
class Method:
    """A sampler.

    Args:
        backend: a name from `nb.list_backends()`.
        options: its options.
        label: its name in the table; the backend, with options, by default.
    """

    backend: str
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    label: str = ""

    @property
    def name(self) -> str:
        """Name in the table."""
        given = ", ".join(f"{k}={v}" for k, v in sorted(self.options.items()))
        return self.label or (f"{self.backend} ({given})" if given else self.backend)


@suggesting
@dataclass(frozen=True)
class Budget:
    """What each posterior may cost.

    Args:
        kind: `"gradients"` of the log density of all chains together, warmup, tuning and start
            included, or `"draws"` of each chain after warmup.
        amount: how many.
    """

    kind: BudgetKind
    amount: int

    def __post_init__(self) -> None:
        """Check the values."""
        check_choice(get_args(BudgetKind), kind=self.kind)
        check_count(4, amount=self.amount)


@suggesting
@dataclass(frozen=True)
class Plan:
    """A comparison: every problem × choice × method × seed, and controls.

    Args:
        methods: samplers.
        budget: what each posterior may cost.
        problems: data sets with networks.
        choices: selectors with sizes.
        references: names of reference posteriors, which every method samples as well.
        seeds: each seeds split, training, choice and chains.
        controls: `"random"` (as many weights at random), `"permuted"` (as many of each layer, at
            random within it), `"laplace"` (the chosen weights by the Laplace approximation),
            `"full"` (all weights), `"deterministic"` (nothing sampled, noise out of fold),
            `"ensemble"` (the networks of the folds).
        num_warmup: warmup steps of each chain.
        num_chains: chains of each posterior.
        max_draws: draws of each chain at most, however small a part of the budget they take.
        epochs: passes over the data in training; `None` finds them by cross-fitting.
        prior: standard deviation of the prior around the trained weights.

    Raises:
        OptionError: an option is unknown, impossible, or something is named twice.
    """

    methods: tuple[Method, ...]
    budget: Budget
    problems: tuple[Problem, ...] = ()
    choices: tuple[Choice, ...] = ()
    references: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0, 1, 2)
    controls: tuple[Control, ...] = ("random", "deterministic")
    num_warmup: int = 200
    num_chains: int = 2
    max_draws: int = 2000
    epochs: int | None = None
    prior: float = 1.0

    def __post_init__(self) -> None:
        """Check what can be checked without data."""
        for control in self.controls:
            check_choice(CONTROLS, controls=control)
        check_count(0, num_warmup=self.num_warmup)
        check_count(2, num_chains=self.num_chains)
        check_count(4, max_draws=self.max_draws)
        check_positive(prior=self.prior)
        lists: dict[str, list[str]] = {
            "problems and references": [*(p.name for p in self.problems), *self.references],
            "methods": [m.name for m in self.methods],
            "seeds": [str(seed) for seed in self.seeds],
        }
        for what, names in lists.items():
            if not names:
                raise OptionError(f"A comparison needs {what}; got none.")
            double = sorted({n for n in names if names.count(n) > 1})
            if double:
                raise OptionError(f"{what} are named twice: {', '.join(double)}. Keep one of each.")

    def cells(self) -> Iterator[Cell]:
        """Yield all cells: those of one trained network one after the other."""
        for name in self.references:
            for method in self.methods:
                for seed in self.seeds:
                    yield Cell(self, references.load(name), seed, method=method)
        for problem in self.problems:
            for seed in self.seeds:
                base = Cell(self, problem, seed)
                for control in self.controls:
                    if control in WITHOUT_SAMPLER:
                        yield replace(base, control=control)
                for method in self.methods:
                    if "full" in self.controls:
                        yield replace(base, control="full", method=method)
                for choice in self.choices:
                    of_choice = replace(base, choice=choice)
                    at_random = Choice("random", choice.size, choice.layer_names)
                    for method in self.methods:
                        own = replace(of_choice, method=method)
                        yield own
                        if "permuted" in self.controls:
                            yield replace(own, control="permuted")
                        if "random" in self.controls:  # one for all selectors of this size
                            yield replace(own, choice=at_random, control="random")
                    if "laplace" in self.controls:
                        yield replace(of_choice, method=Method("laplace"), control="laplace")


@dataclass(frozen=True, eq=False)
class Cell:
    """One posterior, or one control.

    Args:
        plan: the comparison that it belongs to.
        problem: data set and network, or a reference.
        seed: of split, training, choice and chains.
        choice: how weights are chosen; `None` if none or all are stochastic.
        method: the sampler; `None` if nothing is sampled.
        control: which control it is; empty for what is compared.
    """

    plan: Plan
    problem: Problem | Reference
    seed: int
    choice: Choice | None = None
    method: Method | None = None
    control: str = ""

    @property
    def digest(self) -> str:
        """Hash of everything that its figures depend on, but for the version of libraries."""
        plan = self.plan
        run = [plan.num_warmup, plan.num_chains, plan.max_draws, plan.prior, plan.budget]
        own = [self.choice, self.method, self.control, *run] if self.method else [self.control]
        return _hash([FORMAT, self.trained_digest, *map(repr, own)])

    @property
    def trained_digest(self) -> str:
        """Hash of what its trained networks depend on."""
        return _hash([self.problem.digest, repr(self.seed), repr(self.plan.epochs)])

    @property
    def sampler(self) -> Method:
        """The method of a cell that has one.

        Raises:
            OptionError: nothing is sampled in it.
        """
        if self.method is None:
            raise OptionError(f"The control {self.control!r} samples nothing.")
        return self.method

    @property
    def needs_training(self) -> bool:
        """Whether it has networks to train; a reference has its weights."""
        return isinstance(self.problem, Problem)

    def columns(self) -> dict[str, Any]:
        """Return the columns of the table that say what it is."""
        choice, method, problem = self.choice, self.method, self.problem
        parts = ("", "")
        if isinstance(problem, Problem):
            parts = problem.data.name, problem.network_name
        return {
            "cell": self.digest,
            "problem": problem.name,
            "data": parts[0],
            "network": parts[1],
            "selector": "" if choice is None else choice.selector,
            "size": None if choice is None else choice.size,
            "control": self.control,
            "backend": "" if method is None else method.name,
            "seed": self.seed,
            "budget_kind": self.plan.budget.kind if method else "",
            "budget": self.plan.budget.amount if method else None,
        }


def _hash(words: list[str]) -> str:
    return hashlib.blake2b("\n".join(words).encode(), digest_size=12).hexdigest()
