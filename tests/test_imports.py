"""`import nbcore` is light, and whatever is missing is named when it is needed."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import nbcore

HEAVY = ["jax", "jaxlib", "optax", "flax", "numpyro", "blackjax", "sklearn", "arviz", "scipy"]


def run(code: str) -> str:
    """Run code in a fresh interpreter and return what it prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def imported_after(code: str) -> set[str]:
    """Top-level modules that are imported after running code."""
    show = "import sys, json; print(json.dumps(sorted({m.split('.')[0] for m in sys.modules})))"
    return set(json.loads(run(f"{code}\n{show}").splitlines()[-1]))


def test_importing_nbcore_imports_nothing_heavy():
    assert not imported_after("import nbcore").intersection([*HEAVY, "numpy", "pluggy", "rich"])


def test_importing_nbcore_adds_hardly_a_module():
    count = "import sys; before = len(sys.modules); import nbcore; print(len(sys.modules) - before)"
    assert int(run(count)) < 40


@pytest.mark.parametrize(
    "plugin", ["nbcore_blackjax", "nbcore_equinox", "nbcore_flax", "nbcore_haiku", "nbcore_laplace",
               "nbcore_numpyro", "nbcore_selectors", "nbcore_sgmcmc"],
)  # fmt: skip
def test_the_hooks_of_our_plugins_import_nothing_heavy(plugin):
    assert not imported_after(f"import {plugin}").intersection([*HEAVY, "numpy", "rich"])


def test_the_datasets_and_errors_need_no_jax():
    found = imported_after("import nbcore as nb; nb.datasets.solubility; nb.errors.SubsetError")
    assert not found.intersection(HEAVY)


def test_listing_imports_no_sampler_and_no_learner():
    code = "import nbcore as nb; assert nb.list_backends(); assert nb.list_selectors()"
    assert not imported_after(code).intersection(
        ["numpyro", "blackjax", "sklearn", "flax", "arviz", "typer", "rich"]
    )


@pytest.mark.parametrize("name", nbcore.__all__)
def test_every_public_name_resolves(name):
    assert getattr(nbcore, name) is not None
    assert name in dir(nbcore)


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(AttributeError, match="Did you mean 'ProbabilisticSubset'"):
        nbcore.ProbablisticSubset  # noqa: B018


BLOCKER = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocker())
import nbcore as nb
from nbcore.errors import MissingExtraError
"""


@pytest.mark.parametrize(
    ("blocked", "code", "extra"),
    [
        (["numpyro"], "nb.get_backend('numpyro-nuts')", "numpyro"),
        (["sklearn"], "from nbcore.common.plugins import build; build('selector', 'clustering', {})"
                      ".score", "selectors"),
        (["flax"], "import nbcore_flax; nbcore_flax.FlaxMLP", "flax"),
        (["equinox"], "import nbcore_equinox; nbcore_equinox.EquinoxNetwork", "equinox"),
        (["haiku"], "import nbcore_haiku; nbcore_haiku.HaikuNetwork", "haiku"),
        (["flax"], "from nbcore.common import plugins; plugins.load('network', 'mlp')", "flax"),
    ],
)  # fmt: skip
def test_a_missing_extra_is_named(blocked, code, extra):
    text = BLOCKER.format(blocked=blocked) + (
        f"try:\n    {code}\nexcept MissingExtraError as error:\n    print(error)\n"
    )
    assert f"pip install 'nbcore[{extra}]'" in run(text)


def test_the_core_works_without_any_optional_library():
    optional = ["flax", "numpyro", "blackjax", "sklearn", "arviz", "typer", "rich", "matplotlib"]
    code = """
import jax.numpy as jnp
network = nb.as_network((lambda key, x: None, lambda p, x: x @ p["out"]["kernel"]))
target = nb.Target.build(network, {"out": {"kernel": jnp.zeros((1, 1))}},
    nb.ProbabilisticSubset.everything(), jnp.ones((2, 1)), jnp.zeros(2),
    likelihood=nb.Gaussian(noise=1.0))
print(sorted(nb.list_backends()), float(target.log_density(target.initial_position())))
"""
    names, value = run(BLOCKER.format(blocked=optional) + code).strip().rsplit(" ", 1)
    assert "numpyro-nuts" in names
    assert float(value) == pytest.approx(-2.7568156)
