"""The contract of likelihoods: one density, with its moments, quantiles, samples and units."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from nbcore.distributions.likelihoods import Likelihood
from nbcore.errors import NbcoreError, OptionError
from nbcore.posterior.scaler import Scaler
from nbcore.testing.cases import check
from nbcore.testing.densities import (
    SAMPLES,
    STANDARD_ERRORS,
    Floats,
    require_followed,
    require_normalized,
)
from nbcore.testing.failure import ConformanceError, require
from nbcore.testing.likelihood_case import LikelihoodCase
from nbcore.testing.prior_checks import require_pytree

EXAMPLES = 2
"""Number of examples whose density is integrated."""
LEVELS = (0.05, 0.5, 0.9)
TOLERANCE = 2e-3


@check("likelihood")
def check_likelihood_is_data(case: LikelihoodCase) -> None:
    """A likelihood is a pytree of numbers, as all arguments of compiled programs are."""
    require_pytree(case.resolved, case.name)


@check("likelihood")
def check_targets_are_checked(case: LikelihoodCase) -> None:
    """`check` keeps the examples, and raises for targets that do not fit."""
    y = np.asarray(case.y)
    columns = y.reshape(len(y), -1)
    wrong: dict[str, Any] = {
        "another column": np.concatenate([columns, columns[:, :1]], axis=1),
        "a third axis": columns[:, :, None],
        "text": np.full(y.shape, "a"),
    }
    accepted: list[str] = []
    for name, values in wrong.items():
        try:
            case.likelihood.check(values, case.num_outputs)
        except NbcoreError:
            continue
        except Exception as error:
            raise ConformanceError(
                f"{case.name}.check raises {type(error).__name__} for y with {name}: {error}.\n"
                "  limit:    an error of nbcore.errors that says what to type\n"
                "  often:    an operation on y before its shape and type are looked at."
            ) from error
        accepted.append(name)
    require(
        not accepted and case.targets.ndim in (1, 2) and len(case.targets) == len(y),
        f"{case.name}.check returns targets (examples, targets), and raises for y that does not "
        f"fit {case.num_outputs} output(s)",
        measured=f"shape {case.targets.shape} of {len(y)} examples; accepted: {accepted}",
        limit="a leading example axis, and ShapeError, DataError or LabelError",
        cause="np.asarray(y) alone; nb.Likelihood.check holds real targets to their shape.",
    )


@check("likelihood")
def check_log_prob_is_of_each_example(case: LikelihoodCase) -> None:
    """`log_prob` has shape (examples,), and each value depends on its own example alone."""
    f, y, likelihood, parameters = case.f, case.targets, case.resolved, case.parameters

    def log_prob(likelihood: Likelihood, f: jax.Array, parameters: Any, y: Any) -> jax.Array:
        return likelihood.log_prob(f, y, parameters)

    each = np.asarray(log_prob(likelihood, f, parameters, y))
    turned = np.asarray(jax.jit(log_prob)(likelihood, f[::-1], parameters, y[::-1]))[::-1]
    first = np.asarray(log_prob(likelihood, f[:1], parameters, y[:1]))
    require(
        each.shape == (len(f),)
        and np.allclose(turned, each, rtol=1e-4, atol=1e-4)
        and np.allclose(first, each[:1], rtol=1e-4, atol=1e-4),
        f"{case.name}.log_prob is one number for each example, and depends on no other example",
        measured=f"shape {each.shape}, {each[:3].tolist()}; in reversed order and compiled "
        f"{turned[:3].tolist()}; the first example alone {first.tolist()}",
        limit=f"shape {(len(f),)}, and equal values",
        cause="shapes (examples,) and (examples, 1) that broadcast to (examples, examples), a sum "
        "over the examples or a mean over the minibatch.",
    )
    total = lambda f, z, lik: jnp.sum(log_prob(lik, f, z, y))  # noqa: E731
    found = jax.jit(jax.grad(total, argnums=(0, 1)))(f, parameters, likelihood)
    require(
        np.all(np.isfinite(each)) and all(np.all(np.isfinite(g)) for g in jax.tree.leaves(found)),
        f"{case.name}.log_prob and its gradients are finite",
        measured=f"{each[:3].tolist()}, gradients {jax.tree.map(np.asarray, found)}",
        limit="finite",
        cause="jnp.where around a branch that is not finite: replace its argument as well.",
    )


@check("likelihood")
def check_distribution_is_given(case: LikelihoodCase) -> None:
    """Predictions sample y, and have the density, mean and variance of the likelihood."""
    try:
        case.prediction.sample(1)
    except OptionError as error:
        raise ConformanceError(
            f"Predictions of {case.name} have no quantiles and samples of y.\n"
            f"  measured: {error}\n"
            "  limit:    a method `distribution` that log_prob agrees with\n"
            "  often:    log_prob and moments written by hand; with `distribution` both follow."
        ) from error
    y = np.asarray(case.targets)
    found = case.prediction.log_density(y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y)
    expected = np.asarray(case.resolved.log_prob(case.f, case.targets, case.parameters))
    moments = [a.reshape(case.moments[0].shape) for a in (case.prediction.mean,
                                                          case.prediction.variance)]  # fmt: skip
    require(
        np.allclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE)
        and np.allclose(moments, case.moments, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True),
        f"A prediction with {case.name} has its density, mean and variance",
        measured=f"log density {found[:3]}, mean {moments[0][:3].tolist()}, variance "
        f"{moments[1][:3].tolist()}",
        limit=f"{expected[:3]}, {case.moments[0][:3].tolist()}, {case.moments[1][:3].tolist()}",
        cause="log_prob or moments written by hand beside `distribution`: define that alone.",
    )


@check("likelihood")
def check_samples_follow_the_density(case: LikelihoodCase) -> None:
    """Samples of y are distributed as `log_prob` says, each target given the others."""
    for i in range(EXAMPLES):
        require_followed(
            case.log_density(i),
            case.unbounded(case.samples[:, i]),
            f"Samples of {case.name} follow its density",
            "a scale that only one of `sample` and `log_prob` has.",
            case.values,
        )


@check("likelihood")
def check_density_is_normalized(case: LikelihoodCase) -> None:
    """exp(log_prob) integrates, or sums, to 1 over y; of discrete y, for one target."""
    if case.values is not None and case.num_targets > 1:
        return
    for i in range(EXAMPLES):
        require_normalized(
            case.log_density(i),
            case.unbounded(case.samples[:, i]),
            f"The density of {case.name} integrates to 1 over y",
            "a constant left out, or a mean over targets instead of a sum.",
            case.values,
        )


@check("likelihood")
def check_moments_are_those_of_samples(case: LikelihoodCase) -> None:
    """`moments` are mean and variance of y; of labels, of the indicator of each class."""
    values = case.samples
    if case.is_labels:
        values = (values == np.arange(case.num_outputs)).astype(float)
    around = (values - values.mean(axis=0)) ** 2
    for what, given, each in (("mean", case.moments[0], values),
                              ("variance", case.moments[1], around)):  # fmt: skip
        measured = each.mean(axis=0)
        error = STANDARD_ERRORS * each.std(axis=0) / np.sqrt(SAMPLES) + 1e-4
        near = (np.abs(given - measured) <= error) | ~np.isfinite(given)
        require(
            given.shape == measured.shape and np.all(near),
            f"{case.name}.moments has the {what} of samples of y",
            measured=given[:EXAMPLES].tolist(),
            limit=f"{measured[:EXAMPLES].tolist()}, within {error[:EXAMPLES].tolist()}",
            cause="a scale or a standard deviation instead of the variance, or the mode instead "
            "of the mean.",
        )


@check("likelihood")
def check_quantiles_are_those_of_samples(case: LikelihoodCase) -> None:
    """A quantile has its share of samples of y below it."""
    if case.is_labels:
        return
    for level in LEVELS:
        try:
            quantile = np.asarray(case.prediction.quantile(level)).reshape(case.targets.shape)
        except OptionError:
            return  # a distribution without a cdf, whose predictions say so
        below, up_to = (
            np.mean(compare(case.samples, quantile), axis=0) for compare in (np.less, np.less_equal)
        )
        error = STANDARD_ERRORS * np.sqrt(level * (1 - level) / SAMPLES)
        require(
            np.all((below - error <= level) & (level <= up_to + error)),
            f"The quantile {level} of {case.name} has this share of samples below it",
            measured=f"{below.tolist()} below, {up_to.tolist()} up to it",
            limit=f"{level}, within {error:.2g}",
            cause="a cdf with other parameters than log_prob, such as a variance for a scale.",
        )


@check("likelihood")
def check_units_are_exact(case: LikelihoodCase) -> None:
    """`rescaled(s)` has log p(y / s) = log p(y) + log s; without units, it raises."""
    scale = np.resize([4.0, 0.5], case.num_targets)
    if not case.resolved.can_standardize:
        try:
            case.resolved.rescaled(scale)
        except NbcoreError:
            return
        raise ConformanceError(
            f"{case.name}.rescaled returns a likelihood, and can_standardize is False.\n"
            "  limit:    an OptionError, or can_standardize = True\n"
            "  often:    can_standardize: ClassVar[bool] = True left out."
        )
    f, count = np.asarray(case.f), case.num_targets
    moved = case.rescaled_outputs or (
        lambda f, s: np.concatenate([f[:, :count] / s, f[:, count:]], axis=1)
    )
    outputs = jnp.asarray(moved(f, scale), case.f.dtype)
    other, z = case.resolved.rescaled(scale), case.parameters
    gap = np.asarray(
        other.log_prob(outputs, case.targets / scale, z)
        - case.resolved.log_prob(case.f, case.targets, z)
    )
    prior_gap = float(other.log_prior(z) - case.resolved.log_prior(z))
    expected = float(np.log(scale).sum())
    require(
        np.allclose(gap, expected, atol=TOLERANCE) and abs(prior_gap) < TOLERANCE,
        f"{case.name}.rescaled(s) has the density of y / s, log p(y) + log s, and the same prior "
        "of its unconstrained parameters",
        measured=f"log p(y / s) - log p(y) = {gap[:3].tolist()}, a log prior that differs by "
        f"{prior_gap:.3g}",
        limit=f"{expected:.4f} for s = {scale.tolist()}, and 0",
        cause="a parameter in the units of y, or a prior of one, that is not divided; or outputs "
        "that change in another way: LikelihoodCase(..., rescaled_outputs=...).",
    )
    units = {name: scale if name in other.in_units_of_y else 1.0 for name in z}
    back = {name: np.asarray(x) * units.get(name, 1.0) for name, x in other.constrain(z).items()}
    given = case.resolved.constrain(z)
    require(
        all(np.allclose(back[name], given[name], rtol=TOLERANCE) for name in given),
        f"{case.name}.in_units_of_y names the parameters that are in the units of y",
        measured=f"{back} for y / s, back in the units of y",
        limit=jax.tree.map(np.asarray, given),
        cause="a name that is missing there, or one too many.",
    )


@check("likelihood")
def check_predictions_change_units_exactly(case: LikelihoodCase) -> None:
    """A prediction of shift + scale y has the density p(y) / scale and moved samples."""
    if not case.resolved.can_standardize:
        return
    shift, scale = np.full(case.num_targets, 1e4), np.resize([3.0, 0.2], case.num_targets)
    here, there = case.prediction, case.prediction.in_units_of(Scaler(shift, scale))
    y = np.asarray(case.targets, np.float64)
    if case.num_targets == 1:
        y, shift, scale = y[:, 0], shift[0], scale[0]
    pairs = [
        (there.log_density(shift + scale * y), here.log_density(y) - np.sum(np.log(scale))),
        (there.mean - shift, scale * here.mean),
        (there.variance, scale**2 * here.variance),
        (there.sample(9, 0) - shift, scale * here.sample(9, 0)),
    ]
    worst = max(float(np.nanmax(np.abs(a - b) / (1 + np.abs(b)))) for a, b in pairs)
    require(
        worst < 1e-6,
        f"Predictions of {case.name} are exact in other units",
        measured=f"a relative difference of {worst:.2g}",
        limit="1e-6, in double precision",
        cause="a method in_units of a distribution of your own that leaves out shift or scale.",
    )


@check("likelihood")
def check_parameters_follow_their_prior(case: LikelihoodCase) -> None:
    """`log_prior` is the density of `sample_prior`, Jacobians included, and finite at `initial`."""
    likelihood, start = case.resolved, case.resolved.initial(case.num_outputs)
    shapes = {name: np.shape(value) for name, value in start.items()}
    drawn = {name: np.shape(value) for name, value in case.parameters.items()}
    values = [likelihood.log_prior(start), *jax.tree.leaves(likelihood.constrain(start))]
    require(
        shapes == drawn and all(np.all(np.isfinite(value)) for value in values),
        f"{case.name}.initial has the parameters of sample_prior, and a finite density",
        measured=f"initial {shapes}, sample_prior {drawn}, log_prior and parameters {values}",
        limit="equal names and shapes, and finite values",
        cause="a parameter that only one of the methods knows, or a start on the user's scale.",
    )
    if not start:
        return
    flat, unravel = ravel_pytree(start)
    del flat
    compiled = jax.jit(jax.vmap(lambda lik, z: lik.log_prior(unravel(z)), (None, 0)))
    keys = jax.random.split(jax.random.key(11), SAMPLES)
    sample = jax.vmap(lambda k: ravel_pytree(likelihood.sample_prior(k, case.num_outputs))[0])
    points = np.asarray(sample(keys), np.float64)
    cause = (
        "the Jacobian left out: for x = exp(u), log p(u) = log p(x) + log x; or a sample on the "
        "user's scale."
    )

    def log_prior(points: Floats) -> Floats:
        return np.asarray(compiled(likelihood, points), np.float64)

    what = f"Samples of {case.name}.sample_prior follow log_prior"
    require_followed(log_prior, points, what, cause)
    what = f"{case.name}.log_prior integrates to 1 over the unconstrained parameters"
    require_normalized(log_prior, points, what, cause)
