"""Metrics, priors and diagnostics, by the modules of NeuroBayes.

After `import nbcore_neurobayes as nb`, `nb.utils` is the module `nbcore_neurobayes.utils.utils`, as
in NeuroBayes.
"""

from __future__ import annotations

from nbcore_neurobayes.elsewhere import names_of
from nbcore_neurobayes.utils.diagnostics import *  # noqa: F403
from nbcore_neurobayes.utils.priors import *  # noqa: F403
from nbcore_neurobayes.utils.utils import *  # noqa: F403

__getattr__ = names_of(__name__, "utils.genfunc", "utils.priors", "utils.utils")
