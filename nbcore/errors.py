"""Every exception that nbcore raises on purpose, and the nearest-name suggestion they share."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable


class NbcoreError(Exception):
    """Base of every error that nbcore raises on purpose; catch it to catch them all."""


class UnknownLayerError(NbcoreError, KeyError):
    """A layer name or pattern matches nothing in the network."""

    def __str__(self) -> str:
        return str(self.args[0])  # KeyError would print the repr


class SubsetError(NbcoreError, ValueError):
    """A subset of weights is contradictory, empty, or cannot be resolved on this network."""


class PairError(SubsetError):
    """A pair of indices is out of range, duplicated, or has the wrong form for its layer."""


class NetworkError(NbcoreError, TypeError):
    """A model cannot be used as a network, or an example input is needed and missing."""


class DataError(NbcoreError, ValueError):
    """Values of X, y or a table cannot be used: not finite, malformed, out of range."""


class ShapeError(DataError):
    """Arrays whose shapes or lengths do not fit together."""


class TokenError(DataError):
    """Token sequences that the network cannot read: dtype, vocabulary or length."""


class LabelError(DataError):
    """Class labels outside the classes that the network knows."""


class OptionError(NbcoreError, ValueError):
    """An option has an unknown name or an impossible value, or options contradict each other."""


class TargetError(NbcoreError, ValueError):
    """The log density cannot be evaluated where it has to be, or lacks what a sampler needs."""


class SelectionError(NbcoreError, ValueError):
    """A selector lacks what it needs or cannot choose as many weights as were asked for."""


class TrainingError(NbcoreError, RuntimeError):
    """Training failed or cannot start: no data, diverged, not trained yet."""


class SamplingError(NbcoreError, RuntimeError):
    """Sampling failed: a chain cannot start, or produced a non-finite value."""


class PluginError(NbcoreError):
    """A plugin is broken, missing, or claims a name that is taken."""


class UnknownBackendError(PluginError, KeyError):
    """No backend has this name."""

    def __str__(self) -> str:
        return str(self.args[0])


class UnknownSelectorError(PluginError, KeyError):
    """No selector has this name."""

    def __str__(self) -> str:
        return str(self.args[0])


class MissingExtraError(NbcoreError, ImportError):
    """An optional library is needed and not installed."""

    def __init__(self, wanted: str, extra: str, module: str | None = None) -> None:
        """Name what was requested, and the extra of nbcore that installs it."""
        missing = f" (module {module!r} is missing)" if module else ""
        super().__init__(
            f"{wanted} needs the extra {extra!r}, which is not installed{missing}. "
            f"Type: pip install 'nbcore[{extra}]'"
        )


class ConfigError(NbcoreError, ValueError):
    """A configuration file has an unknown key or an impossible value."""


class RunFolderError(NbcoreError, OSError):
    """A run folder cannot be read, or already holds a run."""


class CheckpointError(RunFolderError):
    """A checkpoint belongs to another run, or holds something else than its state."""


def did_you_mean(name: str, known: Iterable[str], *, limit: int = 3) -> str:
    """Return `" Did you mean 'x'?"` for the nearest known names, or an empty string.

    Args:
        name: what was got.
        known: what is possible.
        limit: how many suggestions at most.

    Examples:
        >>> did_you_mean("FinalDense3", ["FinalDense1", "TokenEmbed"])
        " Did you mean 'FinalDense1'?"
        >>> did_you_mean("nuts", ["blackjax-nuts", "numpyro-nuts", "sgld"])
        " Did you mean 'blackjax-nuts' or 'numpyro-nuts'?"
    """
    folded = {str(k).casefold(): str(k) for k in known}
    given = name.casefold()
    close = [n for n in folded if given in re.split(r"[^a-z0-9]+", n) and given != n][:limit]
    if not close:
        close = difflib.get_close_matches(given, list(folded), n=limit, cutoff=0.61)
    if not close:
        return ""
    return f" Did you mean {' or '.join(repr(folded[c]) for c in close)}?"
