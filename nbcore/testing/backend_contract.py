"""Checks of what every backend promises: repeatable, honest and light runs."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from nbcore.common.declarations import CAPABILITIES
from nbcore.common.paths import leaves_by_path
from nbcore.errors import OptionError, SamplingError
from nbcore.posterior.posterior import Posterior
from nbcore.sampling.backend import Backend
from nbcore.sampling.driver import sample
from nbcore.targets.target import Target
from nbcore.testing import declared, runs
from nbcore.testing.cases import check
from nbcore.testing.failure import ConformanceError, require
from nbcore.testing.oracle import oracle


@check("backend")
def check_options_are_frozen_and_hashable(backend: Backend) -> None:
    """Options are the fields of a frozen dataclass, with defaults, equal by content."""
    declared.check_options(backend)


@check("backend")
def check_unknown_option_is_refused(backend: Backend) -> None:
    """An unknown option is refused, and the nearest one suggested."""
    declared.check_unknown_option("backend", backend)


@check("backend")
def check_capabilities_are_announced(backend: Backend) -> None:
    """Capabilities are known ones, and those that the plugin announced."""
    declared.check_spec("backend", backend, backend.capabilities, frozenset(CAPABILITIES))


@check("backend")
def check_listing_imports_nothing(backend: Backend) -> None:
    """Listing the backends does not import the library behind it."""
    declared.check_lazy("backend", backend)


@check("backend")
def check_start_without_density_is_refused(backend: Backend) -> None:
    """A density of NaN at the start is a SamplingError that names the chain."""
    start = oracle().target.start
    nowhere = jax.tree.map(lambda a: np.full((runs.NUM_CHAINS, *a.shape), np.nan), start)
    try:
        sample(oracle().target, backend, num_chains=runs.NUM_CHAINS, init=nowhere, progress=False)
    except SamplingError as error:
        said = "chain 0" in str(error)
        message = str(error)
    else:
        said, message = False, "no error"
    require(
        said,
        "A start with a density of NaN is refused",
        measured=message,
        limit="a SamplingError that names chain 0",
        cause="a driver other than nbcore.sample.",
    )


@check("backend")
def check_same_key_same_draws(backend: Backend) -> None:
    """The same key gives the same draws, bit for bit; another key gives others."""
    first = runs.short_run(backend)
    longer, _ = runs.longer_run(backend)
    again = jax.tree.map(lambda a: a[:, : runs.SHORT], (longer.draws, longer.stats))
    require(
        _same((first.draws, first.stats), again),
        "The same key gives the same draws and statistics, however many are taken",
        measured="two runs with key=0 differ",
        limit="bit for bit the same",
        cause="numpy.random, a clock or a counter that outlives the run; every random number "
        "comes from the key that the function was given.",
    )
    require(
        not _same(first.draws, runs.short_run(backend, 1).draws),
        "Another key gives other draws",
        measured="runs with key=0 and key=1 are equal",
        limit="different draws",
        cause="a key of the sampler's own, made by jax.random.key(...).",
    )


@check("backend")
def check_chains_differ(backend: Backend) -> None:
    """No two chains hold the same draw, and no chain stands still."""
    flat = _flat(runs.short_run(backend))
    last = flat[:, -1]
    twins = [(a, b) for a in range(len(last)) for b in range(a) if np.array_equal(last[a], last[b])]
    require(
        not twins,
        "Different chains have different draws",
        measured=f"chains {twins} end at the same position",
        limit="no two alike",
        cause="a key kept in `shared` (once per run) where the chain's own was needed.",
    )
    moved = [len(np.unique(chain, axis=0)) for chain in flat]
    require(
        min(moved) > 1,
        "Every chain moves",
        measured=f"different positions in {runs.SHORT} draws, by chain: {moved}",
        limit="at least 2",
        cause="`position` reads a part of the state that `step` does not replace; or every "
        "proposal is rejected, because the step size is far too large.",
    )


@check("backend")
def check_draws_have_the_form_of_the_position(backend: Backend) -> None:
    """Draws have the position's structure, shapes and dtypes."""
    start = oracle().target.start
    wanted = jax.tree.map(lambda a: ((runs.NUM_CHAINS, runs.SHORT, *a.shape), str(a.dtype)), start)
    got = jax.tree.map(lambda a: (a.shape, str(a.dtype)), runs.short_run(backend).draws)
    require(
        got == wanted,
        "Draws have the form of the position, with leading axes (chain, draw)",
        measured=got,
        limit=wanted,
        cause="a flattened position that was not put back: jax.flatten_util.ravel_pytree.",
    )


@check("backend")
def check_frozen_weights_stay(backend: Backend) -> None:
    """Weights outside the subset are those of the trained network, bit for bit."""
    posterior = runs.short_run(backend)
    split = oracle().target.split
    last = jax.tree.map(lambda a: a[0, -1], posterior.draws["weights"])
    merged = leaves_by_path(posterior.split.merge(last))
    changed = [p for p, leaf in split.frozen.items() if not np.array_equal(leaf, merged[p])]
    require(
        not changed,
        "Frozen weights stay as they were trained",
        measured=f"changed: {', '.join(changed)}",
        limit="bit for bit the same",
        cause="a sampler that writes into the arrays of the target.",
    )


@check("backend")
def check_no_trace_per_draw(backend: Backend) -> None:
    """A run with more draws, through the same chunks, neither traces nor compiles again."""
    _, traces = runs.longer_run(backend)
    require(
        traces == 0,
        "A longer run compiles nothing again",
        measured=f"the density was traced {traces} more times",
        limit="0",
        cause="a state whose dtypes or weak types change from step to step (write "
        "jnp.asarray(x, dtype) in init), or jax.jit of a new function in every call.",
    )


@check("backend")
def check_statistics_mean_what_they_say(backend: Backend) -> None:
    """The fields of `Stats` are finite, or NaN if that is documented, and within bounds."""
    posterior = runs.short_run(backend)
    stats = jax.tree.map(np.asarray, posterior.stats)
    rules = {
        "log_density": (np.isfinite, "finite"),
        "acceptance_rate": (lambda a: np.isnan(a) | ((a >= 0) & (a < 1.0001)), "NaN, or 0 to 1"),
        "is_divergent": (lambda a: a.dtype == np.bool_, "booleans"),
        "num_gradients": (lambda a: (a >= 0) & (a == np.floor(a)), "integers of at least 0"),
        "tree_depth": (lambda a: (a >= 0) & (a == np.floor(a)), "integers of at least 0"),
        "step_size": (lambda a: np.isnan(a) | ((a > 0) & np.isfinite(a)), "NaN, or positive"),
        "energy": (lambda a: np.isnan(a) | np.isfinite(a), "NaN, or finite"),
    }
    for name, (rule, says) in rules.items():
        values = getattr(stats, name)
        require(
            values.shape == (runs.NUM_CHAINS, runs.SHORT) and np.all(rule(values)),
            f"Stats.{name} is as documented",
            measured=f"shape {values.shape}, {values.dtype}, such as {values.ravel()[:3]}",
            limit=f"a scalar for each step; {says}",
            cause="inf or -1 instead of NaN; a field in the place of another one.",
        )
    if "minibatch" not in backend.capabilities:
        _check_log_density(posterior, stats.log_density)


def _check_log_density(posterior: Posterior, reported: np.ndarray) -> None:
    """Hold every draw's statistic to the log density there, and name the common mistakes."""
    true = np.asarray(_log_densities(oracle().target, posterior.draws))
    off = reported - true
    limit = 1e-2 + 1e-3 * np.abs(true)
    wrong = np.abs(off) > limit
    cause = "the value of the proposal if it was rejected."
    if np.all(np.abs(reported[:, 1:] - true[:, :-1]) < limit[:, 1:]):
        cause = "the value of the position before the step, which these are."
    elif np.all(np.abs(off - off[0, 0]) < limit):
        cause = f"a constant that is left out or added: all are off by {off[0, 0]:+.4g}."
    require(
        not wrong.any(),
        "Stats.log_density is the log density at the draw",
        measured=f"{wrong.mean():.0%} of {wrong.size} draws report another value, such as "
        f"{reported[wrong][:2]} for {true[wrong][:2]}",
        limit="the target's log density, at every draw",
        cause=cause,
    )


@jax.jit
def _log_densities(target: Target, draws: Any) -> jax.Array:
    return jax.vmap(jax.vmap(target.log_density))(draws)


@check("backend", slow=True)
def check_chunks_change_nothing(backend: Backend) -> None:
    """Draws do not depend on where the driver cuts the run into chunks."""
    whole = runs.short_run(backend)
    cut = runs.draw(oracle().target, backend, num_samples=runs.SHORT, chunk_size=37)
    require(
        _same(whole.draws, cut.draws),
        "Draws do not depend on chunk_size",
        measured=f"draws differ between chunk_size={runs.CHUNK_SIZE} and 37",
        limit="bit for bit the same",
        cause="Python variables that the functions of the kernel share and change: everything "
        "that lasts belongs into the state.",
    )


@check("backend", slow=True)
def check_runs_without_warmup(backend: Backend) -> None:
    """`num_warmup=0` runs, or is refused by an OptionError that says so."""
    try:
        posterior = runs.draw(oracle().target, backend, num_samples=runs.SHORT, num_warmup=0)
    except OptionError as error:
        holds, measured = "num_warmup" in str(error), str(error)
    except Exception as error:
        raise ConformanceError(
            f"num_warmup=0 raised {type(error).__name__}: {error}\n"
            "  limit:    draws, or an OptionError that names num_warmup\n"
            "  often:    a schedule of length num_warmup that is read at index 0 or -1."
        ) from error
    else:
        holds = bool(np.all(np.isfinite(_flat(posterior))))
        measured = "draws that are not finite"
    require(
        holds,
        "num_warmup=0 runs, or is refused",
        measured=measured,
        limit="finite draws, or an OptionError that names num_warmup",
        cause="adaptation that starts from what warmup leaves behind.",
    )


def _same(a: Any, b: Any) -> bool:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(x, y, equal_nan=True) for x, y in pairs)


def _flat(posterior: Posterior) -> np.ndarray:
    """Return the draws `(chain, draw, d)`."""
    leaves = jax.tree.leaves(posterior.draws)
    return np.concatenate([a.reshape(*a.shape[:2], -1) for a in leaves], axis=2)
