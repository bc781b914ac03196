"""A stranger's plugin can do what ours can; a broken one is reported and harms nobody.

Each case runs in an interpreter of its own, with made-up distributions on the path.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

IMPORTS = "import nbcore as nb\nfrom nbcore.common import plugins\n"
BACKEND = """
from nbcore.extend import Spec, hookimpl

@hookimpl
def nbcore_register_backends():
    return [Spec({name!r}, "{module}:Sampler", {extra!r})]
"""
CLAIM = """
from nbcore.extend import hookimpl

@hookimpl
def nbcore_as_network(model, example):
    return {answer}
"""


@pytest.fixture
def world(tmp_path):
    """A folder of distributions, and a way to run code that sees them."""

    def add(distribution: str, source: str, *, module: str | None = None, entry: str | None = None):
        module = module or distribution.replace("-", "_")
        (tmp_path / f"{module}.py").write_text(source)
        info = tmp_path / f"{module}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1\n")
        entry = entry or module
        (info / "entry_points.txt").write_text(f"[nbcore.plugins]\n{entry} = {module}\n")

    def run(code: str, **environment: str) -> str:
        path = f"{tmp_path}{os.pathsep}{Path.cwd()}"
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                f"import nbcore as nb\nfrom nbcore.common import plugins\n{code}",
            ],
            capture_output=True,
            text=True,
            timeout=120,
            env={**os.environ, "PYTHONPATH": path, **environment},
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    run.add = add
    return run


def caught(code: str) -> str:
    """Code that prints the type and the message of what it raises."""
    return f"try:\n    {code}\nexcept Exception as e:\n    print(type(e).__name__, e)"


REPORT = """
print([(p.name, p.distribution, p.error) for p in plugins.registry().plugins if p.error])
print("numpyro-nuts" in plugins.specs("backend"))
"""


def test_a_strangers_backend_is_listed_and_loaded(world):
    world.add("acme-sampler", BACKEND.format(name="acme", module="acme_code", extra=""))
    world.add("acme-code", "class Sampler:\n    def __init__(self, step=1.0): self.step = step")
    out = world(
        "print('acme' in plugins.specs('backend'), plugins.build('backend','acme',{'step':2}).step)"
    )
    assert out.split() == ["True", "2"]


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("raise RuntimeError('boom')", "RuntimeError: boom"),
        ("import a_module_that_is_not_there", "ModuleNotFoundError"),
        ("syntax error", "SyntaxError"),
        (
            BACKEND.format(name="x", module="m", extra="").replace("[Spec", "[1 / 0, Spec"),
            "ZeroDiv",
        ),
        (BACKEND.format(name="x", module="m", extra="").replace("[Spec", "['x', Spec"), "Spec is"),
        (BACKEND.format(name="x", module="m", extra="").replace("backends", "samplers"), "nknown"),
    ],
    ids=["raises", "missing module", "syntax", "hook raises", "no spec", "unknown hook"],
)
def test_a_broken_plugin_is_reported_and_harms_nobody(world, source, error):
    world.add("rotten-dist", source, entry="rotten")
    failures, others = world(REPORT).splitlines()
    assert "('rotten', 'rotten-dist'" in failures
    assert error in failures
    assert others == "True"


def test_a_broken_plugin_is_named_when_its_backend_is_asked_for(world):
    world.add("rotten-dist", "raise RuntimeError('boom')", entry="rotten")
    out = world(caught("plugins.load('backend', 'rotten-nuts')"))
    assert out.startswith("UnknownBackendError")
    assert "rotten (RuntimeError: boom)" in out


def test_two_offers_of_one_name_are_an_error_that_names_both(world):
    world.add("one-dist", BACKEND.format(name="twin", module="m", extra=""), entry="one")
    world.add("two-dist", BACKEND.format(name="twin", module="m", extra=""), entry="two")
    for code in ("plugins.load('backend', 'twin')", "plugins.specs('backend')"):
        out = world(caught(code))
        assert out.startswith("PluginError")
        assert "'one' of 'one-dist' and 'two' of 'two-dist'" in out
        assert "NBCORE_DISABLE_PLUGINS=two" in out
    asked = "print(plugins.specs('backend')['twin'].name)"
    assert world(asked, NBCORE_DISABLE_PLUGINS="two").strip() == "twin"


def test_one_name_of_two_entry_points_with_one_name_is_seen_too(world):
    world.add("one-dist", BACKEND.format(name="twin", module="m", extra=""), entry="same")
    world.add("two-dist", BACKEND.format(name="twin", module="m", extra=""), entry="same")
    out = world(caught("plugins.specs('backend')"))
    assert "'same' of 'one-dist' and 'same' of 'two-dist'" in out


def test_plugins_can_be_switched_off(world):
    code = "print([p.name for p in plugins.registry().plugins])"
    every, some = world(code), world(code, NBCORE_DISABLE_PLUGINS="flax, numpyro")
    assert {"'flax'", "'numpyro'"} <= set(every.strip("[]\n").split(", "))
    assert set(every.strip("[]\n").split(", ")) - set(some.strip("[]\n").split(", ")) == {
        "'flax'",
        "'numpyro'",
    }


@pytest.mark.parametrize(
    ("code_module", "extra", "says"),
    [
        ("import not_installed", "acme", "MissingExtraError.*nbcore[acme].*"),
        (
            "import not_installed",
            "",
            "PluginError.*needs a module that is missing: 'not_installed'",
        ),
        ("import acme_co", "acme", "MissingExtraError"),  # its name begins like the module's own
        ("raise ValueError('bad day')", "", "PluginError.*ValueError: bad day"),
        ("Sample = 1", "", "PluginError.*AttributeError.*Sampler"),
        (None, "", "PluginError.*names a module that does not exist: 'acme_code'"),
    ],
)
def test_a_name_whose_code_fails(world, code_module, extra, says):
    world.add("acme-sampler", BACKEND.format(name="acme", module="acme_code", extra=extra))
    if code_module is not None:
        world.add("acme-code", code_module)
    out = world(caught("plugins.load('backend', 'acme')"))
    for part in says.split(".*"):
        assert part in out, out


MODEL = """
class Model:
    pass
"""


def test_a_model_that_two_plugins_claim_is_refused_naming_both(world):
    for name in ("one", "two"):
        claim = f"'network of {name}' if type(model).__name__ == 'Model' else None"
        world.add(f"{name}-dist", CLAIM.format(answer=claim), entry=name)
    out = world(MODEL + caught("nb.as_network(Model())"))
    assert out.startswith("NetworkError")
    assert "one (one-dist), two (two-dist)" in out
    chosen = world(MODEL + "print(nb.as_network(Model()))", NBCORE_DISABLE_PLUGINS="two")
    assert chosen.strip() == "network of one"


def test_a_claim_goes_before_what_the_model_looks_like(world):
    """A module of a framework may well have methods called init, apply and layers."""
    claim = "'claimed' if type(model).__name__ == 'Model' else None"
    world.add("one-dist", CLAIM.format(answer=claim))
    methods = "\n".join(f"    def {n}(self): pass" for n in ("init", "apply", "layers"))
    model = f"class Model:\n    padding = None\n{methods}\n"
    ask = model + "m = Model()\nprint(nb.as_network(m) is m, nb.as_network(m))"
    assert world(ask).strip() == "False claimed"
    assert world(ask, NBCORE_DISABLE_PLUGINS="one_dist").startswith("True")


def test_a_plugin_that_fails_on_a_model_harms_no_other(world):
    world.add("bad-dist", CLAIM.format(answer="model.weights"), entry="bad")
    world.add("good-dist", CLAIM.format(answer="'good' if hasattr(model, 'known') else None"))
    known = "class M: known = 1\nprint(nb.as_network(M()))\n"
    first, _, out = world(known + caught("nb.as_network(object())")).partition("\n")
    assert first == "good"
    assert out.startswith("PluginError")
    assert "bad (bad-dist) failed on object: AttributeError" in out
    assert "NBCORE_DISABLE_PLUGINS=bad" in out


def test_unknown_names_and_options_suggest_the_nearest(world):
    out = world(
        caught("plugins.load('backend', 'numpyro-nut')")
        + "\n"
        + caught("plugins.build('selector', 'clusterin', {})")
        + "\n"
        + caught("plugins.build('backend', 'numpyro-nuts', {'target_acceptance': 0.9})")
        + "\n"
        + caught("nb.as_network(3.0)")
    )
    backend, selector, option, model = out.splitlines()
    assert "Did you mean 'numpyro-nuts'" in backend
    assert backend.startswith("UnknownBackendError")
    assert "Did you mean 'clustering'" in selector
    assert selector.startswith("UnknownSelectorError")
    assert "Did you mean 'target_acceptance_rate'" in option
    assert option.startswith("OptionError")
    assert model.startswith("NetworkError")
    assert "nb.Network.from_functions" in model
