"""The No-U-Turn sampler of NumPyro, one chain a function."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from nbcore import Kernel
from nbcore.extend import check_count
from nbcore_numpyro.adapter import check_options, make_kernel


@dataclass(frozen=True)
class NumPyroNUTS:
    """The No-U-Turn sampler with dual-averaging step size and window adaptation of the mass.

    Args:
        target_acceptance_rate: mean acceptance rate that the step size is adapted to.
        max_tree_depth: longest trajectory, 2^depth - 1 leapfrog steps.
        mass_matrix: `"diagonal"` or `"dense"`.
        step_size: first step size; adapted in warmup if `adapt_step_size` is true.
        adapt_step_size: whether warmup adapts the step size.
        adapt_mass_matrix: whether warmup adapts the mass matrix.

    Raises:
        OptionError: an option has an impossible value.

    Examples:
        >>> NumPyroNUTS(target_acceptance_rate=0.9).max_tree_depth
        10

    References:
        Hoffman & Gelman (2014), "The No-U-Turn sampler", algorithm 6; Phan et al. (2019),
        "Composable effects for flexible and accelerated probabilistic programming in NumPyro".
    """

    name: ClassVar[str] = "numpyro-nuts"
    expected_gradients: ClassVar[float] = 63.0
    capabilities: ClassVar[frozenset[str]] = frozenset({"exact", "adaptive"})

    target_acceptance_rate: float = 0.8
    max_tree_depth: int = 10
    mass_matrix: Literal["diagonal", "dense"] = "diagonal"
    step_size: float = 0.1
    adapt_step_size: bool = True
    adapt_mass_matrix: bool = True

    def __post_init__(self) -> None:
        """Check the options."""
        check_options(self)
        check_count(1, 20, max_tree_depth=self.max_tree_depth)

    def kernel(self, num_warmup: int) -> Kernel:
        """Return the pure functions for a warmup of this many steps."""
        return make_kernel(self, num_warmup, "NUTS", {"max_tree_depth": self.max_tree_depth})
