"""Errors of nbcore that are also of the built-in kinds that NeuroBayes raises."""

from __future__ import annotations

from nbcore.errors import (
    NbcoreError,
    NetworkError,
    OptionError,
    TrainingError,
    UnknownLayerError,
    UnknownSelectorError,
)


class ArchitectureError(NetworkError, ValueError):
    """An architecture cannot be used as a network."""


class LayerError(UnknownLayerError, ValueError):
    """A layer name matches nothing in the network."""


class MethodError(UnknownSelectorError, ValueError):
    """No method of selection has this name."""


class NotFittedError(TrainingError, ValueError, AttributeError):
    """A model was not fitted yet; `hasattr(model, "mcmc")` is false then."""


class NotOfferedError(OptionError, NotImplementedError):
    """A name of NeuroBayes has another place here, which the message says."""


class NotKeptError(OptionError, AttributeError):
    """An attribute of NeuroBayes is not kept here."""


_OWN: dict[type[NbcoreError], type[NbcoreError]] = {
    NetworkError: ArchitectureError,
    UnknownLayerError: LayerError,
    UnknownSelectorError: MethodError,
}


def also_built_in(error: NbcoreError, message: str) -> NbcoreError:
    """Return an error of the kind of NeuroBayes, if there is one, with another message.

    Examples:
        >>> isinstance(also_built_in(NetworkError("Got 3."), "Got three."), ValueError)
        True
    """
    return _OWN.get(type(error), type(error))(message)
