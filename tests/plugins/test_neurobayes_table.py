"""Every public name of NeuroBayes 0.0.14 is here, or says what to use instead."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import neurobayes_api as api
import pytest

import nbcore_neurobayes as nb
from nbcore.errors import OptionError
from nbcore_neurobayes import elsewhere

FACTS = api.table()
AGAIN = "Run python tests/neurobayes_api.py"
GONE = [(home, name) for home, names in elsewhere.INSTEAD.items() for name in names]
OUT_OF_SCOPE = {"GP", "DKL", "VIGP", "VIDKL"}


@pytest.mark.parametrize(
    ("home", "name", "entry"),
    [*api.names(FACTS)],
    ids=lambda value: value if type(value) is str else "",
)
def test_a_name_is_here_with_its_arguments_or_says_what_to_use(
    home: str, name: str, entry: dict[str, Any]
) -> None:
    told = api.found(home, name, entry)
    assert told == api.SAME or told.startswith("instead: ")
    assert told == FACTS["ours"][f"{home}:{name}"], AGAIN


def test_the_page_lists_the_names() -> None:
    page = api.PAGE.read_text("utf-8")
    assert api.with_block(page, api.block(FACTS)) == page, AGAIN


@pytest.mark.parametrize("package", FACTS["exports"])
def test_a_package_has_the_names_that_it_has_in_neurobayes(package: str) -> None:
    here = sys.modules[f"nbcore_neurobayes.{package}".rstrip(".")]
    assert [name for name in FACTS["exports"][package] if not hasattr(here, name)] == []


@pytest.mark.parametrize(("home", "name"), GONE)
def test_a_name_that_is_not_offered_says_what_to_use_when_it_is_called(
    home: str, name: str
) -> None:
    assert name in FACTS["modules"][home]
    gone = getattr(importlib.import_module(f"nbcore_neurobayes.{home}"), name)
    with pytest.raises(OptionError, match=rf"^{name} of NeuroBayes is not offered.* Use "):
        gone(1, kernel="RBF")


def test_gaussian_processes_are_the_models_that_are_not_offered() -> None:
    models = {name for home, name in GONE if home.startswith("models.") and name.isupper()}
    assert models == OUT_OF_SCOPE
    with pytest.raises(NotImplementedError, match="gpax"):
        nb.GP(kernel=nb.kernels.MaternKernel)
    with pytest.raises(OptionError, match="num_probabilistic_layers=0"):
        nb.DKL(nb.FlaxMLP([4], 2), nb.kernels.RBFKernel)
    with pytest.raises(OptionError, match=r"numpy\.piecewise"):
        nb.genfunc.piecewise1()


def test_names_that_neurobayes_lacks_too_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="Did you mean 'PartialBNN'"):
        nb.PartialBN  # noqa: B018
    assert not hasattr(nb.utils, "no_such_name")
    det = nb.DeterministicNN(nb.FlaxMLP([4], 1), 2)
    with pytest.raises(OptionError, match=r"total_loss .*not offered"):
        det.total_loss({}, 1, 2, {})
    with pytest.raises(AttributeError, match=r"estimator\.trajectory"):
        det.params_history  # noqa: B018
    assert not hasattr(det, "no_such_name")
