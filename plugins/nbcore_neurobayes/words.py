"""Warnings and errors of nbcore in the words of NeuroBayes' arguments."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Generator
from contextlib import contextmanager

from nbcore.errors import MissingExtraError, NbcoreError
from nbcore_neurobayes.errors import also_built_in

_OTHER_WORDS = (
    (
        r"Add the first layer, subset \| nb\.ProbabilisticSubset\.layers\('(.+?)'\), or some of "
        r"its pairs",
        r"Add '\1' to probabilistic_layer_names, or some of its pairs to probabilistic_neurons",
    ),
    (
        r"Type: calibration='mixture', or 'holdout'\.",
        "Train a DeterministicNN on one part of the examples, and fit the others with its "
        "deterministic_weights.",
    ),
    (
        r"Several networks differ more: calibration='mixture'; so do more weights, or a wider "
        r"prior\.",
        "They differ more with more probabilistic layers, or a larger priors_sigma.",
    ),
    (
        r"Give validation_data=\(X, y\) that they have not seen\.",
        "Fit examples that they have not seen, or leave deterministic_weights out: fit then "
        "trains a network, and takes the noise from examples that it holds out.",
    ),
    (
        r"Give groups=, a label .*?; groups=np\.arange\(len\(X\)\) says that they are independent "
        r"measurements\.",
        "If they are copies of one measurement, average them first.",
    ),
    (r"Give validation_data=\(X, y\), or type bootstrap=True", "Type: bootstrap=True"),
    (r"Type: standardize_inputs=True", "Type: X = (X - X.mean(axis=0)) / X.std(axis=0)"),
    (r"deterministic_weights=det\b", "deterministic_weights=det.get_params()"),
    (r"selection needs", "select_neurons_config needs"),
    (r"swa=nb\.SWA\(.*?\)", "swa_config={'start_pct': 0.9}"),
)


def translated(message: str) -> str:
    """Return a message with the arguments of this package; other names of nbcore in full.

    Examples:
        >>> translated("Type: standardize_inputs=True")
        'Type: X = (X - X.mean(axis=0)) / X.std(axis=0)'
        >>> translated("See nb.HalfNormal(1.0).")
        'See nbcore.HalfNormal(1.0).'
    """
    for pattern, own in _OTHER_WORDS:
        message = re.sub(pattern, own, message, flags=re.S)
    own_names = vars(sys.modules["nbcore_neurobayes"])
    return re.sub(
        r"\bnb\.(\w+)", lambda m: m[0] if m[1] in own_names else f"nbcore.{m[1]}", message
    )


@contextmanager
def own_words() -> Generator[None]:
    """Translate what is warned of and raised inside."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield
        except MissingExtraError:
            raise
        except NbcoreError as error:
            raise also_built_in(error, translated(str(error))) from error
        finally:
            found = list(caught)
    for each in found:
        text = translated(str(each.message))
        warnings.warn_explicit(text, each.category, each.filename, each.lineno)
