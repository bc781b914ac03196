"""Does the installed wheel work with the core's dependencies alone?

Run by .ci/run, away from the source tree, in an environment that has none of the extras.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

PACKAGES = (
    "nbcore",
    "nbcore_blackjax",
    "nbcore_equinox",
    "nbcore_flax",
    "nbcore_haiku",
    "nbcore_laplace",
    "nbcore_neurobayes",
    "nbcore_numpyro",
    "nbcore_selectors",
    "nbcore_sgmcmc",
)


def check(holds: bool, what: str) -> None:
    """Print what holds; leave with status 1 where it does not."""
    if not holds:
        sys.exit(f"FAILED: {what}")
    print(f"  {what}")


def message_of(call: Callable[[], object], error: type[Exception]) -> str:
    """Return the message of the error that a call must raise."""
    try:
        call()
    except error as raised:
        return str(raised)
    sys.exit(f"FAILED: no {error.__name__} was raised")


def main() -> None:
    """Check the import, the shipped files, the plugins and the console script."""
    import numpy  # noqa: PLC0415  beside it

    import nbcore  # noqa: PLC0415  the first thing that is checked

    loaded = {"jax", "optax"} & set(sys.modules)
    check(not loaded, "import nbcore imports neither jax nor optax")
    check(Path(nbcore.__file__).is_relative_to(sys.prefix), "nbcore comes from the wheel")

    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        check(spec is not None and spec.origin is not None, f"{package} is in the wheel")
        check(Path(spec.origin).with_name("py.typed").exists(), f"{package} is typed")

    subset = nbcore.ProbabilisticSubset.last(2)
    same = nbcore.ProbabilisticSubset.from_json(subset.to_json()) == subset
    check(same, "nbcore.ProbabilisticSubset resolves and survives JSON")
    molecules = nbcore.datasets.solubility()
    check(molecules is not None, "nbcore.datasets.solubility() is shipped")

    names = set(nbcore.list_backends())
    check({"numpyro-nuts", "sgld"} <= names, "backends are listed without their libraries")
    message = message_of(
        lambda: nbcore.get_backend("numpyro-nuts"), nbcore.errors.MissingExtraError
    )
    check("pip install 'nbcore[numpyro]'" in message, "a backend names its missing extra")

    posterior = nbcore.sample(
        nbcore.Target.from_log_density(lambda x: -(x**2).sum() / 2, numpy.zeros(2)),
        backend="laplace",
        num_samples=50,
        progress=False,
    )
    check(posterior.draws.shape == (4, 50, 2), "a backend that needs no extra samples")
    kit = importlib.util.find_spec("nbcore.testing.plugin")
    check(kit is not None, "the conformance kit is in the wheel")

    console = Path(sys.executable).with_name("nbcore")
    run = subprocess.run([console], capture_output=True, text=True, timeout=120, check=False)
    check(run.returncode == 2, "the console script without its extra exits 2")
    check("pip install 'nbcore[cli]'" in run.stderr, "the console script names its missing extra")
    check("Traceback" not in run.stderr, "the console script shows no traceback")


if __name__ == "__main__":
    main()
