"""Models of NeuroBayes that are no partially Bayesian networks: what to use instead."""

from __future__ import annotations

from typing import Any, ClassVar

from nbcore.errors import OptionError


class _Elsewhere:
    """A name that says, when it is called, what to use."""

    instead: ClassVar[str]

    def __init__(self, *args: Any, **options: Any) -> None:
        del args, options
        raise OptionError(
            f"{type(self).__name__} is no partially Bayesian network, and nbcore has none. Use "
            f"{self.instead}."
        )


class GP(_Elsewhere):
    """Gaussian processes are not offered."""

    instead = "sklearn.gaussian_process.GaussianProcessRegressor, or the package gpax"


class VIGP(_Elsewhere):
    """Variational Gaussian processes are not offered."""

    instead = "the package gpax (viGP), or GPyTorch"


class DKL(_Elsewhere):
    """Deep kernel learning is not offered."""

    instead = (
        "PartialBNN with num_probabilistic_layers=0, a Bayesian last layer on learned features, or "
        "the package gpax (DKL)"
    )


class VIDKL(_Elsewhere):
    """Variational deep kernel learning is not offered."""

    instead = (
        "PartialBNN with num_probabilistic_layers=0, a Bayesian last layer on learned features, or "
        "the package gpax (viDKL)"
    )
