"""The No-U-Turn sampler of BlackJAX, with window adaptation in steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
from blackjax.mcmc import nuts

from nbcore import Kernel, Stats, Target
from nbcore.extend import check_count
from nbcore_blackjax.windows import MassMatrix, Windows, window_kernel


@dataclass(frozen=True)
class BlackJAXNUTS:
    """The No-U-Turn sampler with dual-averaging step size and window adaptation of the mass.

    Args:
        target_acceptance_rate: mean acceptance rate that the step size is adapted to.
        max_tree_depth: longest trajectory, 2^depth - 1 leapfrog steps.
        mass_matrix: `"diagonal"`, `"dense"`, or `"low_rank"`, a diagonal and `max_rank`
            directions, for many correlated numbers.
        max_rank: number of directions of a low-rank matrix, at most.
        step_size: first step size; adapted in warmup if `adapt_step_size` is true.
        adapt_step_size: whether warmup adapts the step size.
        adapt_mass_matrix: whether warmup adapts the mass matrix.

    Raises:
        OptionError: an option has an impossible value.

    Examples:
        >>> BlackJAXNUTS(mass_matrix="low_rank", max_rank=5).target_acceptance_rate
        0.8

    References:
        Hoffman & Gelman (2014), "The No-U-Turn sampler", algorithm 6; Betancourt (2017), "A
        conceptual introduction to Hamiltonian Monte Carlo", appendix A.3 (multinomial draws);
        Seyboldt et al. (2026), on preconditioning by the Fisher divergence, algorithm 1 (low rank).
    """

    name: ClassVar[str] = "blackjax-nuts"
    expected_gradients: ClassVar[float] = 63.0
    capabilities: ClassVar[frozenset[str]] = frozenset({"exact", "adaptive"})

    target_acceptance_rate: float = 0.8
    max_tree_depth: int = 10
    mass_matrix: MassMatrix = "diagonal"
    max_rank: int = 10
    step_size: float = 0.1
    adapt_step_size: bool = True
    adapt_mass_matrix: bool = True

    def __post_init__(self) -> None:
        """Check the options."""
        check_count(1, 20, max_tree_depth=self.max_tree_depth)
        Windows.of(self)

    def kernel(self, num_warmup: int) -> Kernel:
        """Return the pure functions for a warmup of this many steps."""
        no_u_turn = nuts.build_kernel()

        def move(
            key: jax.Array, target: Target, state: Any, step_size: Any, matrix: Any
        ) -> tuple[Any, Stats]:
            state, info = no_u_turn(
                key, state, target.log_density, step_size, matrix, self.max_tree_depth
            )
            return state, Stats(
                log_density=state.logdensity,
                acceptance_rate=info.acceptance_rate,
                is_divergent=info.is_divergent,
                num_gradients=info.num_integration_steps,
                tree_depth=info.num_trajectory_expansions,
                step_size=step_size,
                energy=info.energy,
            )

        return window_kernel(move, Windows.of(self), num_warmup)
