"""A stranger's plugin can do what ours can; a broken one is reported and harms nobody.

Each case runs in an interpreter of its own, with made-up distributions on the path.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import samplers

import nbcore as nb
from nbcore.errors import OptionError
from nbcore.extend import get_selector

IMPORTS = "import nbcore as nb\nfrom nbcore.common import plugins\n"
BACKEND = """
from nbcore.extend import Spec, hookimpl

@hookimpl
def nbcore_register_backends():
    return [Spec({name!r}, "{module}:Sampler", {extra!r})]
"""
SAMPLER = """
from dataclasses import dataclass

@dataclass(frozen=True)
class Sampler:
    name = "acme"
    capabilities = frozenset()
    step: float = 1.0

    def kernel(self, num_warmup): ...
"""
CLAIM = """
from nbcore.extend import hookimpl

@hookimpl
def nbcore_as_network(model, example):
    return {answer}
"""


@dataclass
class Loose:
    """A backend and a selector whose options may change."""

    name: ClassVar[str] = "loose"
    capabilities: ClassVar[frozenset[str]] = frozenset()
    needs: ClassVar[frozenset[str]] = frozenset()

    def kernel(self, num_warmup): ...

    def score(self, context, layer): ...


@dataclass(frozen=True)
class Hungry:
    """A selector that needs what there is not."""

    name: ClassVar[str] = "hungry"
    needs: ClassVar[frozenset[str]] = frozenset({"date"})

    def score(self, context, layer): ...


class World:
    """A folder of distributions, and a way to run code that sees them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(
        self, distribution: str, source: str, *, module: str = "", entry: str = "", points: str = ""
    ) -> None:
        """Write a module and the metadata of its distribution; `points` replaces entry points."""
        module = module or distribution.replace("-", "_")
        (self.folder / f"{module}.py").write_text(source)
        info = self.folder / f"{module}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1\n")
        points = points or f"{entry or module} = {module}"
        (info / "entry_points.txt").write_text(f"[nbcore.plugins]\n{points}\n")

    def __call__(self, code: str, **environment: str) -> str:
        """Run code in an interpreter of its own, and return what it prints."""
        path = os.pathsep.join([str(self.folder), *sys.path])
        done = subprocess.run(
            [sys.executable, "-c", f"{IMPORTS}{code}"],
            capture_output=True,
            text=True,
            timeout=120,
            env={**os.environ, "PYTHONPATH": path, **environment},
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture
def world(tmp_path):
    """A world of its own for a test."""
    return World(tmp_path)


def caught(code: str) -> str:
    """Code that prints the type and the message of what it raises."""
    return f"try:\n    {code}\nexcept Exception as e:\n    print(type(e).__name__, e)"


REPORT = """
for p in plugins.registry().plugins:
    if p.error:
        print(f"{p.name} of {p.distribution}: {p.error}")
print(*plugins.specs("backend"))
print(*plugins.specs("selector"))
"""


def test_a_strangers_backend_is_listed_and_loaded(world):
    world.add("acme-sampler", BACKEND.format(name="acme", module="acme_code", extra=""))
    world.add("acme-code", SAMPLER)
    out = world(
        "print('acme' in plugins.specs('backend'), plugins.build('backend','acme',{'step':2}).step)"
    )
    assert out.split() == ["True", "2"]


GOOD = BACKEND.format(name="x", module="m", extra="")


def returning(value: str) -> str:
    """Return a plugin whose hook for backends returns something else."""
    return GOOD.replace("[Spec('x', \"m:Sampler\", '')]", value)


BROKEN = [
    ("raise RuntimeError('boom')", "RuntimeError: boom"),
    ("import a_module_that_is_not_there", "ModuleNotFoundError: .*a_module_that_is_not_there"),
    ("syntax error", "SyntaxError"),
    ("x = 1", r"m\d+ implements no hook. Possible: nbcore_register_backends, "),
    (returning("1 / 0"), "nbcore_register_backends\\(\\) failed: ZeroDivisionError"),
    (
        GOOD.replace("backends", "bakends"),
        "nbcore_register_bakends is not a hook .*Did you mean 'nbcore_register_backends'",
    ),
    (
        GOOD.replace("@hookimpl", ""),
        "nbcore_register_backends has no @hookimpl, .*nbcore.extend import hookimpl",
    ),
    (
        GOOD.replace("@hookimpl", "").replace("backends", "samplers"),
        "nbcore_register_samplers has no @hookimpl, .*no hook of that name.*Possible",
    ),
    (
        CLAIM.format(answer=None).replace("model, example", "module"),
        "PluginValidationError.*nbcore_as_network.*'module'",
    ),
    (returning("None"), r"backends\(\) returned None. Return a list: \[Spec\("),
    (returning("'x'"), r"backends\(\) returned 'x'. Return a list: \[Spec\("),
    (returning("Spec('x', 'm:C')"), r"returned Spec\(name='x'.*Return a list"),
    (returning("['x']"), r"returned 'x' in place 0 of its list.*Type: Spec\("),
    (returning("[Spec('', 'm:C')]"), "a Spec with name=''"),
    (returning("[Spec('x', 'm.C')]"), "target='m.C'. Type .*target='my_plugin.samplers:"),
    (returning("[Spec('x', 'm:C'), Spec('x', 'm:D')]"), "two Specs named 'x'"),
    (
        returning("[Spec('x', 'm:C', capabilities=frozenset({'exat'}))]"),
        "'x' with capabilities=.*'exat'.*Did you mean 'exact'.*Possible: exact, minibatch",
    ),
    (
        returning("[Spec('x', 'm:C', capabilities={'exact'})]"),
        r"'x' with capabilities=\{'exact'\}, which is not a frozenset. Type: frozenset\(\{",
    ),
    (
        returning("[Spec('x', 'm:C', capabilities=frozenset({'X'}))]").replace(
            "backends", "selectors"
        ),
        "unknown needs: .*'X'.*Possible: data, gradients, trajectory, curvature",
    ),
]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """What is found beside all the broken plugins, which are m0, m1, ... of dist-0, dist-1, ..."""
    world = World(tmp_path_factory.mktemp("broken"))
    for number, (source, _) in enumerate(BROKEN):
        world.add(f"dist-{number}", source, module=f"m{number}")
    return world(REPORT).splitlines()


@pytest.mark.parametrize("number", range(len(BROKEN)), ids=lambda n: BROKEN[n][1])
def test_a_broken_plugin_is_reported(report, number):
    failures = [line for line in report if line.startswith(f"m{number} of dist-{number}: ")]
    assert len(failures) == 1
    assert re.search(BROKEN[number][1], failures[0]), failures


def test_broken_plugins_harm_nobody(report):
    *failures, backends, selectors = report
    assert len(failures) == len(BROKEN)
    assert {"numpyro-nuts", "sgld"} <= set(backends.split())
    assert "x" not in [*backends.split(), *selectors.split()]
    assert "magnitude" in selectors.split()


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
    assert "NBCORE_DISABLE_PLUGINS=two-dist" in out
    asked = "print(plugins.specs('backend')['twin'].name)"
    assert world(asked, NBCORE_DISABLE_PLUGINS="two-dist").strip() == "twin"


def test_a_module_under_two_names_and_a_name_of_two_modules_are_reported(world):
    source = BACKEND.format(name="one", module="m", extra="")
    world.add("one-dist", source, points="one = one_dist\ntwo = one_dist\none = os")
    *failures, backends, _ = world(REPORT).splitlines()
    again, twice = sorted(failures)
    assert "'one_dist' is registered as one (one-dist) already. Keep one entry point" in twice
    assert "'one-dist' has two entry points named 'one'. Rename one" in again
    assert "one" in backends.split()


def test_an_entry_point_that_names_no_module_is_reported(world):
    source = BACKEND.format(name="one", module="m", extra="")
    world.add("one-dist", source, points="one = one_dist:nbcore_register_backends")
    assert 'Name the module with the hooks: my_plugin = "my_plugin"' in world(REPORT)


def test_listing_reads_no_name_that_a_module_resolves_later(world):
    lazy = "def __dir__():\n    return [*globals(), 'Lazy']\n"
    lazy += "def __getattr__(name):\n    if name == 'Lazy':\n        raise SystemExit\n"
    lazy += "    raise AttributeError(name)\n"
    world.add("lazy-dist", BACKEND.format(name="lazy", module="m", extra="") + lazy)
    assert "lazy" in world("print(*nb.list_backends())").split()


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
        (
            "Sample = 1",
            "",
            "PluginError.*does not exist: 'Sampler'.*Did you mean 'Sample'",
        ),
        (
            None,
            "",
            "PluginError.*of plugin 'acme_sampler' of 'acme-sampler'.*names a module that does not "
            "exist: 'acme_code'.*Type: target='module:Class'",
        ),
    ],
)
def test_a_name_whose_code_fails(world, code_module, extra, says):
    world.add("acme-sampler", BACKEND.format(name="acme", module="acme_code", extra=extra))
    if code_module is not None:
        world.add("acme-code", code_module)
    out = world(caught("plugins.load('backend', 'acme')"))
    for part in says.split(".*"):
        assert part in out, out


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (('name = "acme"', 'name = "acne"'), "name is 'acne', and its Spec says 'acme'"),
        (('name = "acme"', ""), "Sampler.name is None. Type: name: ClassVar"),
        (
            ("frozenset()", "frozenset({'exat'})"),
            "unknown capabilities: ['exat'].*Did you mean 'exact'",
        ),
        (("frozenset()", "{'exact'}"), "{'exact'}, which is not a frozenset"),
        (
            ("frozenset()", "frozenset({'exact'})"),
            "Sampler.capabilities is ['exact'], and the capabilities of its Spec are []",
        ),
        (("(frozen=True)", ""), "not frozen. Type: @dataclass(frozen=True)"),
        (
            ("step: float = 1.0", "step: tuple = ([1],)"),
            "cannot be hashed.*'list'.*Keep a tuple",
        ),
    ],
)
def test_what_a_class_declares_wrongly_is_named(world, change, says):
    world.add("acme-sampler", BACKEND.format(name="acme", module="acme_code", extra=""))
    world.add("acme-code", SAMPLER.replace(*change))
    out = world(caught("nb.get_backend('acme')"))
    assert out.startswith("PluginError The backend 'acme' of plugin 'acme_sampler' of")
    for part in says.split(".*"):
        assert part in out, out


def test_capabilities_that_depend_on_options_need_not_be_those_of_the_spec():
    assert nb.get_backend("numpyro-hmc", num_leapfrog_steps=3).capabilities != (
        nb.list_backends()["numpyro-hmc"].capabilities
    )


@pytest.mark.parametrize(
    ("subject", "ask", "says"),
    [
        (samplers.Stay, nb.get_backend, r"got <class .*Type: Stay\(\)"),
        (Loose(), nb.get_backend, r"Loose keeps .*not frozen. Type: @dataclass\(frozen=True\)"),
        (Loose(), get_selector, r"Loose keeps .*not frozen. Type: @dataclass\(frozen=True\)"),
        (Hungry(), get_selector, r"Hungry.needs is .*'date'.*Did you mean 'data'"),
    ],
)
def test_an_instance_is_held_to_the_same(subject, ask, says):
    with pytest.raises(OptionError, match=says):
        ask(subject)


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
